"""Who held each CPU: what a thread in its run queue was waiting behind."""

from dataclasses import dataclass

import numpy as np

from jitterprof.analysis.culprits import Coder, CulpritKind, Tasks, coded, plain
from jitterprof.analysis.evidence import Evidence
from jitterprof.analysis.kthreads import InterruptThreads
from jitterprof.analysis.overlays import waiting_cpu
from jitterprof.analysis.segments import Intervals, Ints, Rows, Stretch, cut, intervals
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


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Who held which CPU when: `spans` by CPU, with the `tid` of each occupant (0: idle); and what kworkers worked on:
    `works` by their thread, with a `work_code` for each. `interrupts`: the threads that stand for an interrupt."""

    spans: Intervals
    tid: Ints
    works: Intervals
    work_code: Ints
    stretch: Stretch
    work_stretch: Stretch
    interrupts: InterruptThreads

    @staticmethod
    def of(evidence: Evidence, coder: Coder, highest: int) -> "Occupancy":
        """The occupancy of the session, which ends at `highest`."""
        spans, tid = occupants(evidence, highest)
        records = evidence.of_kind(EventKind.WORK)
        worker = records["tid"].astype(np.int64)
        works = intervals(worker, records["a"].astype(np.int64), records["ts"].astype(np.int64))
        code = coder.work(worker, records["b"])[works.row]
        return Occupancy(
            spans,
            tid,
            works,
            code,
            Stretch(spans.group, spans.start, spans.end),
            Stretch(works.group, works.start, works.end),
            InterruptThreads.of(Tasks.of(evidence)),
        )

    def blame(self, segments: Rows, start: int, end: int) -> Rows:
        """Cut waits (segments that lie in [start, end)) where the occupant of their CPU changes, and name it: the task,
        what a kworker worked on, or idle."""
        here = self.stretch.during(start, end)
        segments, at = cut(segments, waiting_cpu(segments), self.spans.rows(here))
        occupant = np.full(len(segments), -1)
        held = np.flatnonzero(at >= 0)
        occupant[held] = self.tid[here[at[held]]]
        # An occupant that is the waiter itself was read before its switch-out: that names nobody.
        occupant[occupant == segments["tid"]] = -1
        task, idle = np.flatnonzero(occupant > 0), np.flatnonzero(occupant == 0)
        segments["code"][task] = coded(CulpritKind.TASK, occupant[task])
        place = self.interrupts.place(occupant[task])
        for_interrupt, place = task[place >= 0], place[place >= 0]
        segments["cause"][for_interrupt] = self.interrupts.cause[place]
        segments["code"][for_interrupt] = self.interrupts.code[place]
        exits = segments["cause"][idle] == Cause.WAKEUP
        segments["code"][idle] = np.where(exits, plain(CulpritKind.IDLE_EXIT), plain(CulpritKind.IDLE_TASK))
        here = self.work_stretch.during(start, end)
        segments, at = cut(segments, np.where(occupant > 0, occupant, -1), self.works.rows(here))
        worked = np.flatnonzero(at >= 0)
        segments["code"][worked] = self.work_code[here[at[worked]]]
        return segments
