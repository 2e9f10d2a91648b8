"""What is painted over a thread's states: interrupts by CPU, faults and collections by thread. Priority is the order of
painting: what comes later covers what came before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jitterprof.analysis.blocking import timer_irqs
from jitterprof.analysis.culprits import Coder, CulpritKind, coded, fault_codes, plain
from jitterprof.analysis.evidence import Evidence
from jitterprof.analysis.losses import Doubts, Losses
from jitterprof.analysis.segments import Intervals, Ints, Role, Rows, Stretch, cut, intervals
from jitterprof.model.cause import Cause
from jitterprof.model.event import EventKind, FaultFlag, Vector

#: The group (a CPU, a thread) in which a layer covers each segment, -1 where it does not.
Covers = Callable[[Rows], Ints]


def running_tid(segments: Rows) -> Ints:
    """Threads while they run, by their number."""
    return np.where(segments["role"] == Role.RUNNING, segments["tid"], -1).astype(np.int64)


def running_thread(segments: Rows) -> Ints:
    """Threads while they run, by their index in the timeline."""
    return np.where(segments["role"] == Role.RUNNING, segments["thread"], -1).astype(np.int64)


def waiting_cpu(segments: Rows) -> Ints:
    """CPUs in whose queue a thread waits."""
    return np.where(segments["role"] == Role.WAITING, segments["cpu"], -1).astype(np.int64)


def any_cpu(segments: Rows) -> Ints:
    """CPUs on which a thread runs or waits."""
    return np.where(segments["role"] != Role.OFF, segments["cpu"], -1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Layer:
    """One coat of paint: a segment that `covers` puts into a group gets, where it lies in a span of that group, the
    cause and code of the span (both per span)."""

    covers: Covers
    spans: Intervals
    cause: Ints
    code: Ints
    stretch: Stretch

    @staticmethod
    def of(covers: Covers, spans: Intervals, cause: int | Ints, code: int | Ints) -> "Layer":
        """`cause`, `code`: per span, or one for all."""
        n = len(spans)
        return Layer(
            covers,
            spans,
            np.broadcast_to(np.asarray(cause, np.int64), n),
            np.broadcast_to(np.asarray(code, np.int64), n),
            Stretch(spans.group, spans.start, spans.end),
        )

    def paint(self, segments: Rows, start: int, end: int) -> Rows:
        """Paint segments that lie in [start, end)."""
        here = self.stretch.during(start, end)
        segments, at = cut(segments, self.covers(segments), self.spans.rows(here))
        hit = np.flatnonzero(at >= 0)
        span = here[at[hit]]
        segments["cause"][hit] = self.cause[span]
        segments["code"][hit] = self.code[span]
        return segments


def layers(evidence: Evidence, losses: Losses, doubts: Doubts, coder: Coder) -> tuple[Layer, ...]:
    """Everything that is painted over the states, in order."""
    return tuple(
        layer
        for layer in (*_thread_work(evidence, doubts), *_interrupts(evidence, losses, doubts, coder))
        if len(layer.spans)
    )


def _recorded(covers: Covers, key: Ints, records: Rows, cause: int | Ints, code: int | Ints) -> Layer:
    """Interval records [a, ts), grouped by `key`; `cause`, `code` per record, or one for all."""
    spans = intervals(key, records["a"].astype(np.int64), records["ts"].astype(np.int64))
    cause, code = (value if np.ndim(value) == 0 else np.asarray(value)[spans.row] for value in (cause, code))
    return Layer.of(covers, spans, cause, code)


def _lost(covers: Covers, spans: Intervals) -> Layer:
    return Layer.of(covers, spans, Cause.UNKNOWN, plain(CulpritKind.LOST))


def _thread_work(evidence: Evidence, doubts: Doubts) -> Sequence[Layer]:
    """What a thread did while it ran, if not its own work: collections, faults, reclaim, and what may be either."""
    gc, faults, reclaims = evidence.gc, evidence.of_kind(EventKind.FAULT), evidence.of_kind(EventKind.RECLAIM)
    collections = intervals(gc["tid"].astype(np.int64), gc["start_ns"], gc["end_ns"])
    mapped = fault_codes(faults["b"], faults["flags"] & FaultFlag.MAJOR != 0, evidence)
    return (
        Layer.of(running_tid, collections, Cause.GC, coded(CulpritKind.GENERATION, gc["generation"])[collections.row]),
        _recorded(running_tid, faults["tid"].astype(np.int64), faults, Cause.PAGE_FAULT, mapped),
        _recorded(running_tid, reclaims["tid"].astype(np.int64), reclaims, Cause.RECLAIM, 0),
        _lost(running_thread, doubts.soft),
    )


def _interrupts(evidence: Evidence, losses: Losses, doubts: Doubts, coder: Coder) -> Sequence[Layer]:
    """What interrupted the CPU on which a thread ran or waited."""
    steal, softirq, vector, hardirq, nmi = (
        evidence.of_kind(kind)
        for kind in (EventKind.STEAL, EventKind.SOFTIRQ, EventKind.VECTOR, EventKind.HARDIRQ, EventKind.NMI)
    )
    # Where in its window the time was taken is not known; a CPU that comes back writes its records then, so the end of
    # the window is where it can have been.
    back = steal["ts"].astype(np.int64)
    gone = np.maximum(back - steal["b"].astype(np.int64), steal["a"].astype(np.int64))
    # Before a loss a softirq or vector may have been under way on the CPU since the last record that rules it out.
    # (What interrupted it in turn and did leave a record is still what it is: that is painted after this.)
    maybe = intervals(losses.by_cpu.group, losses.clean, losses.by_cpu.start)
    in_vector = np.where(vector["flags"] == Vector.LOCAL_TIMER, int(Cause.TIMER), int(Cause.IPI))
    in_hardirq = np.where(np.isin(hardirq["other"], timer_irqs(evidence)), int(Cause.TIMER), int(Cause.HARDIRQ))
    sent = coder.vector(vector["flags"].astype(np.int64), vector["other"].astype(np.int64), vector["b"])
    return (
        Layer.of(
            any_cpu, intervals(steal["cpu"].astype(np.int64), gone, back), Cause.STEAL, plain(CulpritKind.HYPERVISOR)
        ),
        _on_cpu(softirq, Cause.SOFTIRQ, coded(CulpritKind.SOFTIRQ, softirq["other"])),
        _lost(running_thread, doubts.masked),
        _lost(waiting_cpu, maybe),
        _on_cpu(vector, in_vector, sent),
        _on_cpu(hardirq, in_hardirq, coded(CulpritKind.IRQ, hardirq["other"])),
        _on_cpu(nmi, Cause.NMI, plain(CulpritKind.NMI)),
    )


def _on_cpu(records: Rows, cause: int | Ints, code: int | Ints) -> Layer:
    return _recorded(any_cpu, records["cpu"].astype(np.int64), records, cause, code)
