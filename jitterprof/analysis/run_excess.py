"""What made a request run for longer than usual: its running time beyond the shape's median, billed to its causes.

Three kinds of time hide in `run`. In the order in which they may claim it: what the events on the serving thread cost
beyond their spans; what held up a thread of its pool meanwhile; and what the events on that one cost beyond theirs. All
of it is moved inside the ledger, never more than the excess there is, and marked by its Basis.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.calibration import HostCosts
from jitterprof.analysis.cost_regression import HiddenCost, regress
from jitterprof.analysis.event_costs import Counts, UsualCounts, event_costs, fitting
from jitterprof.analysis.event_counts import EVENT_CLASSES, ClassedEvents, Ints
from jitterprof.analysis.interruptions import ADJACENT_NS
from jitterprof.analysis.parallel import on_all_cpus, slices
from jitterprof.analysis.run_cuts import CLASSES, Bills, cut_run
from jitterprof.analysis.segments import Rows
from jitterprof.analysis.spikes import MIN_BODY, measured_rows
from jitterprof.analysis.stragglers import Verdict, granted, judge, with_culprits
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import PIECE_DTYPE, Basis, Ledger

#: Requests that are worked on at once.
_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class RunExcess:
    """The measured requests: `rows` of the table, `excess` of running time over the median of their `shape` (numbered
    from 0; 0 for shapes too rare to have one), and that median, `usual`. ns.

    What is unknown may have been running time, and counts as such for the median, so that losses make no excess;
    without it the excess would be larger by up to `doubt`."""

    rows: npt.NDArray[np.intp]
    excess: Ints
    doubt: Ints
    usual: Ints
    shape: npt.NDArray[np.intp]


def bill_run_excess(
    requests: npt.NDArray[np.void],
    events: npt.NDArray[np.void],
    ledger: Ledger,
    host: HostCosts | None = None,
    claims: Ledger | None = None,
    gaps: npt.NDArray[np.void] | None = None,
    seed: int = 0,
) -> tuple[Ledger, tuple[HiddenCost, ...]]:
    """Move what took a request's running time beyond the usual from `run` to its cause. Every request's sum stays.

    `events`: EVENT_DTYPE. `host`: what the spin canary measured; see `prices`. `claims`: see stragglers.pool_claims.
    `gaps`: GAP_DTYPE; what the records that are missing may have cost becomes `unknown`. Where in the running time a
    hidden cost lies is not known: it is put at its beginning. Returns the ledger as it is when there is nothing to
    bill; and the regression's costs.
    """
    run = run_excess(requests, ledger)
    mine = requests.take(run.rows)
    classed = ClassedEvents.of(events)
    counts = _own_counts(mine, classed)
    costs = regress(mine, classed, counts, run.excess, run.shape, seed)
    price = prices(costs, host, claims is not None and len(claims.pieces) > 0)
    lost = _missing(mine, gaps)
    own = _Met(counts, UsualCounts.of(counts, lost, run.shape), np.zeros(0, np.int64))
    pool, heard = None, _Heard.none()
    if claims is not None:
        tid, counts = _worst_helper(mine, classed, claims, price)
        pool = _Met(counts, UsualCounts.of(counts, lost, run.shape), tid)
        heard = _heard(claims, run, len(requests))
    # Nobody else's running time was longer than usual.
    longer = np.flatnonzero((run.excess > 0) | (run.doubt > 0))
    found = on_all_cpus(
        lambda part: _bill(run, lost, price, own, pool, heard, longer[part]), slices(len(longer), _BLOCK)
    )
    if not found:
        return ledger, costs
    taken = np.concatenate([part for part, _ in found])
    bills = Bills.joined([part for _, part in found])
    if claims is not None and len(taken):
        ledger, index = with_culprits(ledger, claims.culprits, claims.observer)
        taken["culprit"] = index[taken["culprit"]]
    return cut_run(ledger, taken, bills), costs


def prices(costs: tuple[HiddenCost, ...], host: HostCosts | None, pooled: bool) -> npt.NDArray[np.float64]:
    """ns per event of each class: what the regression over this session says, where its interval excludes zero, else
    what the spin canary measured.

    Where requests have a pool, the canary goes first: a tick comes to all CPUs at once, and what it costs the others is
    in the running time of the thread that waits for them. No regression on its own ticks alone tells the two apart.
    """
    price = np.zeros(CLASSES) if host is None else host.ns.copy()
    for cost in costs:
        number = EVENT_CLASSES.index(cost.event_class)
        known = host is not None and host.gaps[number] > 0 and host.ns[number] > 0
        if cost.used and not (pooled and known):
            price[number] = cost.ns
    return price


def run_excess(requests: npt.NDArray[np.void], ledger: Ledger) -> RunExcess:
    """The running time of the measured requests against the median of their shapes."""
    rows = measured_rows(requests)
    pieces = ledger.pieces
    ran, may_have = (
        np.bincount(pieces["row"][of], pieces["ns"][of], len(requests)).astype(np.int64)
        for of in (pieces["cause"] == Cause.RUN, np.isin(pieces["cause"], (Cause.RUN, Cause.UNKNOWN)))
    )
    found, shape = np.unique(requests["shape"][rows], return_inverse=True)
    usual, excess, doubt = (np.zeros(len(rows), np.int64) for _ in range(3))
    for number in range(len(found)):
        of_shape = shape == number
        if of_shape.sum() >= MIN_BODY:
            mine = rows[of_shape]
            usual[of_shape] = round(float(np.median(may_have[mine])))
            excess[of_shape] = ran[mine] - usual[of_shape]
            most = ran[mine] - round(float(np.median(ran[mine])))
            doubt[of_shape] = np.maximum(most, 0) - np.maximum(excess[of_shape], 0)
    return RunExcess(rows, excess, doubt, usual, shape)


@dataclass(frozen=True, slots=True)
class _Met:
    """Events that the requests met on one thread each: `counts`, what is usual, and the `tid`, where it is another."""

    counts: Counts
    usual: UsualCounts
    tid: Ints


@dataclass(frozen=True, slots=True)
class _Heard:
    """Claims that are not refuted, PIECE_DTYPE by (row, start), and their rows; and whose (tid) are confirmed."""

    claims: Rows
    row: Ints
    confirmed: list[int]

    @staticmethod
    def none() -> "_Heard":
        return _Heard(np.empty(0, PIECE_DTYPE), np.empty(0, np.int64), [])


def _heard(claims: Ledger, run: RunExcess, size: int) -> _Heard:
    usual, excess = (np.full(size, -1, np.int64) for _ in range(2))
    usual[run.rows], excess[run.rows] = run.usual, run.excess
    verdicts = judge(claims.pieces, excess, usual)
    refuted = [tid for tid, verdict in verdicts.items() if verdict == Verdict.REFUTED]
    confirmed = [tid for tid, verdict in verdicts.items() if verdict == Verdict.CONFIRMED]
    heard = claims.pieces.compress(~np.isin(claims.pieces["tid"], refuted))
    return _Heard(heard, np.ascontiguousarray(heard["row"]), confirmed)


def _bill(
    run: RunExcess,
    lost: Ints,
    price: npt.NDArray[np.float64],
    own: _Met,
    pool: _Met | None,
    heard: _Heard,
    some: npt.NDArray[np.intp],
) -> tuple[Rows, Bills]:
    """What took the excess of `some` of the measured requests: the claims that are granted, and the bills."""
    lost, shape, left = lost[some], run.shape[some], np.maximum(run.excess[some], 0)
    wanted = event_costs(own.counts[some], lost, shape, own.usual, price)
    ours = fitting(wanted, left)
    left = left - ours.sum(axis=1)
    unpaid = wanted.sum(axis=1) - ours.sum(axis=1)

    taken, helpers, straggler = _Heard.none().claims, np.zeros_like(ours), np.zeros(len(some), np.int64)
    if pool is not None:
        taken, asked, paid = _grant(heard, run.rows[some], left)
        left = left - paid
        straggler = pool.tid[some]
        wanted = event_costs(pool.counts[some], lost, shape, pool.usual, price)
        # With records missing it might have been another one.
        wanted[lost > 0, -1] = wanted[lost > 0].sum(axis=1)
        wanted[lost > 0, :-1] = 0
        helpers = fitting(wanted, left)
        unpaid += asked - paid + wanted.sum(axis=1) - helpers.sum(axis=1)
    unknown = ours[:, -1] + helpers[:, -1] + np.minimum(unpaid, run.doubt[some]).astype(np.int64)
    bill = np.column_stack([ours[:, :-1], helpers[:, :-1], unknown])
    return taken, Bills.of(run.rows[some], bill, straggler)


def _grant(heard: _Heard, rows: npt.NDArray[np.intp], left: Ints) -> tuple[Rows, Ints, Ints]:
    """The claims on the running time of `rows` that `left` allows; and what was claimed and granted, per row."""
    first, size = int(rows[0]), int(rows[-1] - rows[0]) + 1
    claims = heard.claims[slice(*np.searchsorted(heard.row, [first, first + size]))].copy()
    claims["row"] -= first
    budget = np.zeros(size, np.int64)
    budget[rows - first] = left
    taken = granted(claims, budget)
    asked, paid = (np.bincount(of["row"], of["ns"], size).astype(np.int64)[rows - first] for of in (claims, taken))
    taken["row"] += first
    taken["basis"] = np.where(np.isin(taken["tid"], heard.confirmed), int(Basis.POOL), int(Basis.POOL_GUESS))
    return taken, asked, paid


def _own_counts(mine: npt.NDArray[np.void], classed: ClassedEvents) -> Counts:
    """int32[requests, classes]: events on the serving threads."""
    counts = np.zeros((len(mine), CLASSES), np.int32)

    def count(part: slice) -> None:
        counts[part] = classed.count(mine[part], mine["tid"][part])

    on_all_cpus(count, slices(len(mine), _BLOCK))
    return counts


def _worst_helper(
    mine: npt.NDArray[np.void], classed: ClassedEvents, claims: Ledger, price: npt.NDArray[np.float64]
) -> tuple[Ints, Counts]:
    """Per measured request the pool thread whose events cost most, and how many they were: int32[requests, classes]."""
    tid = np.zeros(len(mine), np.int64)
    worst = np.zeros((len(mine), CLASSES), np.int32)
    helpers = np.unique(claims.pieces["tid"]).tolist()

    def find(part: slice) -> None:
        most = np.zeros(part.stop - part.start)
        for helper in helpers:
            counts = _helper_counts(mine[part], classed, helper)
            cost = (counts * price).sum(axis=1)
            larger = cost > most
            worst[part][larger], most[larger], tid[part][larger] = counts[larger], cost[larger], helper

    on_all_cpus(find, slices(len(mine), _BLOCK))
    return tid, worst


def _helper_counts(mine: npt.NDArray[np.void], classed: ClassedEvents, helper: int) -> Counts:
    counts = np.zeros((len(mine), CLASSES), np.int32)
    # Requests on several serving threads overlap; those of one do not.
    for server in np.unique(mine["tid"]).tolist():
        served = np.flatnonzero(mine["tid"] == server)
        counts[served] = classed.count(mine.take(served), np.full(len(served), helper))
    return counts


def _missing(mine: npt.NDArray[np.void], gaps: npt.NDArray[np.void] | None) -> Ints:
    """How many records may be missing from each request: all that were lost in the gaps that touch it."""
    if gaps is None or not len(gaps):
        return np.zeros(len(mine), np.int64)

    def lost_until(edge: Ints, time: Ints) -> Ints:
        order = np.argsort(edge, kind="stable")
        total = np.concatenate([[0], np.cumsum(gaps["lost"][order])])
        until: Ints = total[np.searchsorted(edge[order], time, "left")]
        return until

    # A record beside the request may have been of the interruption that began or ended in it.
    start, end = mine["start_ns"] - ADJACENT_NS, mine["end_ns"] + ADJACENT_NS
    return lost_until(gaps["start_ns"], end) - lost_until(gaps["end_ns"], start)
