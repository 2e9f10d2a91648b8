"""The ledger: one cause for every nanosecond of every request, from intended start to end. It closes exactly."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.culprits import CulpritKind, Culprits, Namer, distinct, plain
from jitterprof.analysis.evidence import Evidence
from jitterprof.analysis.parallel import on_all_cpus
from jitterprof.analysis.segments import Ints, Rows
from jitterprof.analysis.stragglers import Pools, pool_claims
from jitterprof.analysis.timeline import Recording, Timeline, sort_out
from jitterprof.errors import RunFileError
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import PIECE_DTYPE, Basis, Ledger
from jitterprof.model.request import Kind

#: Records that a batch of requests should cover: few enough for what is worked on to stay in the CPU's cache.
BATCH_EVENTS = 1 << 16


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


@dataclass(frozen=True, slots=True)
class Windows:
    """Requests as windows of time: [intended, ready) behind earlier requests of the worker, [ready, start) until the
    request was sent, [start, end) in service by thread `tid`. `row` indexes the request table."""

    row: Ints
    intended: Ints
    ready: Ints
    start: Ints
    end: Ints
    tid: Ints

    def part(self, first: int, last: int) -> "Windows":
        """Those from index `first` to `last` (excluded)."""
        return Windows(*(getattr(self, name)[first:last] for name in Windows.__slots__))


@dataclass(frozen=True, slots=True)
class Batch:
    """The finished pieces (PIECE_DTYPE) of some requests; their `culprit` indexes `culprits.names`."""

    pieces: npt.NDArray[np.void]
    culprits: Culprits


def build_ledger(
    requests: npt.NDArray[np.void],
    evidence: Evidence,
    kind: Kind = Kind.REQUEST,
    timeline: Timeline | Recording | None = None,
    batch_events: int = BATCH_EVENTS,
) -> Ledger:
    """The ledger that `build_ledger_and_claims` describes, without the claims."""
    return build_ledger_and_claims(requests, evidence, kind, timeline, batch_events)[0]


def build_ledger_and_claims(
    requests: npt.NDArray[np.void],
    evidence: Evidence,
    kind: Kind = Kind.REQUEST,
    timeline: Timeline | Recording | None = None,
    batch_events: int = BATCH_EVENTS,
) -> tuple[Ledger, Ledger]:
    """Cut every row of `requests` (REQUEST_DTYPE) of this `kind` into pieces.

    [intended, end of the worker's previous row): `queue`. From there to the start: the thread's timeline, in which its
    own running and sleeping is `dispatch`. [start, end): the thread's timeline. `row` of a piece indexes `requests`.
    Pass what was made from the same requests and evidence to use it again: a Recording, whose timeline is then made for
    as many requests at a time as cover some `batch_events` records, on all CPUs; or the timeline of the whole session.
    Raises RunFileError for rows whose times are not in order.

    The second is what held up a pool's thread while the request's own ran (stragglers.py): claims on its `run` pieces,
    with Basis.POOL, that belong to no sum.
    """
    windows = _windows(requests, np.flatnonzero(requests["kind"] == kind))
    # A recording that nobody else needs is gone before the ledgers are put together.
    source = sort_out(requests, evidence) if timeline is None else timeline
    namer = Namer.of(source.evidence, source.coder)
    pools = Pools.of(source.tids, evidence, requests)
    both = _batches(windows, source, batch_events, namer, pools)
    del source
    batches, claimed = [batch for batch, _ in both], [claims for _, claims in both]
    del both
    ledger, claims = merged(batches, namer), merged(claimed, namer)
    claims.pieces["basis"] = Basis.POOL
    check_closure(ledger.pieces, requests, windows.row)
    return ledger, claims


def _batches(
    windows: Windows, source: Timeline | Recording, batch_events: int, namer: Namer, pools: Pools
) -> list[tuple[Batch, Batch]]:
    """Pieces and claims of all requests, some requests at a time."""
    if isinstance(source, Timeline):
        pieces = assemble([_queued(windows), *_observed(windows, source)], namer)
        return [(pieces, assemble([_claims(windows, source, pools)], namer))]
    events = source.evidence.events
    size = max(1, len(windows.row) * batch_events // max(1, len(events)))
    some = [windows.part(first, first + size) for first in range(0, len(windows.row), size)]
    # A few requests may last for long; they are looked at in stretches of no more than this.
    edges = events["ts"][:: 2 * batch_events].astype(np.int64)
    return on_all_cpus(lambda part: _one_batch(part, source, edges, namer, pools), some)


def _windows(requests: npt.NDArray[np.void], rows: Ints) -> Windows:
    mine = requests.take(rows)
    intended, start, end = mine["intended_ns"], mine["start_ns"], mine["end_ns"]
    disorder = np.flatnonzero((start < intended) | (end < start))
    if len(disorder):
        raise RunFileError(
            f"request row {rows[disorder[0]]} ends before it starts or starts before it was meant to",
            "the run is damaged; record it again",
        )
    ready = np.clip(previous_end(mine), intended, start)
    return Windows(rows, intended, ready, start, end, mine["tid"].astype(np.int64))


def _one_batch(windows: Windows, recording: Recording, edges: Ints, namer: Namer, pools: Pools) -> tuple[Batch, Batch]:
    parts, claims = [_queued(windows)], []
    first, last = int(windows.ready.min()), int(windows.end.max())
    inner = edges[(edges > first) & (edges < last)].tolist()
    for start, end in pairwise([first, *inner, last]):
        timeline = recording.timeline(start, end)
        parts += _observed(windows, timeline)
        claims.append(_claims(windows, timeline, pools))
    return assemble(parts, namer), assemble(claims, namer)


def _queued(windows: Windows) -> Pieces:
    return _uniform(windows.row, windows.intended, windows.ready, windows.tid, Cause.QUEUE, CulpritKind.NOBODY)


def _observed(windows: Windows, timeline: Timeline) -> list[Pieces]:
    """What the threads of the requests did as far as the timeline reaches: before the start, and from there on."""
    ready, start, end = (np.clip(edge, *timeline.span) for edge in (windows.ready, windows.start, windows.end))
    return [
        _dispatched(_seen(timeline, windows.row, windows.tid, ready, start)),
        _seen(timeline, windows.row, windows.tid, start, end),
    ]


def _claims(windows: Windows, timeline: Timeline, pools: Pools) -> Pieces:
    """What held up the pools of the requests, as far as the timeline reaches."""
    thread = timeline.thread(windows.tid)
    start, end = (np.clip(edge, *timeline.span) for edge in (windows.start, windows.end))
    seen = np.flatnonzero((thread >= 0) & (start < end))
    window, pieces = pool_claims(pools, timeline, thread[seen], start[seen], end[seen])
    return _of_segments(windows.row[seen][window], pieces)


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


def _seen(timeline: Timeline, rows: Ints, tid: Ints, start: Ints, end: Ints) -> Pieces:
    """The timeline in each window; `unknown` for threads that have none."""
    known = timeline.thread(tid) >= 0
    owner, pieces = timeline.pieces(tid[known], start[known], end[known])
    observed = _of_segments(rows[known][owner], pieces)
    blind = CulpritKind.UNCOVERED if timeline.evidence.sees_scheduling else CulpritKind.UNOBSERVED
    return joined([observed, _uniform(rows[~known], start[~known], end[~known], tid[~known], Cause.UNKNOWN, blind)])


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


def assemble(parts: list[Pieces], namer: Namer) -> Batch:
    """Order pieces by (row, start), join neighbours that say the same, and name their culprits."""
    pieces = joined(parts)
    order = np.lexsort((pieces.start, pieces.row))
    order = order[pieces.start[order] < pieces.end[order]]
    keys, key = distinct(pieces.code[order], pieces.note[order], pieces.via[order])
    culprits = namer.name(keys)
    table = np.zeros(len(order), PIECE_DTYPE)
    table["row"], table["start_ns"] = pieces.row[order], pieces.start[order]
    table["culprit"], table["cause"] = culprits.index[key], pieces.cause[order]
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
    whole = table.take(first)
    whole["ns"] = end[last] - whole["start_ns"]
    return Batch(whole, culprits)


def merged(batches: list[Batch], namer: Namer) -> Ledger:
    """One ledger of batches whose rows follow one another. Empties `batches`, to hold nothing twice."""
    keys = np.concatenate([np.zeros((0, 3), np.int64), *(batch.culprits.keys for batch in batches)])
    culprits = namer.name(np.unique(keys, axis=0))
    place = {name: number for number, name in enumerate(culprits.names)}
    pieces = np.empty(sum(len(batch.pieces) for batch in batches), PIECE_DTYPE)
    filled = len(pieces)
    while batches:
        batch = batches.pop()
        part = pieces[filled - len(batch.pieces) : filled]
        np.take(batch.pieces, np.arange(len(part)), out=part, mode="clip")
        part["culprit"] = np.array([place[name] for name in batch.culprits.names])[batch.pieces["culprit"]]
        filled -= len(part)
    return Ledger(pieces, culprits.names, culprits.observer)


def check_closure(pieces: npt.NDArray[np.void], requests: npt.NDArray[np.void], rows: Ints) -> None:
    """Each request's pieces must add up to its response time, to the nanosecond; else AssertionError: a bug of ours."""
    total = np.concatenate([[0], np.cumsum(pieces["ns"])])
    first, last = np.searchsorted(pieces["row"], rows, "left"), np.searchsorted(pieces["row"], rows, "right")
    wanted = requests["end_ns"][rows] - requests["intended_ns"][rows]
    wrong = np.flatnonzero(total[last] - total[first] != wanted)
    if len(wrong) or np.any(pieces["ns"] <= 0):
        row = rows[wrong[0]] if len(wrong) else -1
        raise AssertionError(f"the ledger of {len(wrong)} requests does not close, row {row} first")
