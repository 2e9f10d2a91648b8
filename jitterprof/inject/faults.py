"""The faults that the self-check knows. To add one: a function that enters it, and an entry here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jitterprof.inject.burner import ordinary, real_time, real_time_allowed
from jitterprof.inject.fault import Fault, Pulse
from jitterprof.inject.processes import PERIOD_US, stopped, throttled, throttled_allowed
from jitterprof.inject.site import Site
from jitterprof.inject.storms import calls, calls_allowed, packets, packets_allowed, timers
from jitterprof.inject.timetable import sleep_until
from jitterprof.model.cause import Cause
from jitterprof.model.pulse import FaultKind
from jitterprof.units import NS_PER_MS

#: The workload that the faults are injected into.
VICTIM = f"{Path(__file__).resolve().with_name('victim.py')}:build"


@contextmanager
def nothing(_site: Site, _pid: int) -> Iterator[Pulse]:
    """A pulse in which nothing is done."""

    def pulse(stop_ns: int) -> int:
        sleep_until(stop_ns)
        return 0

    yield pulse


def file_on_disk(site: Site) -> str:
    """Why reading a file waits for no disk here; "" when it does."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    folder = Path(site.folder).resolve()
    over = [(len(words[1]), words[2]) for words in mounts if folder.is_relative_to(words[1])]
    kind = max(over, default=(0, "nothing"))[1]
    return f"{site.folder} is on {kind}, not on a disk" if kind in ("tmpfs", "ramfs", "nothing") else ""


FAULTS: tuple[Fault, ...] = (
    Fault(
        FaultKind(
            "fifo",
            "a SCHED_FIFO loop on its CPU",
            ((Cause.PREEMPTED.id, "jp-fifo"), (Cause.WAKEUP.id, "jp-fifo")),
            Cause.PREEMPTED.id,
            ("jp-fifo",),
        ),
        5 * NS_PER_MS,
        real_time,
        available=real_time_allowed,
    ),
    Fault(
        FaultKind(
            "hog",
            "an ordinary loop on its CPU",
            ((Cause.PREEMPTED.id, "jp-hog"), (Cause.WAKEUP.id, "jp-hog")),
            Cause.PREEMPTED.id,
            ("jp-hog",),
        ),
        20 * NS_PER_MS,
        ordinary,
        20 * NS_PER_MS,
    ),
    Fault(
        FaultKind(
            "packets",
            "a packet every 20 us, received on its CPU",
            ((Cause.SOFTIRQ.id, "NET_RX"), (Cause.IPI.id, "jp-packets")),
            ours=("jp-packets", "ksoftirqd"),
        ),
        10 * NS_PER_MS,
        packets,
        available=packets_allowed,
    ),
    Fault(
        FaultKind("timers", "an hrtimer every 20 us on its CPU", ((Cause.TIMER.id, ""),), ours=("jp-timers",)),
        10 * NS_PER_MS,
        timers,
    ),
    Fault(
        FaultKind("ipis", "an interrupt from another CPU every 20 us", ((Cause.IPI.id, ""),), ours=("jp-ipis",)),
        10 * NS_PER_MS,
        calls,
        available=calls_allowed,
    ),
    Fault(
        FaultKind(
            "quota",
            "a CPU quota of 20 ms in 100 ms",
            ((Cause.THROTTLED.id, "jitterprof-quota"),),
            Cause.THROTTLED.id,
            ("jp-", "kworker"),
        ),
        150 * NS_PER_MS,
        throttled,
        PERIOD_US * 1000,
        throttled_allowed,
    ),
    Fault(
        FaultKind("sigstop", "SIGSTOP, then SIGCONT", ((Cause.STOPPED.id, ""),), Cause.STOPPED.id, ("jp-",)),
        5 * NS_PER_MS,
        stopped,
    ),
    # From here on the victim does it to itself: inject/victim.py.
    Fault(
        FaultKind("refault", "1024 pages given back and touched again", ((Cause.PAGE_FAULT.id, ""),), ours=("jp-",)),
        4 * NS_PER_MS,
    ),
    Fault(
        FaultKind("cold-file", "scattered reads, none in memory", ((Cause.BLOCK_IO.id, ""),), ours=("kworker",)),
        6 * NS_PER_MS,
        available=file_on_disk,
    ),
    Fault(
        FaultKind(
            "lock",
            "a mutex whose holder sleeps",
            ((Cause.LOCK.id, "jp-holder"),),
            Cause.LOCK.id,
            ("jp-holder",),
        ),
        5 * NS_PER_MS,
    ),
    Fault(FaultKind("sleep", "a sleep in the request", ((Cause.SLEEP.id, ""),), Cause.SLEEP.id), 5 * NS_PER_MS),
    Fault(FaultKind("gc", "a garbage collection", ((Cause.GC.id, ""),)), 5 * NS_PER_MS),
    Fault(
        FaultKind("more work", "three times its own work: nobody's fault", ((Cause.RUN.id, ""),), control=True),
        4 * NS_PER_MS,
    ),
    Fault(
        FaultKind("nothing", "no fault at all", ((Cause.RUN.id, ""), (Cause.STEAL.id, "")), control=True),
        5 * NS_PER_MS,
        nothing,
    ),
)


def fault_named(name: str) -> Fault:
    """The registry's entry of that name."""
    return next(fault for fault in FAULTS if fault.kind.name == name)
