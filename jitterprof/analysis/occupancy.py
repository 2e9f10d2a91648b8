"""Who held each CPU: what a thread in its run queue was waiting behind."""

import numpy as np

from jitterprof.analysis.culprits import Coder, CulpritKind, coded, plain
from jitterprof.analysis.evidence import Evidence
from jitterprof.analysis.segments import Intervals, Ints, Role, Rows, cut, intervals
from jitterprof.model.cause import Cause
from jitterprof.model.event import EventKind

_LOW32 = np.uint64(0xFFFFFFFF)
_SWITCHES = (EventKind.SWITCH_OUT, EventKind.SWITCH_IN, EventKind.OCCUPY)
_PLACEMENTS = (EventKind.WAKING, EventKind.WAKEUP, EventKind.MIGRATE)


def occupants(evidence: Evidence, highest: int) -> tuple[Intervals, Ints]:
    """Per CPU the intervals between what is known of its occupant, and the occupant's tid (0: idle) for each.

    A switch says who comes; a wake-up or migration says who was there. Between two such records nothing changed that a
    waiting victim could have seen, for every switch on a CPU with a victim in its queue is recorded.
    """
    events = evidence.of_kind(*_SWITCHES, *_PLACEMENTS)
    kind = events["kind"]
    placed = np.isin(kind, _PLACEMENTS)
    cpu = np.where(placed, events["a"] & _LOW32, events["cpu"]).astype(np.int64)
    tid = np.select(
        [placed, kind == EventKind.SWITCH_OUT], [events["a"] >> np.uint64(32), events["other"]], events["tid"]
    ).astype(np.int64)
    order = np.argsort(cpu, kind="stable")
    cpu, tid, start = cpu[order], tid[order], events["ts"][order].astype(np.int64)
    last = np.append(cpu[1:] != cpu[:-1], True)[: len(cpu)]
    end = np.where(last, highest, np.append(start[1:], highest)[: len(start)])
    spans = intervals(cpu, start, end)
    return spans, tid[spans.row]


def blame_occupants(segments: Rows, evidence: Evidence, coder: Coder, highest: int) -> Rows:
    """Cut waits where the occupant of their CPU changes, and name it: the task, what a kworker worked on, or idle."""
    spans, tid = occupants(evidence, highest)
    segments, at = cut(segments, np.where(segments["role"] == Role.WAITING, segments["cpu"], -1), spans)
    occupant = np.where(at >= 0, tid[np.maximum(at, 0)] if len(tid) else 0, -1)
    # An occupant that is the waiter itself was read before its switch-out: that names nobody.
    occupant[occupant == segments["tid"]] = -1
    idle = np.where(segments["cause"] == Cause.WAKEUP, plain(CulpritKind.IDLE_EXIT), plain(CulpritKind.IDLE_TASK))
    code = np.select([occupant > 0, occupant == 0], [coded(CulpritKind.TASK, occupant), idle], segments["code"])
    segments["code"] = code
    return _blame_work(segments, np.where(occupant > 0, occupant, -1), evidence, coder)


def _blame_work(segments: Rows, occupant: Ints, evidence: Evidence, coder: Coder) -> Rows:
    works = evidence.of_kind(EventKind.WORK)
    if not len(works):
        return segments
    tid = works["tid"].astype(np.int64)
    spans = intervals(tid, works["a"].astype(np.int64), works["ts"].astype(np.int64))
    code = coder.work(tid, works["b"])[spans.row]
    segments, at = cut(segments, np.where(np.isin(occupant, tid), occupant, -1), spans)
    segments["code"] = np.where(at >= 0, code[np.maximum(at, 0)] if len(code) else 0, segments["code"])
    return segments
