"""The catalogue of knobs. Ids are stable API: used on the command line, in plans, in reports."""

import re

from jitterprof.system.knob import Access, Knob, Lifetime


def sysctl_path(name: str) -> str:
    """/proc/sys file of a sysctl: "vm.swappiness" is /proc/sys/vm/swappiness."""
    return "/proc/sys/" + name.replace(".", "/")


def _sysctl(name: str, title: str) -> Knob:
    return Knob(name, title, Lifetime.KERNEL, Access.FILE, sysctl_path(name))


_CPU = "/sys/devices/system/cpu"
_T, _K, _R, _B = Lifetime.THREAD, Lifetime.KERNEL, Lifetime.RESTART, Lifetime.BOOT

#: Every knob, grouped as in docs/reference/knobs.md.
KNOBS: tuple[Knob, ...] = (
    Knob("slice", "time slice of a fair-class thread", _T, Access.THREAD, "sched_setattr(sched_runtime)"),
    Knob("nice", "weight of a fair-class thread", _T, Access.THREAD, "setpriority"),
    Knob("policy", "OTHER, BATCH, IDLE, FIFO[:prio], RR[:prio]", _T, Access.THREAD, "sched_setscheduler"),
    Knob("affinity", "CPUs a thread may use", _T, Access.THREAD, "sched_setaffinity"),
    Knob("timerslack", "how late a thread's timers may fire", _T, Access.THREAD, "prctl(PR_SET_TIMERSLACK)"),
    Knob("mlock", "keep the process's memory resident", _T, Access.THREAD, "mlockall"),
    Knob("neighbour.policy:", "demote a competitor (pid) to BATCH or IDLE", _T, Access.THREAD, "sched_setscheduler"),
    Knob("runtime.threads", "intra-op threads of the workload", _R, Access.RUNTIME),
    Knob("runtime.spinning", "busy-wait of pool threads between operators", _R, Access.RUNTIME),
    Knob("runtime.omp_wait_policy", "OpenMP threads wait active or passive", _R, Access.RUNTIME),
    Knob("runtime.gc", "Python garbage collector: frozen or on", _R, Access.RUNTIME),
    Knob("cpu.weight", "CPU share of the cgroup", _K, Access.CGROUP, "cpu.weight|cpu.shares|cpu"),
    Knob("cpu.idle", "cgroup runs only when others do not", _K, Access.CGROUP, "cpu.idle|cpu.idle|cpu"),
    Knob("cpu.max", "CPU quota of the cgroup", _K, Access.CGROUP, "cpu.max|cpu.cfs_quota_us|cpu"),
    Knob("cpu.max.burst", "unused quota that may be saved up", _K, Access.CGROUP, "cpu.max.burst|cpu.cfs_burst_us|cpu"),
    Knob("cpuset.cpus", "CPUs of the cgroup", _K, Access.CGROUP, "cpuset.cpus|cpuset.cpus|cpuset"),
    Knob(
        "cpuset.cpus.partition",
        "CPUs without load balancing",
        _K,
        Access.CGROUP,
        "cpuset.cpus.partition|cpuset.sched_load_balance|cpuset",
    ),
    Knob("memory.low", "memory kept from reclaim", _K, Access.CGROUP, "memory.low|memory.soft_limit_in_bytes|memory"),
    Knob("sched.base_slice_ns", "default time slice", _K, Access.DEBUGFS, "/sys/kernel/debug/sched/base_slice_ns"),
    Knob("sched.features", "scheduler features (HRTICK ...)", _K, Access.DEBUGFS, "/sys/kernel/debug/sched/features"),
    Knob("sched.preempt", "preemption mode", _K, Access.DEBUGFS, "/sys/kernel/debug/sched/preempt"),
    Knob(
        "sched.migration_cost_ns",
        "how long a task counts as cache-hot",
        _K,
        Access.DEBUGFS,
        "/sys/kernel/debug/sched/migration_cost_ns",
    ),
    _sysctl("kernel.sched_autogroup_enabled", "one scheduling group per session"),
    _sysctl("kernel.sched_rt_runtime_us", "real-time share per period"),
    _sysctl("kernel.sched_cfs_bandwidth_slice_us", "granularity of quota hand-out"),
    _sysctl("kernel.timer_migration", "move timers off idle CPUs"),
    _sysctl("kernel.watchdog", "soft and hard lockup detectors"),
    _sysctl("kernel.nmi_watchdog", "hard lockup detector"),
    _sysctl("kernel.numa_balancing", "migrate pages towards their users"),
    _sysctl("kernel.printk", "console log level"),
    Knob("irq.affinity:", "CPUs of a device interrupt, by its name", _K, Access.IRQ, "/proc/irq/*/smp_affinity_list"),
    Knob("net.rps_cpus:", "CPUs for received packets", _K, Access.MANY, "/sys/class/net/*/queues/rx-*/rps_cpus"),
    Knob("net.threaded:", "network polling in threads", _K, Access.MANY, "/sys/class/net/*/threaded"),
    _sysctl("net.core.busy_poll", "busy-wait for packets in poll()"),
    _sysctl("net.core.busy_read", "busy-wait for packets in read()"),
    Knob("workqueue.cpumask", "CPUs of unbound kworkers", _K, Access.FILE, "/sys/devices/virtual/workqueue/cpumask"),
    Knob("cpufreq.governor", "frequency governor", _K, Access.MANY, f"{_CPU}/cpu[0-9]*/cpufreq/scaling_governor"),
    Knob(
        "cpufreq.epp",
        "energy performance preference",
        _K,
        Access.MANY,
        f"{_CPU}/cpu[0-9]*/cpufreq/energy_performance_preference",
    ),
    Knob("cpufreq.boost", "turbo frequencies", _K, Access.FILE, f"{_CPU}/cpufreq/boost"),
    Knob("cpufreq.no_turbo", "turbo off (intel_pstate)", _K, Access.FILE, f"{_CPU}/intel_pstate/no_turbo"),
    Knob(
        "cpu_dma_latency",
        "deepest idle state allowed, while held open",
        Lifetime.FD,
        Access.DEVICE,
        "/dev/cpu_dma_latency",
    ),
    Knob(
        "cpuidle.disable:",
        "switch single idle states off",
        _K,
        Access.MANY,
        f"{_CPU}/cpu[0-9]*/cpuidle/state[0-9]*/disable",
    ),
    Knob("cpuidle.governor", "idle governor", _K, Access.FILE, f"{_CPU}/cpuidle/current_governor"),
    Knob(
        "cpuidle.guest_halt_poll_ns",
        "busy-wait of a guest before it halts",
        _K,
        Access.FILE,
        "/sys/module/haltpoll/parameters/guest_halt_poll_ns",
    ),
    Knob("thp.enabled", "transparent huge pages", _K, Access.CHOICE, "/sys/kernel/mm/transparent_hugepage/enabled"),
    Knob(
        "thp.defrag", "compaction in huge page faults", _K, Access.CHOICE, "/sys/kernel/mm/transparent_hugepage/defrag"
    ),
    Knob("ksm.run", "merging of equal pages", _K, Access.FILE, "/sys/kernel/mm/ksm/run"),
    _sysctl("vm.compaction_proactiveness", "background compaction"),
    _sysctl("vm.swappiness", "preference for swapping"),
    _sysctl("vm.min_free_kbytes", "memory kept free"),
    _sysctl("vm.watermark_scale_factor", "when background reclaim starts"),
    _sysctl("vm.zone_reclaim_mode", "reclaim locally before going to another node"),
    _sysctl("vm.dirty_ratio", "dirty memory at which writers are throttled"),
    _sysctl("vm.dirty_background_ratio", "dirty memory at which writeback starts"),
    _sysctl("vm.stat_interval", "how often memory statistics are folded"),
    Knob("block.scheduler:", "disk scheduler", _K, Access.MANY, "/sys/block/*/queue/scheduler"),
    Knob("kernel", "kernel image: HZ and build options", _B, Access.BOOT, "boot loader or VM arm"),
    Knob(
        "cmdline", "isolcpus=, nohz_full=, rcu_nocbs=, preempt=, iommu= ...", _B, Access.BOOT, "boot loader or VM arm"
    ),
)


def find_knob(knob_id: str) -> Knob | None:
    """The knob of an id, with or without its target; any name that looks like a sysctl is one."""
    base, colon, _target = knob_id.partition(":")
    for knob in KNOBS:
        if knob.id == knob_id or (colon and knob.id == base + ":"):
            return knob
    if re.fullmatch(r"(vm|kernel|net|fs|dev)(\.[\w*-]+)+", knob_id):
        return Knob(knob_id, "kernel parameter", Lifetime.KERNEL, Access.FILE, sysctl_path(knob_id))
    return None
