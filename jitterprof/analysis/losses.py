"""Where records are missing, what may have been in them, and so from when to when nothing must be claimed.

The rule behind all of it: losing records may move time to `unknown`, never to another cause.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.evidence import FOREVER, Evidence
from jitterprof.analysis.segments import Finder, Intervals, Ints, overlapping, ragged, union
from jitterprof.model.event import Context, EventKind

#: A CPU that writes one of these is in task context: no interrupt and no softirq is under way on it.
_TASK_CONTEXT = (
    EventKind.SWITCH_OUT,
    EventKind.SWITCH_IN,
    EventKind.OCCUPY,
    EventKind.FORK,
    EventKind.EXIT,
    EventKind.FAULT,
    EventKind.RECLAIM,
    EventKind.BLOCK_IO,
    EventKind.WORK,
)


@dataclass(frozen=True, slots=True)
class Losses:
    """`anywhere`: union over CPUs of the times in which a record may be missing (group 0). `by_cpu`: the same per CPU.
    `clean`: per row of `by_cpu` the last moment before it at which that CPU certainly was in no interrupt: an interval
    that was under way since then and whose record is lost may reach back that far."""

    anywhere: Intervals
    by_cpu: Intervals
    clean: Ints

    def around(self, start: int, end: int) -> "Losses":
        """Those that have a part in [start, end], and the first one after it."""
        if not len(self.anywhere):
            return self
        begin, beyond = np.searchsorted(self.anywhere.end, start), np.searchsorted(self.anywhere.start, end, "right")
        kept = np.flatnonzero((self.by_cpu.end >= start) & (self.by_cpu.start <= end))
        return Losses(self.anywhere.rows(slice(begin, beyond + 1)), self.by_cpu.rows(kept), self.clean[kept])

    def first(self, start: Ints, end: Ints) -> Ints:
        """For each [start, end) the first moment from which a record may be missing; FOREVER where none is."""
        if not len(self.anywhere):
            return np.full(len(start), FOREVER)
        at, count = overlapping(np.zeros(len(start), np.int64), start, end, self.anywhere)
        at = np.minimum(at, len(self.anywhere) - 1)
        return np.where(count > 0, np.maximum(self.anywhere.start[at], start), FOREVER)


def find_losses(evidence: Evidence, lowest: int, highest: int) -> Losses:
    """The losses of a session, clipped to [lowest, highest]."""
    gaps = evidence.gaps
    cpu = gaps["cpu"].astype(np.int64)
    start, end = np.clip(gaps["start_ns"], lowest, highest), np.clip(gaps["end_ns"], lowest, highest)
    by_cpu = union(cpu, start, end)
    anywhere = union(np.zeros(len(gaps), np.int64), start, end)
    return Losses(anywhere, by_cpu, _clean_since(evidence, by_cpu, lowest))


def _clean_since(evidence: Evidence, by_cpu: Intervals, lowest: int) -> Ints:
    if not len(by_cpu):
        return by_cpu.start
    events = evidence.events
    kind = events["kind"]
    proves = np.isin(kind, _TASK_CONTEXT) | (kind == EventKind.SOFTIRQ)
    proves |= (kind == EventKind.WAKING) & (events["flags"] == Context.TASK)
    proving = events[proves & np.isin(events["cpu"], by_cpu.group)]
    order = np.argsort(proving["cpu"], kind="stable")
    cpu, ts = proving["cpu"][order].astype(np.int64), proving["ts"][order].astype(np.int64)
    if not len(ts):
        return np.full(len(by_cpu), lowest)
    at = Finder(cpu, ts).after(by_cpu.group, by_cpu.start) - 1
    found = (at >= 0) & (cpu[np.maximum(at, 0)] == by_cpu.group)
    return np.where(found, ts[np.maximum(at, 0)], lowest)


@dataclass(frozen=True, slots=True)
class Anchors:
    """Moments at which a thread certainly ran its own code on a CPU (-1: not said which): the edges of its requests.
    Sorted by (thread, time)."""

    thread: Ints
    time: Ints
    cpu: Ints

    def rows(self, index: Ints | slice) -> "Anchors":
        """Some of them."""
        return Anchors(self.thread[index], self.time[index], self.cpu[index])

    def last(self, thread: Ints, time: Ints, otherwise: Ints) -> Ints:
        """The thread's last anchor at or before `time`, or `otherwise`."""
        if not len(self.time) or not len(time):
            return otherwise
        at = Finder(self.thread, self.time).after(thread, time) - 1
        found = (at >= 0) & (self.thread[np.maximum(at, 0)] == thread)
        return np.where(found, np.maximum(self.time[np.maximum(at, 0)], otherwise), otherwise)

    def next_on(self, thread: Ints, cpu: Ints, time: Ints, otherwise: Ints) -> Ints:
        """The thread's first anchor on `cpu` at or after `time`, or `otherwise` where that comes first."""
        known = np.flatnonzero(self.cpu >= 0)
        if not len(known) or not len(time):
            return otherwise
        width = np.int64(1 << 20)
        key = self.thread[known] * width + self.cpu[known]
        order = known[np.lexsort((self.time[known], key))]
        key, wanted = self.thread[order] * width + self.cpu[order], thread * width + cpu
        at = Finder(key, self.time[order]).at_or_after(wanted, time)
        inside = np.minimum(at, len(order) - 1)
        found = (at < len(order)) & (key[inside] == wanted)
        return np.where(found, np.minimum(self.time[order][inside], otherwise), otherwise)


