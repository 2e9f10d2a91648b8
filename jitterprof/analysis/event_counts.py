"""How many events of each class hit each request on a thread.

Interrupts that come back to back count once, in the class of the longest (`interruptions.py`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.interruptions import interruptions
from jitterprof.analysis.parallel import on_all_cpus
from jitterprof.model.cause import Cause
from jitterprof.model.event import SOFTIRQ_NAMES, EventKind, OutFlag, Vector

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EventClass:
    """Events whose cost is calibrated together. `name`: the softirq vector, else ""."""

    cause: Cause
    name: str = ""


EVENT_CLASSES: tuple[EventClass, ...] = (
    EventClass(Cause.HARDIRQ),
    EventClass(Cause.TIMER),
    EventClass(Cause.IPI),
    EventClass(Cause.PAGE_FAULT),
    EventClass(Cause.PREEMPTED),
    *(EventClass(Cause.SOFTIRQ, name) for name in SOFTIRQ_NAMES),
)
_FIRST_SOFTIRQ = len(EVENT_CLASSES) - len(SOFTIRQ_NAMES)


@dataclass(frozen=True, slots=True)
class ClassedEvents:
    """The events that cost something, by (tid, ts): `tid` of the thread that each hit, `ts` ns, `number`: its class."""

    tid: Ints
    ts: Ints
    number: npt.NDArray[np.int8]

    @staticmethod
    def of(events: npt.NDArray[np.void]) -> "ClassedEvents":
        """Sort out `events` (EVENT_DTYPE by ts). An interrupt hits the task that it interrupted."""
        number = np.full(len(events), -1, np.int8)
        by_cpu = np.argsort(events["cpu"], kind="stable")
        edges = np.flatnonzero(np.diff(events["cpu"][by_cpu])) + 1

        def sort_out(mine: npt.NDArray[np.intp]) -> None:
            number[mine] = _leading(events.take(mine))

        # What comes back to back is on one CPU.
        on_all_cpus(sort_out, np.split(by_cpu, edges))
        counted = np.flatnonzero(number >= 0)
        counted = counted[np.argsort(events["tid"][counted], kind="stable")]
        return ClassedEvents(
            events["tid"][counted].astype(np.int64), events["ts"][counted].astype(np.int64), number[counted]
        )

    def count(
        self, requests: npt.NDArray[np.void], tid: npt.NDArray[np.int32], until_ns: Ints | None = None
    ) -> npt.NDArray[np.int32]:
        """int32[requests, EVENT_CLASSES]: events that ended in [start, end) on the thread `tid` of each request.

        `until_ns`: another end per request, not after its own. Requests that are given one thread must not overlap.
        """
        counts = np.zeros((len(requests), len(EVENT_CLASSES)), np.int32)
        starts, ends = (np.ascontiguousarray(requests[name]) for name in ("start_ns", "end_ns"))
        ends = ends if until_ns is None else until_ns
        for one in np.unique(tid).tolist():
            rows = np.flatnonzero(tid == one)
            rows = rows[np.argsort(starts[rows], kind="stable")]
            first, last = np.searchsorted(self.tid, [one, one + 1])
            first, last = first + np.searchsorted(self.ts[first:last], [starts[rows[0]], ends[rows].max()])
            ts = self.ts[first:last]
            row = rows[np.searchsorted(starts[rows], ts, "right") - 1]
            inside = ts < ends[row]
            np.add.at(counts, (row[inside], self.number[first:last][inside]), 1)
        return counts


def count_events(requests: npt.NDArray[np.void], events: npt.NDArray[np.void]) -> npt.NDArray[np.int32]:
    """int32[requests, EVENT_CLASSES]: events that ended in [start, end) while the serving thread was on the CPU.

    An interrupt counts when the serving thread was the interrupted task, a preemption when it was switched out while
    it wanted to run. Requests of one thread must not overlap.
    """
    return ClassedEvents.of(events).count(requests, requests["tid"])


def _leading(events: npt.NDArray[np.void]) -> Ints:
    """The class of each event, -1 for those that do not count."""
    number = class_of(events)
    interrupts = np.isin(events["kind"], (EventKind.HARDIRQ, EventKind.SOFTIRQ, EventKind.VECTOR, EventKind.NMI))
    leads = np.zeros(len(events), bool)
    leads[interruptions(events).leader] = True
    number[interrupts & ~leads] = -1
    return number


def class_of(events: npt.NDArray[np.void]) -> Ints:
    """Index into EVENT_CLASSES of each event, -1 for those that have no cost of their own."""
    kind, flags, other = events["kind"], events["flags"], events["other"].astype(np.int64)
    index = {event_class.cause: number for number, event_class in enumerate(EVENT_CLASSES[:_FIRST_SOFTIRQ])}
    number = np.full(len(events), -1, np.int64)
    number[kind == EventKind.HARDIRQ] = index[Cause.HARDIRQ]
    vector = kind == EventKind.VECTOR
    number[vector] = np.where(flags[vector] == Vector.LOCAL_TIMER, index[Cause.TIMER], index[Cause.IPI])
    number[kind == EventKind.FAULT] = index[Cause.PAGE_FAULT]
    # On the way back to user space the kernel does not say "preempted": the task is just still runnable.
    runnable = (flags & OutFlag.PREEMPT != 0) | (events["a"] & 0xFFFFFFFF == 0)
    number[(kind == EventKind.SWITCH_OUT) & runnable] = index[Cause.PREEMPTED]
    softirq = (kind == EventKind.SOFTIRQ) & (other < len(SOFTIRQ_NAMES))
    number[softirq] = _FIRST_SOFTIRQ + other[softirq]
    return number
