"""Which causes a host can show: from which probe, or from which fallback."""

from collections.abc import Iterable
from dataclasses import dataclass

from jitterprof.model.cause import Cause
from jitterprof.model.run import ProbeStatus
from jitterprof.trace.catalog import PROBES

#: What a cause needs of its probe, as it appears in a partial probe's reason ("without nmi_handler, ...").
_PARTS: dict[Cause, tuple[str, ...]] = {
    Cause.THROTTLED: ("throttled", "throttle_count"),
    Cause.STEAL: ("prev_steal_time_rq", "cfs_rq.rq"),
    Cause.STOPPED: ("__state",),
    Cause.BLOCK_IO: ("in_iowait", "bi_iter", "bi_bdev", "bd_dev"),
    Cause.HARDIRQ: ("irq_handler",),
    Cause.SOFTIRQ: ("softirq",),
    Cause.TIMER: ("local_timer",),
    Cause.IPI: ("reschedule", "call_function", "irq_work", "ipi_entry", "ipi_exit"),
    Cause.NMI: ("nmi_handler",),
    Cause.PAGE_FAULT: ("page_fault",),
    Cause.RECLAIM: ("mm_vmscan", "mm_compaction"),
}
#: What /proc and /sys show without BPF, and how well.
_FALLBACK: dict[Cause, str] = {
    Cause.PREEMPTED: "run-queue delay of the thread, one sum with wakeup (schedstat)",
    Cause.WAKEUP: "run-queue delay of the thread, one sum with preempted (schedstat)",
    Cause.THROTTLED: "throttled time of the cgroup per window (cpu.stat)",
    Cause.PAGE_FAULT: "counts per request, no time (getrusage)",
    Cause.HARDIRQ: "counts per CPU and window, no time (/proc/interrupts)",
    Cause.SOFTIRQ: "counts per CPU and window, no time (/proc/softirqs)",
    Cause.TIMER: "counts per CPU and window, no time (/proc/interrupts)",
    Cause.IPI: "counts per CPU and window, no time (/proc/interrupts)",
    Cause.STEAL: "per CPU and window in steps of 10 ms (/proc/stat)",
}
#: Causes that need no probe.
_OWN: dict[Cause, str] = {
    Cause.RUN: "what no other cause took",
    Cause.GC: "gc.callbacks of the workload process",
    Cause.QUEUE: "the requests before it on the same worker",
    Cause.DISPATCH: "the load generator's own clock",
}
#: Causes that a probe of the catalogue shows: what the verdict counts.
KERNEL_CAUSES: tuple[Cause, ...] = tuple(sorted({cause for probe in PROBES for cause in probe.causes}))


@dataclass(frozen=True, slots=True)
class CauseCoverage:
    """`state`: visible, partly or missing. `source`: the probe or file. `reason`: what is missing, "" if nothing."""

    cause: Cause
    state: str
    source: str
    reason: str = ""


def cause_coverage(statuses: Iterable[ProbeStatus]) -> tuple[CauseCoverage, ...]:
    """One row per cause but `unknown`, in the order of their ids, given how the probes fared."""
    by_name = {status.name: status for status in statuses}
    return tuple(_cover(cause, by_name) for cause in Cause if cause is not Cause.UNKNOWN)


def _cover(cause: Cause, statuses: dict[str, ProbeStatus]) -> CauseCoverage:
    if cause in _OWN:
        return CauseCoverage(cause, "visible", _OWN[cause])
    names = [probe.name for probe in PROBES if cause in probe.causes]
    if not names:
        return CauseCoverage(cause, "missing", "", "not recorded by this version; such time is run, sleep or unknown")
    working = [statuses[name] for name in names if name in statuses and statuses[name].state in ("on", "partial")]
    if not working:
        reason = next((statuses[name].reason for name in names if name in statuses), "no probe")
        if cause in _FALLBACK:
            return CauseCoverage(cause, "partly", _FALLBACK[cause], reason)
        return CauseCoverage(cause, "missing", f"needs probe {names[0]}", reason)
    lacking = [
        status.reason
        for status in working
        if status.state == "partial" and any(part in status.reason for part in _PARTS.get(cause, ()))
    ]
    source = ", ".join(f"{status.name} probe" for status in working)
    return CauseCoverage(cause, "partly" if lacking else "visible", source, "; ".join(lacking))