@dataclass(frozen=True, slots=True)
class Doubts:
    """What losses do to the time in which threads ran: `hard`, the thread may have been anywhere; `soft`, it certainly
    had the CPU but what it did is not known; `masked`, the part of that in which it may have been in a softirq or
    vector that left no record. Groups are threads."""

    hard: Intervals
    soft: Intervals
    masked: Intervals


def doubts(
    losses: Losses,
    anchors: Anchors,
    faults: Intervals,
    thread: Ints,
    cpu: Ints,
    start: Ints,
    end: Ints,
    from_start: npt.NDArray[np.bool_],
    consistent: npt.NDArray[np.bool_],
) -> Doubts:
    """Doubts about running stints [start, end) of `thread` on `cpu`.

    After a loss on its CPU a thread may be anywhere until its next own record or its next request edge on that CPU.
    Before it, an interrupt or fault may have been under way since the last moment that rules both out. `faults`: by
    thread. `from_start`: the stint is inferred from its end, so a loss spoils its beginning too. `consistent`: its two
    ends name the same CPU.
    """
    first, count = overlapping(cpu, start, end, losses.by_cpu)
    broken = np.flatnonzero(~consistent & (count == 0))
    owner, gap = ragged(first, count)
    who, where, begin, until = thread[owner], cpu[owner], start[owner], end[owner]
    lost_from = np.maximum(losses.by_cpu.start[gap], begin)
    back = anchors.next_on(who, where, np.minimum(losses.by_cpu.end[gap], until), until)
    hard_from = np.where(from_start[owner], begin, lost_from)
    hard = union(
        np.concatenate([who, thread[broken]]),
        np.concatenate([hard_from, start[broken]]),
        np.concatenate([back, end[broken]]),
    )
    clean = np.minimum(anchors.last(who, lost_from, np.maximum(losses.clean[gap], begin)), lost_from)
    no_fault = np.minimum(anchors.last(who, lost_from, last_end(faults, who, lost_from, begin)), lost_from)
    return Doubts(hard, union(who, np.minimum(clean, no_fault), lost_from), union(who, clean, lost_from))


def last_end(faults: Intervals, thread: Ints, time: Ints, otherwise: Ints) -> Ints:
    """The end of the thread's last fault that ended at or before `time`, or `otherwise` where that is later."""
    if not len(faults) or not len(time):
        return otherwise
    at = Finder(faults.group, faults.end).after(thread, time) - 1
    found = (at >= 0) & (faults.group[np.maximum(at, 0)] == thread)
    return np.where(found, np.maximum(faults.end[np.maximum(at, 0)], otherwise), otherwise)
