"""What the events of each class cost beyond their spans, as the session's own requests tell it.

The trap: a request that computes for longer also catches more ticks, so a plain regression of running time on event
counts would bill the application's own work to the timer. The counts are therefore instrumented by those in the first
part of each request, of one fixed length per shape: how long a request runs has no say in how many events fall there.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.event_counts import EVENT_CLASSES, ClassedEvents, EventClass
from jitterprof.analysis.parallel import on_all_cpus

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
#: Rows of one matrix product.
_PRODUCT = 256


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
    counts: npt.NDArray[np.int32],
    excess: npt.NDArray[np.int64],
    shape: npt.NDArray[np.intp],
    seed: int,
) -> tuple[HiddenCost, ...]:
    """The cost of each class that enough of `requests` (REQUEST_DTYPE) met.

    `counts`: int32[requests, EVENT_CLASSES]. `excess`: running time beyond the shape's median, ns. `shape`: number of
    each request's shape, from 0.
    """
    hit = (counts > 0).sum(axis=0)
    active = np.flatnonzero(hit >= MIN_HIT)
    if len(requests) < MIN_REQUESTS or not len(active):
        return ()
    edges = np.linspace(0, len(requests), BLOCKS + 1).astype(int)
    blocks = np.split(np.argsort(requests["start_ns"], kind="stable"), edges[1:-1])
    joint = _joint(requests, events, counts[:, active], active, excess, shape, blocks)
    weight = [np.ones(len(block)) for block in joint]

    def moments() -> npt.NDArray[np.float64]:
        return np.array(on_all_cpus(lambda number: _moments(joint[number], weight[number]), range(BLOCKS)))

    cost = np.zeros(len(active))
    for _ in range(_ROUNDS):
        cost = _solve(moments().sum(axis=0))
        residual = np.concatenate([_residual(block, cost) for block in joint])
        residual -= np.median(residual)
        scale = 1.4826 * float(np.median(np.abs(residual)))
        if scale > 0:
            weight = np.split(np.minimum(1, _HUBER * scale / np.maximum(np.abs(residual), 1e-9)), edges[1:-1])
    parts = moments()
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


def _joint(
    requests: npt.NDArray[np.void],
    events: ClassedEvents,
    counts: npt.NDArray[np.int32],
    active: npt.NDArray[np.intp],
    excess: npt.NDArray[np.int64],
    shape: npt.NDArray[np.intp],
    blocks: list[npt.NDArray[np.intp]],
) -> list[npt.NDArray[np.float64]]:
    """Per block of requests the columns (1, instruments, regressors, target). The counts are less the shape's mean.

    `counts`: int32[requests, active classes]."""
    shapes = int(shape.max()) + 1
    service = requests["end_ns"] - requests["start_ns"]
    fixed = np.array([np.quantile(service[shape == number], 0.01) for number in range(shapes)])
    until = np.minimum(requests["start_ns"] + fixed[shape].astype(np.int64), requests["end_ns"])

    def met(block: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
        mine = requests.take(block)
        return np.column_stack([events.count(mine, mine["tid"], until[block])[:, active], counts[block]])

    columns = on_all_cpus(met, blocks)
    sums = np.zeros((shapes, 2 * len(active)))
    for block, column in zip(blocks, columns, strict=True):
        for number in range(shapes):
            sums[number] += column[shape[block] == number].sum(axis=0)
    mean = sums / np.bincount(shape)[:, None]

    def centred(number: int) -> npt.NDArray[np.float64]:
        block = blocks[number]
        return np.column_stack([np.ones(len(block)), columns[number] - mean[shape[block]], excess[block]])

    return on_all_cpus(centred, range(len(blocks)))


def _residual(joint: npt.NDArray[np.float64], cost: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    rest: npt.NDArray[np.float64] = joint[:, -1] - np.einsum("ij,j->i", joint[:, -1 - len(cost) : -1], cost)
    return rest


def _moments(joint: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weighted second moments of the columns: what `_solve` needs, and blocks of it add."""
    # A product this small is computed by one thread: the threads of BLAS would fight with ours for the CPUs.
    whole = np.zeros((-(-len(joint) // _PRODUCT) * _PRODUCT, joint.shape[1]))
    whole[: len(joint)] = joint * np.sqrt(weight)[:, None]
    some = whole.reshape(-1, _PRODUCT, joint.shape[1])
    moments: npt.NDArray[np.float64] = np.matmul(some.transpose(0, 2, 1), some).sum(axis=0)
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
