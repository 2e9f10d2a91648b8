"""What is painted over a thread's states: interrupts by CPU, faults and collections by thread. Priority is the order of
painting: what comes later covers what came before."""

import numpy as np

from jitterprof.analysis.blocking import timer_irqs
from jitterprof.analysis.culprits import Coder, CulpritKind, coded, fault_codes, plain
from jitterprof.analysis.evidence import Evidence
from jitterprof.analysis.losses import Doubts, Losses
from jitterprof.analysis.segments import Intervals, Ints, Role, Rows, cut, intervals
from jitterprof.model.cause import Cause
from jitterprof.model.event import EventKind, FaultFlag, Vector


def _paint(segments: Rows, group: Ints, spans: Intervals, cause: Ints, code: Ints) -> Rows:
    """Give what lies in `spans` the cause and code of its span (both per span)."""
    segments, at = cut(segments, group, spans)
    hit = np.flatnonzero(at >= 0)
    segments["cause"][hit] = cause[at[hit]]
    segments["code"][hit] = code[at[hit]]
    return segments


def _paint_records(segments: Rows, group: Ints, key: Ints, records: Rows, cause: Ints, code: Ints) -> Rows:
    """Paint interval records [a, ts), grouped by `key`; `cause`, `code` per record."""
    if not len(records):
        return segments
    spans = intervals(key, records["a"].astype(np.int64), records["ts"].astype(np.int64))
    return _paint(segments, group, spans, cause[spans.row], code[spans.row])


def _running(segments: Rows) -> Ints:
    return np.where(segments["role"] == Role.RUNNING, segments["tid"], -1).astype(np.int64)


def _here(segments: Rows) -> Ints:
    return np.where(segments["role"] != Role.OFF, segments["cpu"], -1).astype(np.int64)


def paint_thread_work(segments: Rows, evidence: Evidence, doubts: Doubts) -> Rows:
    """What a thread did while it ran, if not its own work: collections, faults, reclaim, and what may be either."""
    gc = evidence.gc
    if len(gc):
        spans = intervals(gc["tid"].astype(np.int64), gc["start_ns"], gc["end_ns"])
        code = coded(CulpritKind.GENERATION, gc["generation"])[spans.row]
        segments = _paint(segments, _running(segments), spans, np.full(len(spans), int(Cause.GC)), code)
    faults = evidence.of_kind(EventKind.FAULT)
    code = fault_codes(faults["b"], faults["flags"] & FaultFlag.MAJOR != 0, evidence)
    for records, cause, codes in (
        (faults, Cause.PAGE_FAULT, code),
        (reclaims := evidence.of_kind(EventKind.RECLAIM), Cause.RECLAIM, np.zeros(len(reclaims), np.int64)),
    ):
        tid = records["tid"].astype(np.int64)
        segments = _paint_records(segments, _running(segments), tid, records, np.full(len(tid), int(cause)), codes)
    return _doubt_runs(segments, doubts.soft)


def paint_interrupts(segments: Rows, evidence: Evidence, losses: Losses, doubts: Doubts, coder: Coder) -> Rows:
    """What interrupted the CPU on which a thread ran or waited."""
    steal = evidence.of_kind(EventKind.STEAL)
    if len(steal):
        # Where in its window the time was taken is not known; a CPU that comes back writes its records then, so the
        # end of the window is where it can have been.
        ts = steal["ts"].astype(np.int64)
        start = np.maximum(ts - steal["b"].astype(np.int64), steal["a"].astype(np.int64))
        spans = intervals(steal["cpu"].astype(np.int64), start, ts)
        hypervisor = np.full(len(spans), plain(CulpritKind.HYPERVISOR))
        segments = _paint(segments, _here(segments), spans, np.full(len(spans), int(Cause.STEAL)), hypervisor)
    softirq = evidence.of_kind(EventKind.SOFTIRQ)
    segments = _paint_by_cpu(
        segments,
        softirq,
        np.full(len(softirq), int(Cause.SOFTIRQ)),
        coded(CulpritKind.SOFTIRQ, softirq["other"]),
    )
    segments = _doubt_waits(_doubt_runs(segments, doubts.masked), losses)
    vector = evidence.of_kind(EventKind.VECTOR)
    segments = _paint_by_cpu(
        segments,
        vector,
        np.where(vector["flags"] == Vector.LOCAL_TIMER, int(Cause.TIMER), int(Cause.IPI)),
        coder.vector(vector["flags"].astype(np.int64), vector["other"].astype(np.int64), vector["b"]),
    )
    hardirq = evidence.of_kind(EventKind.HARDIRQ)
    segments = _paint_by_cpu(
        segments,
        hardirq,
        np.where(np.isin(hardirq["other"], timer_irqs(evidence)), int(Cause.TIMER), int(Cause.HARDIRQ)),
        coded(CulpritKind.IRQ, hardirq["other"]),
    )
    nmi = evidence.of_kind(EventKind.NMI)
    return _paint_by_cpu(segments, nmi, np.full(len(nmi), int(Cause.NMI)), np.full(len(nmi), plain(CulpritKind.NMI)))


def _paint_by_cpu(segments: Rows, records: Rows, cause: Ints, code: Ints) -> Rows:
    return _paint_records(segments, _here(segments), records["cpu"].astype(np.int64), records, cause, code)


def _doubt_waits(segments: Rows, losses: Losses) -> Rows:
    """Before a loss a softirq or vector may have been under way on the CPU since the last record that rules it out.
    (What interrupted it in turn and did leave a record is still what it is: that is painted after this.)"""
    before = losses.by_cpu
    waiting = np.where(segments["role"] == Role.WAITING, segments["cpu"], -1).astype(np.int64)
    return _paint_lost(segments, waiting, intervals(before.group, losses.clean, before.start))


def _doubt_runs(segments: Rows, spans: Intervals) -> Rows:
    running = np.where(segments["role"] == Role.RUNNING, segments["thread"], -1).astype(np.int64)
    return _paint_lost(segments, running, spans)


def _paint_lost(segments: Rows, group: Ints, spans: Intervals) -> Rows:
    lost = np.full(len(spans), plain(CulpritKind.LOST))
    return _paint(segments, group, spans, np.full(len(spans), int(Cause.UNKNOWN)), lost)
