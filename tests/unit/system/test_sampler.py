import os
import threading
import time

import numpy as np
import pytest

from jitterprof.errors import UnsupportedError
from jitterprof.system import sampler
from jitterprof.system.counters import snapshot
from jitterprof.system.files import Host
from jitterprof.system.sampler import SAMPLE_DTYPE, Sampler, read_samples

has_schedstat = Host().exists("/proc/self/schedstat")
live = pytest.mark.skipif(not has_schedstat, reason="the kernel has no schedstat")


@live
def test_samples_agree_with_the_counters(tmp_path):
    """Between two snapshots of the same counters, so every sampled value lies between theirs."""
    host, pid = Host(), os.getpid()
    before = snapshot(host, (pid,))
    with Sampler(host, (pid,), tmp_path / "s") as probe:
        rows = np.frombuffer(probe.sample(), dtype=SAMPLE_DTYPE)
    after = snapshot(host, (pid,))
    threads = rows[rows["kind"] == sampler.THREAD]
    assert os.getpid() in threads["key"]
    for row in threads:
        tid = int(row["key"])
        if tid in before.threads and tid in after.threads:
            assert before.threads[tid].run_delay_ns <= row["b"] <= after.threads[tid].run_delay_ns
            assert before.threads[tid].cpu_ns <= row["a"] <= after.threads[tid].cpu_ns
    cpus = rows[rows["kind"] == sampler.CPU]
    assert tuple(cpus["key"]) == before.cpus
    for position, row in enumerate(cpus):
        low, high = (
            sum(counts[position] for name, counts in reading.interrupts.items() if name.isdigit())
            for reading in (before, after)
        )
        assert low <= row["a"] <= high
        low, high = (sum(counts[position] for counts in reading.softirqs.values()) for reading in (before, after))
        assert low <= row["b"] <= high
        low, high = (
            sum(c[position] for n, c in reading.interrupts.items() if not n.isdigit() and len(c) == len(cpus))
            for reading in (before, after)
        )
        assert low <= row["d"] <= high
    assert before.taken_ns < rows["ts_ns"].min() <= rows["ts_ns"].max() < after.taken_ns


@live
def test_stream_is_the_samples_in_order_and_a_torn_row_is_dropped(tmp_path):
    path = tmp_path / "s"
    with Sampler(Host(), (os.getpid(),), path) as probe:
        taken = [np.frombuffer(probe.sample(), dtype=SAMPLE_DTYPE) for _ in range(3)]
        assert probe.samples == 3 and probe.cpu_ns > 0
    with path.open("ab") as file:
        file.write(b"torn")
    rows = read_samples(path)
    assert rows.dtype == SAMPLE_DTYPE
    assert len(rows) == sum(len(rows) for rows in taken)
    assert (rows[: len(taken[0])] == taken[0]).all()


@live
def test_run_stops_when_told_and_counts_samples(tmp_path):
    stop = threading.Event()
    with Sampler(Host(), (os.getpid(),), tmp_path / "s") as probe:
        thread = threading.Thread(target=probe.run, args=(stop, 1_000_000))
        thread.start()
        deadline = time.monotonic() + 30
        while probe.samples < 5 and time.monotonic() < deadline:
            thread.join(0.001)
        stop.set()
        thread.join()
        assert probe.samples >= 6
    starts = read_samples(tmp_path / "s")
    own = starts[(starts["kind"] == sampler.THREAD) & (starts["key"] == os.getpid())]
    assert (own["ts_ns"][1:] > own["ts_ns"][:-1]).all()


@live
def test_run_ends_with_its_target(tmp_path):
    child = os.fork()
    if child == 0:
        signal_read, _ = os.pipe()
        os.read(signal_read, 1)
        os._exit(0)
    with Sampler(Host(), (child,), tmp_path / "s") as probe:
        assert child in np.frombuffer(probe.sample(), dtype=SAMPLE_DTYPE)["key"]
        os.kill(child, 9)
        os.waitpid(child, 0)
        probe.run(threading.Event(), 1_000_000)
        assert child not in np.frombuffer(probe.sample(), dtype=SAMPLE_DTYPE)["key"]


def test_target_that_is_not_there(tmp_path, make_host):
    with pytest.raises(UnsupportedError, match="the process has ended"):
        Sampler(make_host({"/proc/stat": "cpu 1\n"}), (4242,), tmp_path / "s")


@live
def test_quota_rows_of_the_target(make_host, tmp_path):
    host = make_host(
        {
            "/proc/7/schedstat": "1 2 3\n",
            "/proc/7/task/7/schedstat": "10 20 30\n",
            "/proc/7/cgroup": "0::/g\n",
            "/proc/self/mountinfo": "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n",
            "/cg/cgroup.controllers": "cpu\n",
            "/cg/g/cpu.stat": "usage_usec 5\nnr_periods 8\nnr_throttled 2\nthrottled_usec 9\n",
            "/cg/cpu.stat": "usage_usec 5\n",
            "/proc/interrupts": "     CPU0  CPU2\n 36:  1  2  x  y\nLOC: 30 40 t\nERR: 9\n",
            "/proc/softirqs": "     CPU0  CPU2\n TIMER: 5 6\n RCU: 1 1\n",
            "/proc/stat": "cpu 0\ncpu0 1 1 1 1 1 1 1 3 0 0\ncpu2 1 1 1 1 1 1 1 4 0 0\nintr 3\n",
        }
    )
    with Sampler(host, (7,), tmp_path / "s") as probe:
        rows = np.frombuffer(probe.sample(), dtype=SAMPLE_DTYPE)
    assert probe.quota_paths == ("/cg/g",)
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    found = [tuple(int(value) for value in list(row)[1:]) for row in rows]
    assert found == [
        (7, sampler.THREAD, 10, 20, 30, 0),
        (0, sampler.QUOTA, 9000, 2, 8, 0),
        (0, sampler.CPU, 1, 6, 3 * tick, 30),
        (2, sampler.CPU, 2, 7, 4 * tick, 40),
    ]
