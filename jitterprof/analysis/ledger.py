"""The ledger: one cause for every nanosecond of every request, from intended start to end. It closes exactly."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.culprits import Coder, CulpritKind, name_culprits, plain
from jitterprof.analysis.evidence import Evidence
from jitterprof.analysis.segments import Ints, Rows
from jitterprof.analysis.timeline import Timeline, build_timeline
from jitterprof.errors import RunFileError
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import PIECE_DTYPE, Ledger
from jitterprof.model.request import Kind


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces of requests before their culprits are named; columns as in PIECE_DTYPE and SEGMENT_DTYPE."""

    row: Ints
    start: Ints
    end: Ints
    cause: Ints
    code: Ints
    note: Ints
    via: Ints
    tid: Ints
    cpu: Ints


def build_ledger(
    requests: npt.NDArray[np.void], evidence: Evidence, kind: Kind = Kind.REQUEST, timeline: Timeline | None = None
) -> Ledger:
    """Cut every row of `requests` (REQUEST_DTYPE) of this `kind` into pieces.

    [intended, end of the worker's previous row): `queue`. From there to the start: the thread's timeline, in which its
    own running and sleeping is `dispatch`. [start, end): the thread's timeline. `row` of a piece indexes `requests`.
    Pass a `timeline` built from the same requests and evidence to use it again. Raises RunFileError for rows whose
    times are not in order.
    """
    if timeline is None:
        timeline = build_timeline(requests, evidence)
    rows = np.flatnonzero(requests["kind"] == kind)
    intended, start, end = (requests[name][rows] for name in ("intended_ns", "start_ns", "end_ns"))
    disorder = np.flatnonzero((start < intended) | (end < start))
    if len(disorder):
        raise RunFileError(
            f"request row {rows[disorder[0]]} ends before it starts or starts before it was meant to",
            "the run is damaged; record it again",
        )
    ready = np.clip(previous_end(requests[rows]), intended, start)
    tid = requests["tid"][rows].astype(np.int64)
    parts = [
        _uniform(rows, intended, ready, tid, Cause.QUEUE, CulpritKind.NOBODY),
        _dispatched(_observed(timeline, rows, tid, ready, start)),
        _observed(timeline, rows, tid, start, end),
    ]
    ledger = assemble(parts, timeline.coder, timeline.evidence)
    check_closure(ledger.pieces, requests, rows)
    return ledger


def previous_end(requests: npt.NDArray[np.void]) -> Ints:
    """For each row the latest end of an earlier-started row of its worker; the lowest int where there is none."""
    order = np.lexsort((requests["start_ns"], requests["worker"]))
    worker, end = requests["worker"][order], requests["end_ns"][order]
    before = np.full(len(order), np.iinfo(np.int64).min)
    for one in np.unique(worker):
        mine = np.flatnonzero(worker == one)
        before[mine[1:]] = np.maximum.accumulate(end[mine])[:-1]
    previous = np.empty(len(order), np.int64)
    previous[order] = before
    return previous


def _uniform(rows: Ints, start: Ints, end: Ints, tid: Ints, cause: Cause, culprit: CulpritKind) -> Pieces:
    n = len(rows)
    none = np.zeros(n, np.int64)
    return Pieces(rows, start, end, np.full(n, int(cause)), np.full(n, plain(culprit)), none, none, tid, none - 1)


def _observed(timeline: Timeline, rows: Ints, tid: Ints, start: Ints, end: Ints) -> Pieces:
    """The timeline in each window; `unknown` for threads that have none."""
    seen = timeline.thread(tid) >= 0
    owner, pieces = timeline.pieces(tid[seen], start[seen], end[seen])
    known = _of_segments(rows[seen][owner], pieces)
    blind = CulpritKind.UNCOVERED if timeline.evidence.sees_scheduling else CulpritKind.UNOBSERVED
    return joined([known, _uniform(rows[~seen], start[~seen], end[~seen], tid[~seen], Cause.UNKNOWN, blind)])


def _of_segments(row: Ints, segments: Rows) -> Pieces:
    columns = (
        segments[name].astype(np.int64) for name in ("start", "end", "cause", "code", "note", "via", "tid", "cpu")
    )
    return Pieces(row, *columns)


def _dispatched(pieces: Pieces) -> Pieces:
    """Before a request starts its thread is the load generator's: running, sleeping, not yet there is dispatch."""
    slept = pieces.cause == Cause.SLEEP
    unseen = (plain(CulpritKind.UNCOVERED), plain(CulpritKind.UNOBSERVED))
    absent = (pieces.cause == Cause.UNKNOWN) & np.isin(pieces.code, unseen)
    dispatch = slept | absent | (pieces.cause == Cause.RUN)
    code = np.where(slept, plain(CulpritKind.TIMER), np.where(dispatch, plain(CulpritKind.NOBODY), pieces.code))
    return Pieces(
        pieces.row,
        pieces.start,
        pieces.end,
        np.where(dispatch, int(Cause.DISPATCH), pieces.cause),
        code,
        np.where(dispatch, 0, pieces.note),
        np.where(dispatch, 0, pieces.via),
        pieces.tid,
        pieces.cpu,
    )


def joined(parts: list[Pieces]) -> Pieces:
    """All pieces of `parts`, one after the other."""
    return Pieces(*(np.concatenate([getattr(part, name) for part in parts]) for name in Pieces.__slots__))


def assemble(parts: list[Pieces], coder: Coder, evidence: Evidence) -> Ledger:
    """Order pieces by (row, start), join neighbours that say the same, and name their culprits."""
    pieces = joined(parts)
    named = name_culprits(evidence, coder, pieces.code, pieces.note, pieces.via)
    order = np.lexsort((pieces.start, pieces.row))
    order = order[pieces.start[order] < pieces.end[order]]
    table = np.zeros(len(order), PIECE_DTYPE)
    table["row"], table["start_ns"] = pieces.row[order], pieces.start[order]
    table["culprit"], table["cause"] = named.index[order], pieces.cause[order]
    table["tid"], table["cpu"] = pieces.tid[order], pieces.cpu[order]
    table["origin"] = -1
    end = pieces.end[order]
    opens = np.ones(len(table), bool)
    if len(table):
        opens[1:] = table["start_ns"][1:] != end[:-1]
        for name in ("row", "culprit", "cause", "tid", "cpu"):
            opens[1:] |= table[name][1:] != table[name][:-1]
    first = np.flatnonzero(opens)
    last = np.append(first[1:], len(table))[: len(first)] - 1
    merged = table[first]
    merged["ns"] = end[last] - merged["start_ns"]
    return Ledger(merged, named.names, named.observer)


def check_closure(pieces: npt.NDArray[np.void], requests: npt.NDArray[np.void], rows: Ints) -> None:
    """Each request's pieces must add up to its response time, to the nanosecond; else AssertionError: a bug of ours."""
    total = np.concatenate([[0], np.cumsum(pieces["ns"])])
    first, last = np.searchsorted(pieces["row"], rows, "left"), np.searchsorted(pieces["row"], rows, "right")
    wanted = requests["end_ns"][rows] - requests["intended_ns"][rows]
    wrong = np.flatnonzero(total[last] - total[first] != wanted)
    if len(wrong) or np.any(pieces["ns"] <= 0):
        row = rows[wrong[0]] if len(wrong) else -1
        raise AssertionError(f"the ledger of {len(wrong)} requests does not close, row {row} first")
