"""How much blame chance alone gives a class of time: circular shifts of the requests against the cause timeline.

The timeline is the time of the requests themselves, laid end to end per serving thread, with the ledger's pieces on
it; a shift by s moves every request by s along that axis and leaves the pieces where they are. Idle time between the
requests is not part of it: a cause cannot hit a request there.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.account import Classes
from jitterprof.analysis.spikes import Population
from jitterprof.model.ledger import Ledger

SHIFTS = 200
#: A share is above chance when at most this part of the shifts reaches it.
LEVEL = 0.01
#: Stretches with a shift of their own.
STRETCHES = 16
#: Windows looked at per shift; more spikes than this are thinned evenly.
WINDOWS = 500


class Timeline(Protocol):
    """Cumulative time of some columns along an axis of `length_ns`."""

    @property
    def length_ns(self) -> int: ...

    def between(self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64[n, columns]: time of each column in [start, end)."""
        ...


class PieceTimeline:
    """Pieces laid end to end, as cumulative time per column."""

    def __init__(self, lengths: npt.NDArray[np.int64], column: npt.NDArray[np.int64], columns: int) -> None:
        """`lengths`: ns of each piece, in order. `column`: the column of each, -1 for none."""
        at = np.cumsum(lengths) - lengths
        self.length_ns = int(lengths.sum())
        self._parts = []
        for number in range(columns):
            mine = np.flatnonzero(column == number)
            before = np.concatenate([[0], np.cumsum(lengths[mine])])
            self._parts.append((at[mine], lengths[mine], before))

    def between(self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64[n, columns]: time of each column in [start, end), 0 <= start <= end <= length_ns."""
        spent = np.zeros((len(starts), len(self._parts)), np.int64)
        for number, (at, lengths, before) in enumerate(self._parts):
            if len(at):
                spent[:, number] = _until(ends, at, lengths, before) - _until(starts, at, lengths, before)
        return spent


def null_blame(
    timeline: Timeline,
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    baseline_ns: float,
    shifts: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """float64[shifts, columns]: mean excess per spike that each shift gives each column.

    `starts`, `lengths`: the spikes on the axis, in order. `shifts`: int64[shifts, spikes]. The body is not shifted:
    over all of it, a column gets its density times `baseline_ns`, the mean baseline of the spikes.
    """
    total = timeline.length_ns
    whole = timeline.between(np.array([0]), np.array([total]))[0]
    usual = whole * (baseline_ns / total)
    blame = np.empty((len(shifts), len(whole)))
    for number, shift in enumerate(shifts):
        begin = (starts + shift) % total
        end = begin + lengths
        spent = timeline.between(begin, np.minimum(end, total))
        spent += timeline.between(np.zeros_like(begin), np.maximum(end - total, 0))
        blame[number] = spent.mean(axis=0) - usual
    return blame


def chance_shares(
    requests: npt.NDArray[np.void],
    ledger: Ledger,
    classes: Classes,
    population: Population,
    columns: npt.NDArray[np.int64],
    seed: int = 0,
) -> npt.NDArray[np.float64] | None:
    """float64[columns]: the share of the tail's excess that chance reaches in 1 of 100 shifts.

    `columns`: the column of each class, -1 for none. None where there are no spikes or no excess to share.
    """
    tail = population.tail
    gap = population.response_ns[tail].sum() - population.baseline_ns[population.baseline[tail]].sum()
    if not tail.any() or gap <= 0:
        return None
    mine = requests[population.rows]
    order = np.lexsort((mine["intended_ns"], mine["tid"]))
    rank = np.full(len(requests), -1, np.int64)
    rank[population.rows[order]] = np.arange(len(order))
    place = rank[ledger.pieces["row"]]
    kept = np.flatnonzero(place >= 0)
    kept = kept[np.argsort(place[kept], kind="stable")]
    timeline = PieceTimeline(
        np.ascontiguousarray(ledger.pieces["ns"][kept]), columns[classes.of_piece[kept]], int(columns.max()) + 1
    )
    response = population.response_ns[order]
    at = np.cumsum(response) - response
    spikes = np.flatnonzero(tail[order])
    spikes = spikes[np.linspace(0, len(spikes) - 1, min(len(spikes), WINDOWS)).astype(np.intp)]
    baseline = population.baseline_ns[population.baseline[order[spikes]]]
    drawn = np.random.default_rng(seed).integers(0, timeline.length_ns, (SHIFTS, STRETCHES))
    shifts = drawn[:, np.arange(len(spikes)) * STRETCHES // len(spikes)]
    blame = null_blame(timeline, at[spikes], response[spikes], float(baseline.mean()), shifts)
    thinned_gap = float((response[spikes] - baseline).mean())
    if thinned_gap <= 0:
        return None
    shares: npt.NDArray[np.float64] = np.quantile(blame / thinned_gap, 1 - LEVEL, axis=0, method="higher")
    return shares


def _until(
    moments: npt.NDArray[np.int64],
    at: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    before: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    piece = np.maximum(np.searchsorted(at, moments, "right") - 1, 0)
    spent: npt.NDArray[np.int64] = before[piece] + np.clip(moments - at[piece], 0, lengths[piece])
    return spent
