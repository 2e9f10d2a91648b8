"""How many events of each class hit each request on the thread that served it.

Interrupts that come back to back count once, in the class of the longest (`interruptions.py`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.interruptions import interruptions
from jitterprof.model.cause import Cause
from jitterprof.model.event import SOFTIRQ_NAMES, EventKind, OutFlag, Vector


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


def count_events(
    requests: npt.NDArray[np.void], events: npt.NDArray[np.void], until_ns: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """int64[requests, EVENT_CLASSES]: events that ended in [start, end) while the serving thread was on the CPU.

    An interrupt counts when the serving thread was the interrupted task, a preemption when it was switched out while
    it wanted to run. `until_ns`: another end per request, not after its own. Requests of one thread must not overlap.
    """
    counts = np.zeros((len(requests), len(EVENT_CLASSES)), np.int64)
    number = class_of(events)
    interrupts = np.isin(events["kind"], (EventKind.HARDIRQ, EventKind.SOFTIRQ, EventKind.VECTOR, EventKind.NMI))
    leads = np.zeros(len(events), bool)
    leads[interruptions(events).leader] = True
    number[interrupts & ~leads] = -1
    counted = np.flatnonzero(number >= 0)
    tids, times, number = (
        events["tid"][counted].astype(np.int64),
        events["ts"][counted].astype(np.int64),
        number[counted],
    )
    ends = requests["end_ns"] if until_ns is None else until_ns
    for tid in np.unique(requests["tid"]).tolist():
        rows = np.flatnonzero(requests["tid"] == tid)
        rows = rows[np.argsort(requests["start_ns"][rows], kind="stable")]
        mine = np.flatnonzero(tids == tid)
        place = np.searchsorted(requests["start_ns"][rows], times[mine], "right") - 1
        inside = place >= 0
        inside[inside] = times[mine][inside] < ends[rows[place[inside]]]
        np.add.at(counts, (rows[place[inside]], number[mine][inside]), 1)
    return counts


def class_of(events: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
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
