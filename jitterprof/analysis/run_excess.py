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
from jitterprof.analysis.culprits import LOST_NAME
from jitterprof.analysis.event_counts import EVENT_CLASSES, ClassedEvents, Ints
from jitterprof.analysis.spikes import MIN_BODY, measured_rows
from jitterprof.analysis.stragglers import Verdict, granted, judge, with_culprits
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import PIECE_DTYPE, Basis, Ledger

_CLASSES = len(EVENT_CLASSES)


@dataclass(frozen=True, slots=True)
class RunExcess:
    """The measured requests: `rows` of the table, `excess` of running time over the median of their `shape` (numbered
    from 0; 0 for shapes too rare to have one), and that median, `usual`. ns."""

    rows: npt.NDArray[np.intp]
    excess: Ints
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

    `events`: EVENT_DTYPE. `host`: what the spin canary measured; a class costs what the regression over this session
    says, where its interval excludes zero, else that. `claims`: see stragglers.pool_claims. `gaps`: GAP_DTYPE; what the
    records that are missing may have cost becomes `unknown`. Where in the running time a hidden cost lies is not known:
    it is put at its beginning. Returns the ledger as it is when there is nothing to bill; and the regression's costs.
    """
    run = run_excess(requests, ledger)
    mine = requests[run.rows]
    classed = ClassedEvents.of(events)
    counts = classed.count(mine, mine["tid"])
    costs = regress(mine, classed, counts, run.excess, run.shape, seed)
    price = np.zeros(_CLASSES) if host is None else host.ns.copy()
    for cost in costs:
        if cost.used:
            price[EVENT_CLASSES.index(cost.event_class)] = cost.ns
    left = np.maximum(run.excess, 0)
    own = _fitting(_unusual(counts, run.shape) * price, left)
    left = left - own.sum(axis=1)

    helpers = np.zeros_like(own)
    straggler = np.zeros(len(mine), np.int64)
    if claims is not None:
        ledger, paid = _grant(requests, ledger, claims, run, left)
        left = left - paid
        straggler, helper_counts = _worst_helper(mine, classed, claims, run, price)
        helpers = _fitting(_unusual(helper_counts, run.shape) * price, left)
        left = left - helpers.sum(axis=1)
    missing = _fitting(_missing(mine, gaps)[:, None] * price.max(initial=0.0), left)
    bill = np.concatenate([own, helpers, missing], axis=1)
    if bill.any():
        ledger = _move(ledger, run.rows, bill, len(requests), straggler)
    return ledger, costs


def run_excess(requests: npt.NDArray[np.void], ledger: Ledger) -> RunExcess:
    """The running time of the measured requests against the median of their shapes."""
    rows = measured_rows(requests)
    ran = np.zeros(len(requests), np.int64)
    is_run = ledger.pieces["cause"] == Cause.RUN
    np.add.at(ran, ledger.pieces["row"][is_run], ledger.pieces["ns"][is_run])
    found, shape = np.unique(requests["shape"][rows], return_inverse=True)
    usual, excess = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for number in range(len(found)):
        of_shape = shape == number
        if of_shape.sum() >= MIN_BODY:
            usual[of_shape] = round(float(np.median(ran[rows[of_shape]])))
            excess[of_shape] = ran[rows[of_shape]] - usual[of_shape]
    return RunExcess(rows, excess, usual, shape)


def _unusual(counts: Ints, shape: npt.NDArray[np.intp]) -> Ints:
    """Events beyond the median of the shape: those are in its usual running time."""
    over = counts.copy()
    for number in range(int(shape.max(initial=-1)) + 1):
        of_shape = shape == number
        over[of_shape] -= np.median(counts[of_shape], axis=0).astype(np.int64)
    return np.maximum(over, 0)


def _fitting(bill: npt.NDArray[np.float64], allowed: Ints) -> Ints:
    """`bill` (requests, classes) in whole ns, each row scaled down to what it is `allowed`."""
    total = bill.sum(axis=1)
    share = np.divide(np.minimum(total, allowed), total, out=np.zeros(len(total)), where=total > 0)
    whole: Ints = np.floor(bill * share[:, None]).astype(np.int64)
    return whole


def _grant(
    requests: npt.NDArray[np.void], ledger: Ledger, claims: Ledger, run: RunExcess, left: Ints
) -> tuple[Ledger, Ints]:
    """Replace running time by the claims on it that `left` allows; and how much that was, per measured request."""
    usual, excess, budget = (np.full(len(requests), -1, np.int64) for _ in range(3))
    usual[run.rows], excess[run.rows], budget[run.rows] = run.usual, run.excess, left
    verdicts = judge(claims.pieces, excess, usual)
    refuted = [tid for tid, verdict in verdicts.items() if verdict == Verdict.REFUTED]
    confirmed = [tid for tid, verdict in verdicts.items() if verdict == Verdict.CONFIRMED]
    taken = granted(claims.pieces[~np.isin(claims.pieces["tid"], refuted)], np.maximum(budget, 0))
    if not len(taken):
        return ledger, np.zeros(len(run.rows), np.int64)
    ledger, index = with_culprits(ledger, claims.culprits, claims.observer)
    taken["culprit"] = index[taken["culprit"]]
    taken["basis"] = np.where(np.isin(taken["tid"], confirmed), int(Basis.POOL), int(Basis.POOL_GUESS))
    paid = np.zeros(len(requests), np.int64)
    np.add.at(paid, taken["row"], taken["ns"])
    return Ledger(_replaced(ledger.pieces, taken), ledger.culprits, ledger.observer), paid[run.rows]


def _replaced(pieces: npt.NDArray[np.void], taken: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """`pieces` with `taken` cut out of the pieces that they lie in; both by (row, start)."""
    # Both as positions on one axis, on which the pieces of all rows follow each other.
    ends = np.cumsum(pieces["ns"])
    key = np.concatenate([pieces["row"], taken["row"]]), np.concatenate([pieces["start_ns"], taken["start_ns"]])
    order = np.lexsort((np.arange(len(key[0])) >= len(pieces), key[1], key[0]))
    of_pieces = np.cumsum(order < len(pieces)) - 1
    holder = np.empty(len(order), np.int64)
    holder[order] = of_pieces
    inside = holder[len(pieces) :]
    begin = ends[inside] - pieces["ns"][inside] + (taken["start_ns"] - pieces["start_ns"][inside])
    hit = np.unique(inside)
    # What is left of a piece lies between its begin or the end of a claim, and the next claim or its end.
    lefts = np.sort(np.concatenate([ends[hit] - pieces["ns"][hit], begin + taken["ns"]]))
    rights = np.sort(np.concatenate([begin, ends[hit]]))
    source = np.searchsorted(ends, lefts, "right")
    source = np.minimum(source, len(pieces) - 1)
    rest = pieces[source]
    rest["start_ns"] += lefts - (ends[source] - pieces["ns"][source])
    rest["ns"] = rights - lefts
    whole = np.ones(len(pieces), bool)
    whole[hit] = False
    merged = np.concatenate([pieces[whole], rest[rights > lefts], taken]).astype(PIECE_DTYPE, copy=False)
    return merged[np.lexsort((merged["start_ns"], merged["row"]))]


def _worst_helper(
    mine: npt.NDArray[np.void], classed: ClassedEvents, claims: Ledger, run: RunExcess, price: npt.NDArray[np.float64]
) -> tuple[Ints, Ints]:
    """Per measured request the pool thread whose events cost most, and their counts."""
    tid = np.zeros(len(mine), np.int64)
    worst, most = np.zeros((len(mine), _CLASSES), np.int64), np.zeros(len(mine))
    for helper in np.unique(claims.pieces["tid"]).tolist():
        counts = np.zeros_like(worst)
        # Requests on several serving threads overlap; those of one do not.
        for server in np.unique(mine["tid"]).tolist():
            served = np.flatnonzero(mine["tid"] == server)
            counts[served] = classed.count(mine[served], np.full(len(served), helper))
        cost = (_unusual(counts, run.shape) * price).sum(axis=1)
        larger = cost > most
        worst[larger], most[larger], tid[larger] = counts[larger], cost[larger], helper
    return tid, worst


def _missing(mine: npt.NDArray[np.void], gaps: npt.NDArray[np.void] | None) -> Ints:
    """How many records may be missing from each request: all that were lost in the gaps that touch it."""
    if gaps is None or not len(gaps):
        return np.zeros(len(mine), np.int64)

    def lost_until(edge: Ints, time: Ints) -> Ints:
        order = np.argsort(edge, kind="stable")
        total = np.concatenate([[0], np.cumsum(gaps["lost"][order])])
        until: Ints = total[np.searchsorted(edge[order], time, "left")]
        return until

    return lost_until(gaps["start_ns"], mine["end_ns"]) - lost_until(gaps["end_ns"], mine["start_ns"])


def _move(ledger: Ledger, rows: npt.NDArray[np.intp], bill: Ints, size: int, straggler: Ints) -> Ledger:
    """Cut `bill` out of the beginning of each request's running time.

    `bill`: int64[rows, 2 * classes + 1]: own events, those of the `straggler` (tid per row), records that are missing.
    """
    pieces = ledger.pieces
    paying = bill.any(axis=1)
    rows, bill, straggler = rows[paying], bill[paying], straggler[paying]
    pays = np.zeros(size, bool)
    pays[rows] = True
    is_run = (pieces["cause"] == Cause.RUN) & pays[pieces["row"]]
    run = pieces[is_run]
    run = run[np.argsort(run["row"], kind="stable")]
    # All running time on one axis; a request's own begins at `begin[row]`.
    piece_end = np.cumsum(run["ns"])
    piece_begin = piece_end - run["ns"]
    total = np.zeros(size, np.int64)
    np.add.at(total, run["row"], run["ns"])
    begin = np.cumsum(total) - total
    segment_end = begin[rows][:, None] + np.cumsum(bill, axis=1)
    edges = np.unique(np.concatenate([[0], piece_end, segment_end.reshape(-1)]))
    start, length = edges[:-1], np.diff(edges)
    source = np.searchsorted(piece_end, start, "right")
    parts = run[source]
    parts["start_ns"] += start - piece_begin[source]
    parts["ns"] = length
    # Segments lie in the order of their requests, so one search finds the segment of a part; past the last of its own
    # request it is running time still.
    columns = bill.shape[1]
    segment = np.searchsorted(segment_end.reshape(-1), start, "right")
    place = np.full(size, -1, np.int64)
    place[rows] = np.arange(len(rows))
    payer = place[parts["row"]]
    billed = segment // columns == payer
    column = segment[billed] % columns
    ours, missing = column < _CLASSES, column == columns - 1
    number = np.where(missing, _CLASSES, column % _CLASSES)
    culprit, names = _culprits(ledger, size, parts["row"][billed], number)
    parts["cause"][billed] = np.array([*(one.cause for one in EVENT_CLASSES), Cause.UNKNOWN], np.uint8)[number]
    parts["culprit"][billed] = culprit
    # A run piece may have been billed by an earlier calibration; here it is billed in full or not at all.
    parts["calibrated_ns"] = 0
    parts["calibrated_ns"][billed] = np.where(missing, 0, length[billed])
    parts["basis"][billed] = np.select([missing, ours], [int(Basis.MEASURED), int(Basis.CALIBRATED)], int(Basis.POOL))
    for name, theirs in (("tid", straggler[payer[billed]]), ("cpu", -1)):
        parts[name][billed] = np.where(ours | missing, parts[name][billed], theirs)
    merged = np.concatenate([pieces[~is_run], parts]).astype(PIECE_DTYPE, copy=False)
    merged = merged[np.lexsort((merged["start_ns"], merged["row"]))]
    observer = np.concatenate([np.asarray(ledger.observer, bool), np.zeros(len(names) - len(ledger.culprits), bool)])
    return Ledger(merged, names, observer)


def _culprits(
    ledger: Ledger, size: int, row: npt.NDArray[np.int64], number: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """Whom to bill for class `number` (_CLASSES: nobody knows): who took most of the same cause in the request, else in
    the session; a softirq is its vector."""
    names = list(ledger.culprits)
    culprit = np.zeros(len(row), np.int32)
    for index in np.unique(number).tolist():
        wanted = number == index
        name = EVENT_CLASSES[index].name if index < _CLASSES else LOST_NAME
        if name:
            if name not in names:
                names.append(name)
            culprit[wanted] = names.index(name)
            continue
        event_class = EVENT_CLASSES[index]
        same = ledger.pieces[ledger.pieces["cause"] == event_class.cause]
        if not len(same):
            continue
        usual = int(np.bincount(same["culprit"], same["ns"].astype(np.float64)).argmax())
        largest = np.full(size, usual, np.int32)
        # Per request and culprit, all of its pieces; later assignments win, so the largest sum is assigned last.
        key, of_key = np.unique(same["row"] * len(names) + same["culprit"], return_inverse=True)
        spent = np.bincount(of_key, same["ns"].astype(np.float64))
        ordered = key[np.argsort(spent, kind="stable")]
        largest[ordered // len(names)] = ordered % len(names)
        culprit[wanted] = largest[row[wanted]]
    return culprit, tuple(names)
