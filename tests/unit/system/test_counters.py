import json
import os
import threading
import time

from jitterprof.system.counters import difference, parse_cpu_stat, snapshot
from jitterprof.system.files import Host

STATUS = "Name:\tworker\nvoluntary_ctxt_switches:\t{v}\nnonvoluntary_ctxt_switches:\t{i}\n"


def state(cpu_ns, delay_ns, voluntary, irq, steal, throttled_us):
    return {
        "/proc/7/task/8/schedstat": f"{cpu_ns} {delay_ns} 5\n",
        "/proc/7/task/8/status": STATUS.format(v=voluntary, i=2),
        "/proc/7/cgroup": "0::/g\n",
        "/proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "/sys/fs/cgroup/cgroup.controllers": "cpu\n",
        "/sys/fs/cgroup/g/cpu.stat": f"usage_usec 1\nnr_periods 9\nnr_throttled 3\nthrottled_usec {throttled_us}\n",
        "/proc/interrupts": f"        CPU0  CPU1\n 36:  {irq}  7  PCI-MSI  1-edge  eth0\nLOC:  1  2  Local\nERR:  0\n",
        "/proc/softirqs": "      CPU0  CPU1\n  NET_RX:  4  5\n",
        "/proc/stat": f"cpu  1 1 1 1 1 1 1 0 0 0\ncpu0 1 1 1 1 1 1 1 {steal} 0 0\ncpu1 1 1 1 1 1 1 1 0 0 0\nintr 5\n",
    }


def test_difference_of_two_snapshots(make_host):
    before = snapshot(make_host(state(100, 50, 1, 10, 3, 1000)), (7,))
    after = snapshot(make_host(state(400, 150, 4, 25, 5, 3500)), (7,))
    change = difference(before, after)
    thread = change.threads[8]
    assert (thread.comm, thread.cpu_ns, thread.run_delay_ns) == ("worker", 300, 100)
    assert (thread.voluntary, thread.involuntary) == (3, 0)
    assert change.interrupts["36"] == (15, 0)
    assert change.interrupts["ERR"] == (0,)
    assert change.softirqs["NET_RX"] == (0, 0)
    assert change.steal_ns == (2 * 1_000_000_000 // os.sysconf("SC_CLK_TCK"), 0)
    assert change.throttling["/sys/fs/cgroup/g"].throttled_ns == 2_500_000
    assert change.elapsed_ns == after.taken_ns - before.taken_ns >= 0
    assert json.loads(json.dumps(change.to_json()))["threads"]["8"]["cpu_ns"] == 300


def test_thread_that_ends_and_one_that_starts(make_host, tmp_path):
    before = snapshot(make_host(state(100, 50, 1, 10, 3, 1000)), (7,))
    for name in ("schedstat", "status"):
        (tmp_path / f"proc/7/task/8/{name}").unlink()
    (tmp_path / "proc/7/task/8").rmdir()
    host = make_host({"/proc/7/task/9/schedstat": "11 22 3\n", "/proc/7/task/9/status": STATUS.format(v=1, i=1)})
    change = difference(before, snapshot(host, (7,)))
    assert change.ended == (8,)
    assert change.threads[9].run_delay_ns == 22


def test_processes_that_are_not_there(guest):
    reading = snapshot(guest, (424242,))
    assert reading.threads == {} and reading.throttling == {}
    assert set(reading.interrupts) >= {"36", "LOC", "RES", "CAL", "TLB", "NMI"}


def test_hotplug_makes_columns_incomparable(make_host):
    before = snapshot(make_host(state(1, 1, 1, 1, 1, 1)), (7,))
    after = snapshot(make_host(state(1, 1, 1, 1, 1, 1) | {"/proc/stat": "cpu 1\ncpu0 1 1 1 1 1 1 1 1 0 0\n"}), (7,))
    change = difference(before, after)
    assert change.interrupts == {} and change.steal_ns == ()


def test_cpu_stat_of_both_versions():
    v1 = parse_cpu_stat(b"nr_periods 4\nnr_throttled 2\nthrottled_time 77\n")
    v2 = parse_cpu_stat(b"usage_usec 9\nnr_periods 4\nnr_throttled 2\nthrottled_usec 77\nnr_bursts 0\n")
    assert v1 is not None and v1.throttled_ns == 77
    assert v2 is not None and v2.throttled_ns == 77_000
    assert parse_cpu_stat(b"usage_usec 9\n") is None and parse_cpu_stat(b"") is None


def test_live_counts_a_thread_that_works():
    """The kernel's figure for CPU time cannot be less than what the thread's own clock says it used in between."""
    host, used, go, done = Host(), [], threading.Event(), threading.Event()

    def work():
        go.wait()
        start = time.thread_time_ns()
        while time.thread_time_ns() - start < 20_000_000:
            pass
        used.append(time.thread_time_ns() - start)
        done.set()
        hold.wait()

    hold = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    before = snapshot(host, (os.getpid(),))
    go.set()
    done.wait()
    # Asleep again, so the kernel has accounted for all of it.
    while host.read_text(f"/proc/self/task/{thread.native_id}/stat").split(") ")[1][0] != "S":
        pass
    change = difference(before, snapshot(host, (os.getpid(),)))
    hold.set()
    thread.join()
    assert change.threads[thread.native_id].cpu_ns >= used[0]
    assert change.threads[thread.native_id].voluntary >= 1
