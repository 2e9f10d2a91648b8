"""What an interruption costs on this host beyond the span of its tracepoints: the spin canary's gaps, explained.

A gap of a thread that only looks at the clock is what the interruption took from it. The tracepoints cover the inner
part of that; entry, exit, mode switch and VM exit are the rest. Measured on a KVM guest: they cover
41 % of the gap of a tick, 11 % of that of an interprocessor interrupt.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.event_counts import EVENT_CLASSES, class_of
from jitterprof.analysis.interruptions import interruptions
from jitterprof.model.cause import Cause
from jitterprof.model.event import EventKind
from jitterprof.model.stream import CANARY_FAULTS, CANARY_GAP, CANARY_TOUCHES

#: A class needs this many clean gaps before its median is believed.
MIN_GAPS = 8


@dataclass(frozen=True, slots=True)
class HostCosts:
    """Hidden cost in ns of one event of each class (float64[EVENT_CLASSES], 0: not known); how many gaps taught it."""

    ns: npt.NDArray[np.float64]
    gaps: npt.NDArray[np.int64]


def host_costs(canary: npt.NDArray[np.void], events: npt.NDArray[np.void]) -> HostCosts:
    """Join the canary's rows (CANARY_DTYPE) with the session's events (EVENT_DTYPE).

    Interrupts: median over gaps that hold exactly one interruption and no task switch. A class of interrupts that never
    hit the canary gets the median of all interprocessor interrupts, or else of all interruptions: the way in and out is
    the same. Page faults: from blocks of first touches against touches of the same pages.
    """
    costs = np.zeros(len(EVENT_CLASSES))
    count = np.zeros(len(EVENT_CLASSES), np.int64)
    tids = np.unique(canary["tid"])
    mine = events[np.isin(events["tid"], tids)]
    mine = mine[np.argsort(mine["ts"], kind="stable")]
    number, hidden = _gap_costs(canary[canary["what"] == CANARY_GAP], mine)
    for index in np.unique(number).tolist():
        of_class = hidden[number == index]
        count[index] = len(of_class)
        if len(of_class) >= MIN_GAPS:
            costs[index] = max(0.0, float(np.median(of_class)))
    ipis = [i for i, c in enumerate(EVENT_CLASSES) if c.cause == Cause.IPI and costs[i]]
    usual = costs[ipis[0]] if ipis else (float(np.median(hidden)) if len(hidden) >= MIN_GAPS else 0.0)
    for index, event_class in enumerate(EVENT_CLASSES):
        interrupt = event_class.cause in (Cause.HARDIRQ, Cause.TIMER, Cause.IPI, Cause.SOFTIRQ)
        if interrupt and not costs[index]:
            costs[index] = max(0.0, usual)
    fault = next(i for i, c in enumerate(EVENT_CLASSES) if c.cause == Cause.PAGE_FAULT)
    costs[fault], count[fault] = _fault_cost(canary, mine)
    return HostCosts(costs, count)


def _gap_costs(
    gaps: npt.NDArray[np.void], events: npt.NDArray[np.void]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Class and hidden ns of each gap that one interruption explains."""
    found = interruptions(events)
    if not len(gaps) or not len(found.start):
        return np.empty(0, np.int64), np.empty(0)
    gaps = gaps[np.argsort(gaps["start_ns"])]
    start, end = gaps["start_ns"], gaps["end_ns"]
    order = np.argsort(found.start, kind="stable")
    first = np.searchsorted(found.start[order], start, "left")
    last = np.searchsorted(found.start[order], end, "left")
    one = (last - first == 1) & (first < len(order))
    hit = order[np.minimum(first, len(order) - 1)]
    one &= found.end[hit] <= end
    switched = events["ts"][np.isin(events["kind"], (EventKind.SWITCH_OUT, EventKind.FAULT))].astype(np.int64)
    one &= np.searchsorted(switched, start, "left") == np.searchsorted(switched, end, "right")
    number = class_of(events)[found.leader[hit[one]]]
    hidden = (end - start - found.visible[hit])[one].astype(np.float64)
    return number[number >= 0], hidden[number >= 0]


def _fault_cost(canary: npt.NDArray[np.void], events: npt.NDArray[np.void]) -> tuple[float, int]:
    """Median over blocks of (first touches - spans of faults and interruptions - touches) per page."""
    fresh = canary[canary["what"] == CANARY_FAULTS]
    again = canary[canary["what"] == CANARY_TOUCHES]
    if not len(fresh) or not len(again):
        return 0.0, 0
    warm = float(np.median(again["end_ns"] - again["start_ns"]))
    faults = events[events["kind"] == EventKind.FAULT]
    other = interruptions(events)
    costs = []
    for row in fresh:
        inside = faults[
            (faults["a"].astype(np.int64) >= row["start_ns"]) & (faults["ts"].astype(np.int64) <= row["end_ns"])
        ]
        if not len(inside):
            continue
        spans = int((inside["ts"] - inside["a"]).sum())
        held = (other.start >= row["start_ns"]) & (other.end <= row["end_ns"])
        # Interruptions inside a fault's span are taken off twice: that errs towards a lower cost.
        taken = int(other.visible[held].sum())
        rest = int(row["end_ns"] - row["start_ns"]) - spans - taken - warm
        costs.append(rest / len(inside))
    return (max(0.0, float(np.median(costs))), len(costs)) if costs else (0.0, 0)
