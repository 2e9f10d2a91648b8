"""Threads of a pool that were held up while the thread that serves the request was busy.

A pool whose threads spin hides its stragglers: the serving thread waits for the last of them on its CPU, or does their
share of the work itself, and looks busy either way. Where a thread of the same process that wanted to run could not,
in the middle of a request, that time is a *claim* on the request's running time. How much of it is granted is decided
where the whole session is known (`run_excess.py`): never more than what the request ran for beyond the usual.
(Scalasca's delay analysis: Boehme et al., "Identifying the root causes of wait states", TOPC 3(2), 2016.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.culprits import CulpritKind, Tasks, plain
from jitterprof.analysis.evidence import Evidence
from jitterprof.analysis.segments import Ints, Rows, collect, cut, intervals, union
from jitterprof.analysis.timeline import Timeline
from jitterprof.model.cause import HELD_UP, Cause
from jitterprof.model.ledger import Ledger


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


@dataclass(frozen=True, slots=True)
class Pools:
    """Which threads may hold up which: `helper`, whether a thread of the timeline serves no requests itself; `process`,
    the process of each. `unseen`: codes of `unknown` time in which a helper may have been held up."""

    helper: npt.NDArray[np.bool_]
    process: Ints
    unseen: Ints

    @staticmethod
    def of(tids: Ints, evidence: Evidence, requests: npt.NDArray[np.void]) -> "Pools":
        """Sort out the threads of a timeline. One that no record names belongs to the first process of the target."""
        known = Tasks.of(evidence).process
        first = next(iter(evidence.pids), 0)
        process = np.array([known.get(tid, first) for tid in tids.tolist()], np.int64)
        # Where records were lost, a thread that was not seen yet may have been seen.
        unseen = [CulpritKind.LOST, CulpritKind.UNCOVERED] if len(evidence.gaps) else [CulpritKind.LOST]
        return Pools(
            ~np.isin(tids, np.unique(requests["tid"])), process, np.array([plain(kind) for kind in unseen], np.int64)
        )


def pool_claims(pools: Pools, timeline: Timeline, thread: Ints, start: Ints, end: Ints) -> tuple[Ints, Rows]:
    """The time in which a helper was held up while the serving thread of each window [start, end) ran.

    `thread`: index into the timeline's threads. Returns (index of the window, pieces): they lie inside running time of
    the window and do not overlap, and have the cause, culprit, thread and CPU of the helper. Where a helper's state was
    lost, the claim is `unknown`.
    """
    owner, mine = collect(thread, start, end, timeline.own)
    ran = mine["cause"] == Cause.RUN
    owner, mine = owner[ran], mine.compress(ran)
    held = _held_up(pools, timeline.own)
    spans = intervals(pools.process[held["thread"]], held["start"], held["end"])
    # The window travels through `cut` in a column that running has no use for.
    mine["wait"] = owner
    parts, at = cut(mine, pools.process[mine["thread"]], spans)
    parts, at = parts.compress(at >= 0), at[at >= 0]
    claims = held.take(spans.row[at])
    claims["start"], claims["end"] = parts["start"], parts["end"]
    return parts["wait"].astype(np.int64), claims


def _held_up(pools: Pools, segments: Rows) -> Rows:
    """The segments in which a helper was held up, one at a time in each process: where several were, the one with the
    lowest number. None of them while the state of any helper of the process is lost: those segments come with them."""
    segments = segments.compress(pools.helper[segments["thread"]])
    held = np.isin(segments["cause"], HELD_UP)
    chosen: Rows = segments[(segments["cause"] == Cause.UNKNOWN) & np.isin(segments["code"], pools.unseen)]
    for thread in np.unique(segments["thread"][held]).tolist():
        mine = segments[held & (segments["thread"] == thread)]
        taken = union(pools.process[chosen["thread"]], chosen["start"], chosen["end"])
        mine, at = cut(mine, np.full(len(mine), pools.process[thread]), taken)
        chosen = np.concatenate([chosen, mine[at < 0]])
    return chosen


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
