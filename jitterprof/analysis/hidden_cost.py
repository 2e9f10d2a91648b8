"""The cost of events that their tracepoints do not span: calibrated by regression, billed out of `run`.

The trap: a request that computes for longer also catches more ticks, so a plain regression of running time on event
counts would bill the application's own work to the timer. The counts are therefore instrumented by those in the first
part of each request, of one fixed length per shape: how long a request runs has no say in how many events fall there.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.calibration import HostCosts
from jitterprof.analysis.event_counts import EVENT_CLASSES, EventClass, count_events
from jitterprof.analysis.spikes import MIN_BODY, measured_rows
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import PIECE_DTYPE, Basis, Ledger

#: Fewer requests in total, or hit by a class, teach nothing about its cost.
MIN_REQUESTS = 200
MIN_HIT = 30
BLOCKS = 50
RESAMPLES = 1000
#: The interval is [LEVEL, 1 - LEVEL] of the block bootstrap.
LEVEL = 0.002
#: An entry, an exit and a cold cache cost microseconds. A larger figure is something else that comes with the event.
MAX_COST_NS = 200_000
_HUBER = 2.0
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class HiddenCost:
    """What one event of a class costs beyond its span: estimate and interval in ns. `used`: large enough to be billed.

    `requests`: how many had such an event.
    """

    event_class: EventClass
    ns: float
    low_ns: float
    high_ns: float
    requests: int
    used: bool


def bill_hidden_cost(
    requests: npt.NDArray[np.void],
    events: npt.NDArray[np.void],
    ledger: Ledger,
    host: HostCosts | None = None,
    seed: int = 0,
) -> tuple[Ledger, tuple[HiddenCost, ...]]:
    """Move what the events of a request cost beyond their spans from `run` to the events' causes.

    The price of a class is what the regression over this session says, where its interval excludes zero, else what the
    spin canary measured on this `host`. At most the request's `run` excess over its shape's median is moved. The new
    pieces have `calibrated_ns` = `ns`; where in the running time they lie is not known, they are put at its beginning.
    Every request's sum is unchanged. Returns the ledger as it is when there is nothing to bill.
    """
    rows = measured_rows(requests)
    mine = requests[rows]
    run = np.zeros(len(requests), np.int64)
    is_run = ledger.pieces["cause"] == Cause.RUN
    np.add.at(run, ledger.pieces["row"][is_run], ledger.pieces["ns"][is_run])
    excess, shape = _over_median(mine["shape"], run[rows])
    counts = count_events(mine, events)
    costs = _calibrate(mine, events, counts, excess, shape, seed)
    price = np.zeros(len(EVENT_CLASSES)) if host is None else host.ns.copy()
    for cost in costs:
        if cost.used:
            price[EVENT_CLASSES.index(cost.event_class)] = cost.ns
    bill = counts * price
    total = bill.sum(axis=1)
    allowed = np.minimum(total, np.maximum(0, excess))
    share = np.divide(allowed, total, out=np.zeros(len(total)), where=total > 0)
    whole = np.floor(bill * share[:, None]).astype(np.int64)
    if not whole.any():
        return ledger, costs
    return _move(ledger, rows, whole, len(requests)), costs


def _over_median(
    shapes: npt.NDArray[np.int16], run: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """Running time beyond the shape's median (0 for shapes too rare to have one), and the number of each shape."""
    found, shape = np.unique(shapes, return_inverse=True)
    excess = np.zeros(len(run), np.int64)
    for number in range(len(found)):
        of_shape = shape == number
        if of_shape.sum() >= MIN_BODY:
            excess[of_shape] = run[of_shape] - round(float(np.median(run[of_shape])))
    return excess, shape


