"""Threads of a pool that were held up while the thread that serves the request was busy.

A pool whose threads spin hides its stragglers: the serving thread waits for the last of them on its CPU, or does their
share of the work itself, and looks busy either way. Where a thread of the same process that wanted to run could not,
in the middle of a request, that time is a *claim* on the request's running time. How much of it is granted is decided
where the whole session is known (`run_excess.py`): never more than what the request ran for beyond the usual.
(Scalasca's delay analysis: Boehme et al., "Identifying the root causes of wait states", TOPC 3(2), 2016.)
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.culprits import CulpritKind, Tasks, plain
from jitterprof.analysis.ledger import Pieces, assemble
from jitterprof.analysis.segments import Ints, Rows, cut, intervals, union
from jitterprof.analysis.timeline import Timeline
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import Basis, Ledger
from jitterprof.model.request import Kind

#: States of a thread that wants to run and does not get on with its work.
HELD_UP = (
    Cause.PREEMPTED,
    Cause.WAKEUP,
    Cause.THROTTLED,
    Cause.PAGE_FAULT,
    Cause.RECLAIM,
    Cause.BLOCK_IO,
    Cause.HARDIRQ,
    Cause.TIMER,
    Cause.IPI,
    Cause.SOFTIRQ,
    Cause.NMI,
    Cause.STEAL,
    Cause.STOPPED,
)


class Verdict(IntEnum):
    """Whether requests really take longer when a thread of the pool is held up."""

    UNKNOWN = 0
    CONFIRMED = 1
    REFUTED = 2


#: Requests with a claim that are needed for a verdict, and without one that they are compared with.
MIN_CLAIMS, MIN_FREE = 8, 20
#: A claim that is a smaller part of the usual running time says nothing either way.
MATERIAL = 0.05
#: Confirmed: at least this share of the requests with a claim are above this quantile of those without.
CONFIRMED_SHARE, FREE_QUANTILE = 0.5, 0.9
#: Refuted: of this many, the median is not even a tenth of the claim above the median of those without.
MIN_REFUTING, REFUTED_PART = 20, 0.1


def pool_claims(requests: npt.NDArray[np.void], timeline: Timeline, kind: Kind = Kind.REQUEST) -> Ledger:
    """The time in which a pool thread was held up while the serving thread of a row of this `kind` ran, by row.

    Its pieces lie inside `run` pieces of the row's ledger and do not overlap; they have the cause, culprit, thread and
    CPU of the pool thread and Basis.POOL. Where a pool thread's state was lost, the claim is `unknown`.
    """
    process = _processes(timeline)
    spans_of = _held_up(timeline, np.unique(requests["tid"]).astype(np.int64), process)
    spans = intervals(process[spans_of["thread"]], spans_of["start"], spans_of["end"])
    rows = np.flatnonzero(requests["kind"] == kind)
    thread = timeline.thread(requests["tid"][rows].astype(np.int64))
    rows, thread = rows[thread >= 0], thread[thread >= 0]
    owner, mine = timeline.pieces(timeline.tids[thread], requests["start_ns"][rows], requests["end_ns"][rows])
    ran = (mine["cause"] == Cause.RUN) & (mine["via"] == 0)
    owner, mine = owner[ran], mine[ran]
    # The row travels through `cut` in a column that running has no use for.
    mine["wait"] = owner
    parts, at = cut(mine, process[mine["thread"]], spans)
    parts, held = parts[at >= 0], spans_of[spans.row[at[at >= 0]]] if len(spans) else spans_of[:0]
    claims = Pieces(
        rows[parts["wait"]],
        parts["start"],
        parts["end"],
        *(held[name].astype(np.int64) for name in ("cause", "code", "note", "via", "tid", "cpu")),
    )
    ledger = assemble([claims], timeline.coder, timeline.evidence)
    ledger.pieces["basis"] = Basis.POOL
    return ledger


def _held_up(timeline: Timeline, serving: Ints, process: Ints) -> Rows:
    """The segments in which a helper was held up, one at a time in each process: where several were, the one with the
    lowest number. None of them while the state of any helper of the process is lost: those segments come with them."""
    helper = ~np.isin(timeline.tids, serving)
    segments = timeline.segments[helper[timeline.segments["thread"]]]
    # Where records were lost, a thread that was not seen yet may have been seen.
    unseen = [CulpritKind.LOST, CulpritKind.UNCOVERED] if len(timeline.evidence.gaps) else [CulpritKind.LOST]
    lost = (segments["cause"] == Cause.UNKNOWN) & np.isin(segments["code"], [plain(kind) for kind in unseen])
    held = np.isin(segments["cause"], HELD_UP)
    chosen: Rows = segments[lost]
    for thread in np.unique(segments["thread"][held]).tolist():
        mine = segments[held & (segments["thread"] == thread)]
        taken = union(process[chosen["thread"]], chosen["start"], chosen["end"])
        mine, at = cut(mine, np.full(len(mine), process[thread]), taken)
        chosen = np.concatenate([chosen, mine[at < 0]])
    return chosen


def _processes(timeline: Timeline) -> Ints:
    """The process of each of the timeline's threads. One that no record names belongs to the target's first."""
    known = Tasks.of(timeline.evidence).process
    first = next(iter(timeline.evidence.pids), 0)
    return np.array([known.get(tid, first) for tid in timeline.tids.tolist()], np.int64)


def judge(claims: Rows, excess: npt.NDArray[np.int64], usual: npt.NDArray[np.int64]) -> dict[int, Verdict]:
    """A verdict on each thread that claims.

    `claims`: PIECE_DTYPE. `excess`: running time over the shape's median, ns, and `usual`, that median, by row of the
    request table (-1: a row that is not looked at).
    """
    looked = usual >= 0
    claimed = np.zeros(len(usual), np.int64)
    np.add.at(claimed, claims["row"], claims["ns"])
    free = excess[looked & (claimed == 0)]
    limit = np.quantile(free, FREE_QUANTILE) if len(free) >= MIN_FREE else None
    verdicts = {}
    for tid in np.unique(claims["tid"]).tolist():
        mine = np.zeros(len(usual), np.int64)
        of_tid = claims[(claims["tid"] == tid) & (claims["cause"] != Cause.UNKNOWN)]
        np.add.at(mine, of_tid["row"], of_tid["ns"])
        hit = np.flatnonzero(looked & (mine > MATERIAL * np.maximum(usual, 1)))
        verdicts[tid] = _verdict(excess[hit], mine[hit], limit, free)
    return verdicts


def _verdict(
    excess: npt.NDArray[np.int64], claimed: Ints, limit: np.floating | None, free: npt.NDArray[np.int64]
) -> Verdict:
    if limit is None or len(excess) < MIN_CLAIMS:
        return Verdict.UNKNOWN
    if (excess > limit).mean() >= CONFIRMED_SHARE:
        return Verdict.CONFIRMED
    gained = np.median(excess) - np.median(free)
    if len(excess) >= MIN_REFUTING and gained <= REFUTED_PART * np.median(claimed):
        return Verdict.REFUTED
    return Verdict.UNKNOWN


def granted(claims: Rows, budget: npt.NDArray[np.int64]) -> Rows:
    """The claims (PIECE_DTYPE) that fit into `budget` ns of each row: the latest first, since a region ends when its
    last thread is done. The one that no longer fits is granted its end."""
    order = np.lexsort((-claims["start_ns"], claims["row"]))
    claims = claims[order]
    total = np.cumsum(claims["ns"])
    first = np.flatnonzero(np.diff(claims["row"], prepend=-1))
    before_row = np.repeat(total[first] - claims["ns"][first], np.diff(np.append(first, len(claims))))
    used = total - claims["ns"] - before_row
    ns = np.clip(budget[claims["row"]] - used, 0, claims["ns"])
    claims["start_ns"] += claims["ns"] - ns
    claims["ns"] = ns
    claims = claims[ns > 0]
    return claims[np.lexsort((claims["start_ns"], claims["row"]))]


def with_culprits(ledger: Ledger, names: Sequence[str], observer: npt.NDArray[np.bool_]) -> tuple[Ledger, Ints]:
    """`ledger` with more culprit names, and the index of each of `names` among them."""
    index = {name: number for number, name in enumerate(ledger.culprits)}
    at = np.array([index.setdefault(name, len(index)) for name in names], np.int64)
    ours = np.zeros(len(index), bool)
    ours[: len(ledger.culprits)] = ledger.observer
    ours[at] |= observer
    return Ledger(ledger.pieces, tuple(index), ours), at
