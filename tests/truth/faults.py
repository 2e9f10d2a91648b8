"""The faults of the accuracy campaign: what is injected, what the blame must be, and how long it really took."""

import os
from dataclasses import dataclass, field
from enum import Enum

from injectors.disk import interrupted_cpus

CPUS = sorted(os.sched_getaffinity(0))
#: Milliseconds; a storm lasts that long, an action of the victim takes that long.
DOSES_MS = (0.5, 2.0, 8.0)


class Truth(Enum):
    """Where the true time of a pulse comes from."""

    BURNT = "cpu_ns of the log"
    WAITED = "span of the log minus the victim's CPU time in it"
    SPAN = "span of the log"
    DOSE = "dose_ns of the log: what somebody slept"
    THROTTLED = "throttled_ns of the log"
    EXCESS = "the requests' own excess"


@dataclass(frozen=True)
class Workload:
    """A victim. `build`: function of victims.py. `threads`: of its intra-op pool; the second has the other CPU."""

    name: str
    build: str
    threads: int


WORKLOADS = (Workload("ort-1", "build_ort", 1), Workload("ort-2", "build_ort_pool", 2))

#: A cause and a part of the culprit's name.
Pair = tuple[str, str]


@dataclass(frozen=True)
class Fault:
    """An injector and what it must look like.

    `kind`: of Injector, "" for none at all. `blame`: any of these is right. `blame_pool`: right as well where the
    victim has a thread on the CPU from which the injector works. `on_worker`: the pool's second CPU is disturbed, not
    the first. `helpers`: parts of the names of tasks that belong to the fault, beside those that begin with jp-. A
    control has no fault: it may be blamed on `run`, `steal` or `unknown` alone. `also`: is billed time, but not right.
    """

    name: str
    kind: str
    blame: tuple[Pair, ...] = ()
    truth: Truth = Truth.EXCESS
    blame_pool: tuple[Pair, ...] = ()
    options: dict[str, float | str] = field(default_factory=dict)
    helpers: tuple[str, ...] = ()
    also: tuple[Pair, ...] = ()
    on_worker: bool = False
    control: bool = False

    def right(self, workload: Workload) -> tuple[Pair, ...]:
        return self.blame + (self.blame_pool if workload.threads > 1 else ())


def victim_cpu(fault: Fault) -> int:
    """The last CPU, except where the disk decides it."""
    interrupted = sorted(interrupted_cpus())
    return interrupted[-1] if fault.kind == "irq_storm" and interrupted else CPUS[-1]


#: A disk's log says how long the victim was off its CPU; coming back takes a part of that.
_WAKING = (("wakeup", ""),)

FAULTS = (
    Fault("fifo_burner", "fifo_burner", (("preempted", "jp-fifo"),), Truth.BURNT),
    Fault("hog", "hog", (("preempted", "jp-hog"),), Truth.BURNT),
    Fault(
        "net_rx",
        "net_rx",
        (("softirq", "NET_RX"), ("ipi", "jp-udp")),
        blame_pool=(("preempted", "jp-udp"),),
        helpers=("ksoftirqd",),
    ),
    Fault("timer_storm", "timer_storm", (("timer", "perf_swevent_hrtimer"),)),
    Fault("ipi_storm", "ipi_storm", (("ipi", "jp-ipi"),), blame_pool=(("preempted", "jp-ipi"),)),
    Fault(
        "irq_storm",
        "irq_storm",
        (("hardirq", "virtio"), ("hardirq", "nvme"), ("softirq", "BLOCK")),
        blame_pool=(("preempted", "jp-reads"),),
        helpers=("kworker", "ksoftirqd"),
    ),
    Fault(
        "quota",
        "quota",
        (("throttled", "jp-quota"),),
        Truth.THROTTLED,
        options={"period_ms": 20, "stay_ms": 30},
        helpers=("kworker",),
    ),
    Fault("sigstop", "sigstop", (("stopped", "jp-sigstop"),), Truth.SPAN),
    Fault("madvise", "madvise", (("page_fault", "minor: anonymous"),), Truth.SPAN),
    Fault(
        "cold_file",
        "cold_file",
        (("block_io", "vda"), ("block_io", "nvme")),
        Truth.WAITED,
        helpers=("kworker",),
        also=_WAKING,
    ),
    Fault("lock", "lock", (("lock", "jp-holder"),), Truth.DOSE),
    Fault("sleep", "sleep", (("sleep", ""),), Truth.DOSE),
    Fault("gc", "gc", (("gc", "generation"),), Truth.SPAN),
    # What really took the time, though the victim waited for a lock.
    Fault("held_lock", "held_lock", (("preempted", "jp-fifo"),), Truth.BURNT),
    Fault("chain", "chain", (("lock", "jp-last"), ("sleep", "jp-last")), Truth.DOSE),
    Fault("straggler_fifo", "fifo_burner", (("preempted", "jp-fifo"),), on_worker=True),
    Fault("straggler_hog", "hog", (("preempted", "jp-hog"), ("wakeup", "jp-hog")), on_worker=True),
    Fault("straggler_timer", "timer_storm", (("timer", "perf_swevent_hrtimer"),), on_worker=True),
    Fault("sham", "sham", control=True),
    Fault("quiet", "", control=True),
    Fault("work", "work", (("run", ""),), control=True),
)


@dataclass(frozen=True)
class Case:
    """One recording of the campaign."""

    fault: Fault
    workload: Workload

    @property
    def name(self) -> str:
        return f"{self.fault.name}.{self.workload.name}"


def cases() -> tuple[Case, ...]:
    """All of them. An IPI storm for the second worker alone would need a third CPU for its sender."""
    return tuple(
        Case(fault, workload)
        for fault in FAULTS
        for workload in WORKLOADS
        if (workload.threads > 1 or not fault.on_worker) and (len(CPUS) > 1 or workload.threads == 1)
    )
