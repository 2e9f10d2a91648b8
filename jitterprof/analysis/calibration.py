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
#: Quantile of the standard normal for a 95 % interval.
_Z = 1.96


@dataclass(frozen=True, slots=True)
class HostCosts:
    """Hidden cost in ns of one event of each class, float64[EVENT_CLASSES], 0: not known; its 95 % interval, [0, inf]
    where there are too few gaps for one; and how many gaps taught it (0: taken over from other interrupts)."""

    ns: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    gaps: npt.NDArray[np.int64]


def host_costs(canary: npt.NDArray[np.void], events: npt.NDArray[np.void]) -> HostCosts:
    """Join the canary's rows (CANARY_DTYPE) with the session's events (EVENT_DTYPE).

    Interrupts: median over gaps that hold exactly one interruption and no task switch. A class of interrupts that never
    hit the canary gets the median of all interprocessor interrupts, or else of all interruptions: the way in and out is
    the same. Preemptions: median over gaps with exactly one of them, less what the interrupts beside it cost (a wake-up
    comes with one). Page faults: from blocks of first touches against touches of the same pages.
    """
    costs, low = np.zeros(len(EVENT_CLASSES)), np.zeros(len(EVENT_CLASSES))
    high = np.full(len(EVENT_CLASSES), np.inf)
    count = np.zeros(len(EVENT_CLASSES), np.int64)
    tids = np.unique(canary["tid"])
    mine = events[np.isin(events["tid"], tids)]
    mine = mine[np.argsort(mine["ts"], kind="stable")]
    gaps = canary[canary["what"] == CANARY_GAP]
    number, hidden = _gap_costs(gaps, mine)
    samples = {index: hidden[number == index] for index in np.unique(number).tolist()}
    samples[_index(Cause.PAGE_FAULT)] = _fault_costs(canary, mine)

    def learn(index: int, of_class: npt.NDArray[np.float64], enough: int) -> None:
        count[index] = len(of_class)
        if len(of_class) >= enough:
            costs[index] = max(0.0, float(np.median(of_class)))
            low[index], high[index] = _interval(of_class)

    for index, of_class in samples.items():
        # A block of touches is a mean over many faults already.
        learn(index, of_class, 1 if index == _index(Cause.PAGE_FAULT) else MIN_GAPS)
    ipis = [i for i, c in enumerate(EVENT_CLASSES) if c.cause == Cause.IPI and costs[i]]
    usual = costs[ipis[0]] if ipis else (float(np.median(hidden)) if len(hidden) >= MIN_GAPS else 0.0)
    for index, event_class in enumerate(EVENT_CLASSES):
        interrupt = event_class.cause in (Cause.HARDIRQ, Cause.TIMER, Cause.IPI, Cause.SOFTIRQ)
        if interrupt and not costs[index]:
            costs[index] = max(0.0, usual)
    learn(_index(Cause.PREEMPTED), _preemption_costs(gaps, mine, costs), MIN_GAPS)
    return HostCosts(costs, low, high, count)


def _index(cause: Cause) -> int:
    return next(number for number, one in enumerate(EVENT_CLASSES) if one.cause == cause)


def _interval(sample: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the median by order statistics (Conover, Practical Nonparametric Statistics, 3.2)."""
    ordered, half = np.sort(sample), _Z * np.sqrt(len(sample)) / 2
    first, last = int(np.floor(len(sample) / 2 - half)), int(np.ceil(len(sample) / 2 + half))
    if first < 0 or last >= len(sample):
        return 0.0, np.inf
    return max(0.0, float(ordered[first])), max(0.0, float(ordered[last]))


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


def _preemption_costs(
    gaps: npt.NDArray[np.void], events: npt.NDArray[np.void], costs: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """What each gap is longer than the one preemption in it and the interrupts beside that, at what those cost: the
    switches themselves and the cold cache after them."""
    switches = events[np.isin(events["kind"], (EventKind.SWITCH_OUT, EventKind.SWITCH_IN))]
    out = (switches["kind"][:-1] == EventKind.SWITCH_OUT) & (switches["a"][:-1] & 0xFFFFFFFF == 0)
    pair = np.flatnonzero(out & (switches["kind"][1:] == EventKind.SWITCH_IN) & (np.diff(switches["tid"]) == 0))
    if not len(pair) or not len(gaps):
        return np.empty(0)
    start, end = switches["ts"][pair].astype(np.int64), switches["ts"][pair + 1].astype(np.int64)
    gaps = gaps[np.argsort(gaps["start_ns"])]
    first, last = np.searchsorted(start, gaps["start_ns"], "left"), np.searchsorted(start, gaps["end_ns"], "left")
    one = (last - first == 1) & (end[np.minimum(first, len(end) - 1)] <= gaps["end_ns"])
    # An interrupt while it was off the CPU is inside the span.
    others = interruptions(events)
    beside = np.flatnonzero(~_inside(others.start, start, end))
    beside = beside[np.argsort(others.start[beside], kind="stable")]
    number = class_of(events)[others.leader[beside]]
    taken = np.concatenate([[0], np.cumsum(others.visible[beside] + np.where(number >= 0, costs[number], 0))])
    edges = others.start[beside]
    took = taken[np.searchsorted(edges, gaps["end_ns"])] - taken[np.searchsorted(edges, gaps["start_ns"])]
    hit = np.minimum(first, len(end) - 1)
    rest: npt.NDArray[np.float64] = ((gaps["end_ns"] - gaps["start_ns"]) - (end - start)[hit] - took)[one]
    return rest


def _inside(
    time: npt.NDArray[np.int64], start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether each time lies in one of the intervals [start, end), which are sorted and disjoint."""
    at = np.searchsorted(start, time, "right") - 1
    within: npt.NDArray[np.bool_] = (
        (at >= 0) & (time < end[np.maximum(at, 0)]) if len(end) else np.zeros(len(time), bool)
    )
    return within


def _fault_costs(canary: npt.NDArray[np.void], events: npt.NDArray[np.void]) -> npt.NDArray[np.float64]:
    """Per block: (first touches - spans of faults and interruptions - touches) per page."""
    fresh = canary[canary["what"] == CANARY_FAULTS]
    again = canary[canary["what"] == CANARY_TOUCHES]
    if not len(fresh) or not len(again):
        return np.empty(0)
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
    return np.array(costs, np.float64)
