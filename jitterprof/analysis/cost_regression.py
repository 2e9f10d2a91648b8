"""What the events of each class cost beyond their spans, as the session's own requests tell it.

The trap: a request that computes for longer also catches more ticks, so a plain regression of running time on event
counts would bill the application's own work to the timer. The counts are therefore instrumented by those in the first
part of each request, of one fixed length per shape: how long a request runs has no say in how many events fall there.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.event_counts import EVENT_CLASSES, ClassedEvents, EventClass

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


def regress(
    requests: npt.NDArray[np.void],
    events: ClassedEvents,
    counts: npt.NDArray[np.int64],
    excess: npt.NDArray[np.int64],
    shape: npt.NDArray[np.intp],
    seed: int,
) -> tuple[HiddenCost, ...]:
    """The cost of each class that enough of `requests` (REQUEST_DTYPE) met.

    `counts`: int64[requests, EVENT_CLASSES]. `excess`: running time beyond the shape's median, ns. `shape`: number of
    each request's shape, from 0.
    """
    hit = (counts > 0).sum(axis=0)
    active = np.flatnonzero(hit >= MIN_HIT)
    if len(requests) < MIN_REQUESTS or not len(active):
        return ()
    service = requests["end_ns"] - requests["start_ns"]
    fixed = np.array([np.quantile(service[shape == number], 0.01) for number in range(int(shape.max()) + 1)])
    until = np.minimum(requests["start_ns"] + fixed[shape].astype(np.int64), requests["end_ns"])
    instrument = events.count(requests, requests["tid"], until)[:, active].astype(np.float64)
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
