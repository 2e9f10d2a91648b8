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
from jitterprof.analysis.piece_table import exchanged
from jitterprof.analysis.spikes import MIN_BODY, measured_rows
from jitterprof.analysis.stragglers import Verdict, granted, judge, with_culprits
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import Basis, Ledger

_CLASSES = len(EVENT_CLASSES)


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

    `events`: EVENT_DTYPE. `host`: what the spin canary measured; a class costs what the regression over this session
    says, where its interval excludes zero, else that. `claims`: see stragglers.pool_claims. `gaps`: GAP_DTYPE; what the
    records that are missing may have cost becomes `unknown`. Where in the running time a hidden cost lies is not known:
    it is put at its beginning. Returns the ledger as it is when there is nothing to bill; and the regression's costs.
    """
    run = run_excess(requests, ledger)
    mine = requests.take(run.rows)
    classed = ClassedEvents.of(events)
    counts = classed.count(mine, mine["tid"])
    costs = regress(mine, classed, counts, run.excess, run.shape, seed)
    price = np.zeros(_CLASSES) if host is None else host.ns.copy()
    for cost in costs:
        if cost.used:
            price[EVENT_CLASSES.index(cost.event_class)] = cost.ns
    lost = _missing(mine, gaps)
    left = np.maximum(run.excess, 0)
    wanted = _costs(counts, lost, run.shape, price)
    own = _fitting(wanted, left)
    left = left - own.sum(axis=1)
    unpaid = wanted.sum(axis=1) - own.sum(axis=1)

    helpers = np.zeros_like(own)
    straggler = np.zeros(len(mine), np.int64)
    if claims is not None:
        ledger, asked, paid = _grant(requests, ledger, claims, run, left)
        left = left - paid
        straggler, counts = _worst_helper(mine, classed, claims, price)
        wanted = _costs(counts, lost, run.shape, price)
        # With records missing it might have been another one.
        wanted[lost > 0, -1] = wanted[lost > 0].sum(axis=1)
        wanted[lost > 0, :-1] = 0
        helpers = _fitting(wanted, left)
        unpaid += asked - paid + wanted.sum(axis=1) - helpers.sum(axis=1)
    unknown = own[:, -1] + helpers[:, -1] + np.minimum(unpaid, run.doubt).astype(np.int64)
    bill = np.column_stack([own[:, :-1], helpers[:, :-1], unknown])
    if bill.any():
        ledger = _move(ledger, run.rows, bill, len(requests), straggler)
    return ledger, costs


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


def _costs(
    counts: Ints, lost: Ints, shape: npt.NDArray[np.intp], price: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """float64[requests, classes + 1], ns: what the events beyond the median of the shape cost (the others are in its
    usual running time), and last, what those may cost that are missing, of which there may be `lost` per request."""
    cost = np.zeros((len(counts), _CLASSES + 1))
    for number in range(int(shape.max(initial=-1)) + 1):
        mine = shape == number
        least = np.median(counts[mine], axis=0)
        most = np.median(counts[mine] + lost[mine, None], axis=0)
        certain, possible = (np.maximum(counts[mine] - np.ceil(usual), 0) * price for usual in (most, least))
        cost[mine, :-1] = certain
        cost[mine, -1] = (possible - certain).sum(axis=1) + lost[mine] * price.max(initial=0.0)
    return cost


def _fitting(bill: npt.NDArray[np.float64], allowed: Ints) -> Ints:
    """`bill` (requests, classes) in whole ns, each row scaled down to what it is `allowed`."""
    total = bill.sum(axis=1)
    share = np.divide(np.minimum(total, allowed), total, out=np.zeros(len(total)), where=total > 0)
    whole: Ints = np.floor(bill * share[:, None]).astype(np.int64)
    return whole


def _grant(
    requests: npt.NDArray[np.void], ledger: Ledger, claims: Ledger, run: RunExcess, left: Ints
) -> tuple[Ledger, Ints, Ints]:
    """Replace running time by the claims on it that `left` allows; and what was claimed and granted, per request."""
    usual, excess, budget = (np.full(len(requests), -1, np.int64) for _ in range(3))
    usual[run.rows], excess[run.rows], budget[run.rows] = run.usual, run.excess, left
    verdicts = judge(claims.pieces, excess, usual)
    refuted = [tid for tid, verdict in verdicts.items() if verdict == Verdict.REFUTED]
    confirmed = [tid for tid, verdict in verdicts.items() if verdict == Verdict.CONFIRMED]
    heard = claims.pieces.compress(~np.isin(claims.pieces["tid"], refuted))
    taken = granted(heard, np.maximum(budget, 0))
    asked, paid = (np.bincount(of["row"], of["ns"], len(requests)).astype(np.int64)[run.rows] for of in (heard, taken))
    if not len(taken):
        return ledger, asked, paid
    ledger, index = with_culprits(ledger, claims.culprits, claims.observer)
    taken["culprit"] = index[taken["culprit"]]
    taken["basis"] = np.where(np.isin(taken["tid"], confirmed), int(Basis.POOL), int(Basis.POOL_GUESS))
    return Ledger(_replaced(ledger.pieces, taken), ledger.culprits, ledger.observer), asked, paid


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
    rest = pieces.take(source)
    rest["start_ns"] += lefts - (ends[source] - pieces["ns"][source])
    rest["ns"] = rights - lefts
    out = np.zeros(len(pieces), bool)
    out[hit] = True
    return exchanged(pieces, out, np.concatenate([rest.compress(rights > lefts), taken]))


def _worst_helper(
    mine: npt.NDArray[np.void], classed: ClassedEvents, claims: Ledger, price: npt.NDArray[np.float64]
) -> tuple[Ints, Ints]:
    """Per measured request the pool thread whose events cost most, and how many they were: int64[n, classes]."""
    tid, most = np.zeros(len(mine), np.int64), np.zeros(len(mine))
    worst = np.zeros((len(mine), _CLASSES), np.int64)
    for helper in np.unique(claims.pieces["tid"]).tolist():
        counts = np.zeros_like(worst)
        # Requests on several serving threads overlap; those of one do not.
        for server in np.unique(mine["tid"]).tolist():
            served = np.flatnonzero(mine["tid"] == server)
            counts[served] = classed.count(mine[served], np.full(len(served), helper))
        cost = counts @ price
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
    run = pieces.compress(is_run)
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
    parts = run.take(source)
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
    merged = exchanged(pieces, is_run, parts)
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
        same = ledger.pieces.compress(ledger.pieces["cause"] == event_class.cause)
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