def _calibrate(
    requests: npt.NDArray[np.void],
    events: npt.NDArray[np.void],
    counts: npt.NDArray[np.int64],
    excess: npt.NDArray[np.int64],
    shape: npt.NDArray[np.intp],
    seed: int,
) -> tuple[HiddenCost, ...]:
    hit = (counts > 0).sum(axis=0)
    active = np.flatnonzero(hit >= MIN_HIT)
    if len(requests) < MIN_REQUESTS or not len(active):
        return ()
    service = requests["end_ns"] - requests["start_ns"]
    fixed = np.array([np.quantile(service[shape == number], 0.01) for number in range(int(shape.max()) + 1)])
    until = np.minimum(requests["start_ns"] + fixed[shape].astype(np.int64), requests["end_ns"])
    instrument = count_events(requests, events, until)[:, active].astype(np.float64)
    regressor = counts[:, active].astype(np.float64)
    target = excess.astype(np.float64)
    for columns in (instrument, regressor):
        for number in range(int(shape.max()) + 1):
            columns[shape == number] -= columns[shape == number].mean(axis=0)

    weight = np.ones(len(target))
    cost = np.zeros(len(active))
    for _ in range(_ROUNDS):
        cost = _solve(_moments(instrument, regressor, target, weight))
        residual = target - regressor @ cost
        residual -= np.median(residual)
        scale = 1.4826 * float(np.median(np.abs(residual)))
        if scale > 0:
            weight = np.minimum(1, _HUBER * scale / np.maximum(np.abs(residual), 1e-9))
    edges = np.linspace(0, len(target), BLOCKS + 1).astype(int)
    order = np.argsort(requests["start_ns"], kind="stable")
    blocks = [order[start:end] for start, end in pairwise(edges.tolist())]
    parts = np.array([_moments(instrument[b], regressor[b], target[b], weight[b]) for b in blocks])
    draws = np.random.default_rng(seed).integers(0, BLOCKS, (RESAMPLES, BLOCKS))
    resampled = np.array([_solve(parts[draw].sum(axis=0)) for draw in draws])
    low, high = np.quantile(resampled, (LEVEL, 1 - LEVEL), axis=0)
    return tuple(
        HiddenCost(
            EVENT_CLASSES[number],
            float(cost[at]),
            float(low[at]),
            float(high[at]),
            int(hit[number]),
            bool(low[at] > 0 and 0 < cost[at] <= MAX_COST_NS),
        )
        for at, number in enumerate(active.tolist())
    )


def _moments(
    instrument: npt.NDArray[np.float64],
    regressor: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
    weight: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Weighted second moments of (1, instruments, regressors, target): what `_solve` needs, and blocks of it add."""
    joint = np.column_stack([np.ones(len(target)), instrument, regressor, target])
    moments: npt.NDArray[np.float64] = joint.T @ (joint * weight[:, None])
    return moments


def _solve(moments: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Non-negative two-stage least squares from the summed moments."""
    from scipy.optimize import nnls

    classes = (len(moments) - 2) // 2
    centred = moments[1:, 1:] - np.outer(moments[0, 1:], moments[0, 1:]) / moments[0, 0]
    zz, zx, zy = centred[:classes, :classes], centred[:classes, classes:-1], centred[:classes, -1]
    scale = np.sqrt(np.maximum(np.diag(centred)[classes:-1], 1e-12))
    first = np.linalg.pinv(zz, rcond=1e-9, hermitian=True) @ zx
    gram = (zx.T @ first) / np.outer(scale, scale)
    right = (first.T @ zy) / scale
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    kept = values > 1e-9 * max(float(values.max()), 1e-30)
    if not kept.any():
        return np.zeros(classes)
    root = np.sqrt(values[kept])
    cost, _ = nnls(root[:, None] * vectors[:, kept].T, (vectors[:, kept].T @ right) / root)
    solution: npt.NDArray[np.float64] = cost / scale
    return solution


def _move(ledger: Ledger, rows: npt.NDArray[np.intp], bill: npt.NDArray[np.int64], size: int) -> Ledger:
    """Cut `bill` (int64[rows, classes]) out of the beginning of each request's running time."""
    pieces = ledger.pieces
    is_run = pieces["cause"] == Cause.RUN
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
    classes = bill.shape[1]
    segment = np.searchsorted(segment_end.reshape(-1), start, "right")
    place = np.full(size, -1, np.int64)
    place[rows] = np.arange(len(rows))
    number = np.where(segment // classes == place[parts["row"]], segment % classes, classes)
    billed = number < classes
    culprit, names = _culprits(ledger, size, parts["row"][billed], number[billed])
    parts["cause"][billed] = np.array([event_class.cause for event_class in EVENT_CLASSES], np.uint8)[number[billed]]
    parts["culprit"][billed] = culprit
    # A run piece may have been billed by an earlier calibration; here it is billed in full or not at all.
    parts["calibrated_ns"] = np.where(billed, length, 0)
    parts["basis"] = np.where(billed, int(Basis.CALIBRATED), parts["basis"])
    merged = np.concatenate([pieces[~is_run], parts]).astype(PIECE_DTYPE, copy=False)
    merged = merged[np.lexsort((merged["start_ns"], merged["row"]))]
    observer = np.concatenate([np.asarray(ledger.observer, bool), np.zeros(len(names) - len(ledger.culprits), bool)])
    return Ledger(merged, names, observer)


def _culprits(
    ledger: Ledger, size: int, row: npt.NDArray[np.int64], number: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """Whom to bill: who took most of the same cause in the request, else in the session; a softirq is its vector."""
    names = list(ledger.culprits)
    culprit = np.zeros(len(row), np.int32)
    for index in np.unique(number).tolist():
        event_class = EVENT_CLASSES[index]
        wanted = number == index
        if event_class.name:
            if event_class.name not in names:
                names.append(event_class.name)
            culprit[wanted] = names.index(event_class.name)
            continue
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
