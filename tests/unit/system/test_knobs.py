import os

import pytest

from jitterprof.system.files import Host
from jitterprof.system.knob import Access, Lifetime
from jitterprof.system.knobs import KNOBS, find_knob, sysctl_path

from .conftest import needs_root


def knob(knob_id):
    found = find_knob(knob_id)
    assert found is not None
    return found


def test_ids_are_unique_and_described():
    ids = [knob.id for knob in KNOBS]
    assert len(ids) == len(set(ids))
    for entry in KNOBS:
        assert entry.title
        assert entry.where or entry.access is Access.RUNTIME


def test_find_by_target_and_any_sysctl():
    assert knob("irq.affinity:virtio1-req.0").id == "irq.affinity:"
    assert knob("vm.swappiness").where == "/proc/sys/vm/swappiness"
    assert knob("net.ipv4.tcp_autocorking").where == "/proc/sys/net/ipv4/tcp_autocorking"
    assert find_knob("nonsense") is None and find_knob("vm") is None
    assert sysctl_path("kernel.a.b") == "/proc/sys/kernel/a/b"


@pytest.mark.parametrize(
    "knob_id",
    ["slice", "nice", "policy", "affinity", "timerslack", "mlock", "runtime.threads", "runtime.spinning", "cpu.max",
     "cpu.max.burst", "cpu.weight", "cpu.idle", "kernel", "cmdline", "cpu_dma_latency"],
)  # fmt: skip
def test_ids_of_the_issue(knob_id):
    assert knob(knob_id).id == knob_id


def test_read_and_available_from_files(make_host):
    host = make_host(
        {
            "/proc/sys/vm/swappiness": "60\n",
            "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
            "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
            "/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
        }
    )
    assert knob("vm.swappiness").read(host) == "60"
    assert knob("vm.swappiness").available(host) == (True, "")
    assert knob("thp.enabled").read(host) == "madvise"
    assert knob("cpufreq.governor").read(host) == "performance, powersave"
    available, reason = knob("cpufreq.boost").available(host)
    assert not available and "not on this host" in reason
    assert knob("cpufreq.boost").read(host) is None


def test_read_only_file_is_refused_even_to_root(make_host, tmp_path):
    host = make_host({"/proc/sys/kernel/nmi_watchdog": "0\n"})
    (tmp_path / "proc/sys/kernel/nmi_watchdog").chmod(0o444)
    assert knob("kernel.nmi_watchdog").available(host) == (False, "read-only in this kernel")


@pytest.mark.parametrize("mode", ["integrity", "confidentiality"])
def test_lockdown_refuses_debugfs_and_says_so(make_host, mode):
    host = make_host(
        {
            "/sys/kernel/security/lockdown": f"none [{mode}]",
            "/sys/kernel/debug/sched/base_slice_ns": "1400000\n",
            "/sys/kernel/debug/sched/debug": "",
        }
    )
    available, reason = knob("sched.base_slice_ns").available(host)
    assert not available and f"lockdown ({mode})" in reason


def test_debugfs_without_lockdown(make_host):
    host = make_host(
        {
            "/sys/kernel/security/lockdown": "[none] integrity confidentiality",
            "/sys/kernel/debug/sched/preempt": "none voluntary (full) lazy\n",
        }
    )
    assert knob("sched.preempt").available(host) == (True, "")
    assert knob("sched.preempt").read(host) == "full"
    assert knob("sched.features").available(host)[0] is False


def test_debugfs_not_mounted(guest):
    available, reason = knob("sched.features").available(guest)
    assert not available and "mount -t debugfs" in reason


def test_cgroup_file_by_version(make_host, guest):
    assert knob("cpu.weight").read(guest) == "1024"
    assert knob("cpu.max").read(guest) == "-1"
    v2 = make_host(
        {
            "/proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            "/proc/self/cgroup": "0::/job\n",
            "/sys/fs/cgroup/cgroup.controllers": "cpu\n",
            "/sys/fs/cgroup/job/cpu.max": "max 100000\n",
        }
    )
    assert knob("cpu.max").read(v2) == "max 100000"
    assert knob("cpu.max").available(v2) == (True, "")
    assert knob("cpuset.cpus").available(v2) == (
        False,
        "the cgroup controller 'cpuset' is not delegated here",
    )


def test_every_knob_answers_on_every_host(guest, tmp_path):
    for host in (Host(), guest, Host(tmp_path)):
        for entry in KNOBS:
            available, reason = entry.available(host)
            assert available == (reason == ""), entry.id
            value = entry.read(host)
            assert value is None or isinstance(value, str)


def test_own_thread_is_read_live():
    assert knob("affinity").read(Host()) is not None
    assert knob("nice").read(Host()) == str(os.getpriority(os.PRIO_PROCESS, 0))
    assert knob("policy").read(Host()) in ("OTHER", "BATCH", "IDLE")
    assert knob("slice").lifetime is Lifetime.THREAD


@needs_root
def test_without_root_host_knobs_say_so():
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        right = knob("vm.swappiness").available(Host()) == (False, "needs root")
        os._exit(0 if right and knob("affinity").available(Host())[0] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
