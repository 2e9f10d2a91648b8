"""Which requests are spikes, what a request of their shape usually is, and what each spike's excess consists of."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.account import Account, Classes
from jitterprof.analysis.distribution import quantiles
from jitterprof.model.request import Kind, Phase, Status

#: Fewer body requests of a shape than this say too little: all requests of the shape stand in, else all of the session.
MIN_BODY = 8


@dataclass(frozen=True, slots=True)
class Population:
    """The requests that are explained. Indices are rows of the request table.

    `rows`: measured requests that succeeded; `response_ns` and `tail` are aligned with it, `baseline` gives each the
    index of its baseline. `baseline_ns[b]`: median response; `body[b]`: rows between its quartiles; `matched[b]`:
    False where requests of other shapes had to stand in. `threshold_ns`: above it a request is a spike. `thinned`: the
    ledgers of most other rows name no culprits.
    """

    rows: npt.NDArray[np.intp]
    response_ns: npt.NDArray[np.int64]
    tail: npt.NDArray[np.bool_]
    threshold_ns: int
    baseline: npt.NDArray[np.intp]
    baseline_ns: npt.NDArray[np.int64]
    body: tuple[npt.NDArray[np.intp], ...]
    matched: npt.NDArray[np.bool_]
    thinned: bool = False

    @property
    def tail_rows(self) -> npt.NDArray[np.intp]:
        """Rows of the spikes."""
        return self.rows[self.tail]


def measured_rows(requests: npt.NDArray[np.void]) -> npt.NDArray[np.intp]:
    """Rows of the measured requests (not tokens) that succeeded."""
    wanted = requests["phase"] == Phase.MEASURED
    return np.flatnonzero(wanted & (requests["kind"] == Kind.REQUEST) & (requests["status"] == Status.OK))


def select(
    requests: npt.NDArray[np.void], slo_ns: int | None = None, sampled: npt.NDArray[np.bool_] | None = None
) -> Population:
    """Split the measured requests into tail and body and find each shape's baseline.

    `sampled`: bool[requests], a random sample with ledgers in full detail, from which the body is taken where it is
    large enough; None: all requests are alike.
    """
    rows = measured_rows(requests)
    response = requests["end_ns"][rows] - requests["intended_ns"][rows]
    threshold = slo_ns if slo_ns is not None else quantiles(response).p99_ns
    tail = response > threshold
    shapes, baseline = np.unique(requests["shape"][rows], return_inverse=True)
    middles, bodies, matched = [], [], []
    for number in range(len(shapes)):
        mine = baseline == number
        body = mine & ~tail
        enough = True
        if body.sum() < MIN_BODY:
            body = mine
        if body.sum() < MIN_BODY < (~tail).sum():
            body, enough = ~tail, False
        low, middle, high = np.quantile(response[body], (0.25, 0.5, 0.75))
        middles.append(round(float(middle)))
        body &= (response >= low) & (response <= high)
        if sampled is not None and (body & sampled[rows]).sum() >= MIN_BODY:
            body &= sampled[rows]
        bodies.append(rows[body])
        matched.append(enough)
    return Population(
        rows,
        response,
        tail,
        threshold,
        baseline,
        np.array(middles, np.int64),
        tuple(bodies),
        np.array(matched, bool),
        sampled is not None,
    )


def baseline_ledgers(population: Population, totals: Account, classes: Classes, size: int) -> npt.NDArray[np.int64]:
    """int64[baselines, K]: the mean ledger of each baseline's body, scaled to sum exactly to `baseline_ns`.

    The scaling turns the mean of the middle half into its median; what integer rounding leaves goes to `run`.
    `size`: rows of the request table.
    """
    ledgers = np.zeros((len(population.body), len(classes)), np.int64)
    for number, body in enumerate(population.body):
        inside = np.zeros(size, bool)
        inside[body] = True
        mine = inside[totals.row]
        sums = np.bincount(totals.key[mine], totals.ns[mine].astype(np.float64), len(classes))
        if sums.sum() > 0:
            ledgers[number] = np.floor(sums * (population.baseline_ns[number] / sums.sum()))
        ledgers[number, 0] += population.baseline_ns[number] - ledgers[number].sum()
    return ledgers


def excess_by_class(
    totals: Account, population: Population, baselines: npt.NDArray[np.int64], index: int
) -> npt.NDArray[np.int64]:
    """int64[K]: the ledger of request `index` of the population minus its baseline's; sums to response - baseline."""
    row = population.rows[index]
    mine = slice(*np.searchsorted(totals.row, [row, row + 1]))
    excess: npt.NDArray[np.int64] = -baselines[population.baseline[index]]
    excess[totals.key[mine]] += totals.ns[mine]
    return excess
