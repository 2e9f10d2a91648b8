"""How much blame chance alone gives a class of time: circular shifts of the requests against the cause timeline.

The timeline is the service of the requests, laid end to end, with the ledger's own pieces on it; a shift by s moves
every request by s along that axis and leaves the pieces where they are. Idle time between the requests is not part of
it: a cause cannot hit a request there. Nor is time in the queue: what a request inherited there happened once, to the
request that is its origin. Instead a request that waited has a second window, the services before it in its busy
period, and inherits what falls in there, but never more than it waited.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.account import Classes
from jitterprof.analysis.parallel import on_all_cpus, slices
from jitterprof.analysis.piece_table import STRETCH
from jitterprof.analysis.spikes import Population
from jitterprof.analysis.station import Station
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import Ledger

Ints = npt.NDArray[np.int64]

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
            before = np.zeros(len(mine) + 1, np.int64)
            np.cumsum(lengths[mine], out=before[1:])
            self._parts.append((at[mine], before))

    def between(self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64[n, columns]: time of each column in [start, end), 0 <= start <= end <= length_ns."""
        moments = np.concatenate([starts, ends])
        # Looked up in order they are near each other in memory.
        order = np.argsort(moments)
        moments = moments[order]
        spent = np.zeros((len(moments), len(self._parts)), np.int64)
        for number, (at, before) in enumerate(self._parts):
            if len(at):
                spent[order, number] = _until(moments, at, before)
        return spent[len(starts) :] - spent[: len(starts)]


@dataclass(frozen=True, slots=True)
class Windows:
    """Requests on the axis: `start`, `hold` of their service, `before`: services before it in its busy period, `wait`:
    in the queue. All int64[n] ns; the axis is circular, so a busy period may reach back across its beginning."""

    start: Ints
    hold: Ints
    before: Ints
    wait: Ints

    def at(self, which: npt.NDArray[np.intp]) -> "Windows":
        """Those of `which`."""
        return Windows(self.start[which], self.hold[which], self.before[which], self.wait[which])


@dataclass(frozen=True, slots=True)
class Chance:
    """Per column: `share`, of the tail's excess, that chance reaches in 1 of 100 shifts; `capacity`, part of the
    services that the spikes queued behind."""

    share: npt.NDArray[np.float64]
    capacity: npt.NDArray[np.float64]


def null_blame(
    timeline: Timeline, spikes: Windows, usual: npt.NDArray[np.float64], shifts: Ints
) -> npt.NDArray[np.float64]:
    """float64[shifts, columns]: mean excess per spike that each shift gives each column.

    `spikes`: in order. `shifts`: int64[shifts, spikes]. `usual`: what the body has, float64[columns].
    """
    start = (spikes.start + shifts).reshape(-1)
    spent = _around(timeline, start, np.tile(spikes.hold, len(shifts))).reshape(*shifts.shape, len(usual))
    waited = np.flatnonzero(spikes.wait)
    if len(waited):
        before = np.tile(spikes.before[waited], len(shifts))
        start = (spikes.start + shifts)[:, waited].reshape(-1) - before
        inherited = _around(timeline, start, before).reshape(len(shifts), len(waited), len(usual))
        spent[:, waited] += np.minimum(inherited, spikes.wait[waited, None])
    blame: npt.NDArray[np.float64] = spent.mean(axis=1) - usual
    return blame


def chances(
    ledger: Ledger, classes: Classes, population: Population, station: Station, columns: list[Ints], seed: int = 0
) -> list[Chance | None]:
    """How much of the blame chance explains, for each of several ways to sort the classes into columns.

    `columns`: the column of each class, -1 for none. None where there are no spikes or no excess to share.
    """
    none: list[Chance | None] = [None for _ in columns]
    tail = population.tail
    gap = population.response_ns[tail].sum() - population.baseline_ns[population.baseline[tail]].sum()
    if not tail.any() or gap <= 0:
        return none
    index = np.full(int(max(station.rows.max(), population.rows.max())) + 1, -1, np.int64)
    index[population.rows] = np.arange(len(population.rows))
    of_station = index[station.rows]
    kept = np.flatnonzero(of_station >= 0)
    order = of_station[kept]
    windows, rank = _windows(station, kept), np.full(len(index), -1, np.int64)
    rank[population.rows[order]] = np.arange(len(order))
    piece = _served(ledger, rank)
    lengths = np.ascontiguousarray(ledger.pieces["ns"].take(piece))
    total = int(lengths.sum())
    spikes = np.flatnonzero(tail[order])
    spikes = spikes[np.linspace(0, len(spikes) - 1, min(len(spikes), WINDOWS)).astype(np.intp)]
    baseline = population.baseline[order[spikes]]
    thinned_gap = float((population.response_ns[order[spikes]] - population.baseline_ns[baseline]).mean())
    if thinned_gap <= 0 or not total:
        return none
    drawn = np.random.default_rng(seed).integers(0, total, (SHIFTS, STRETCHES))
    shifts = drawn[:, np.arange(len(spikes)) * STRETCHES // len(spikes)]
    mine = windows.at(spikes)

    def explained(column: Ints) -> Chance:
        timeline = PieceTimeline(lengths, column[classes.of_piece[piece]], int(column.max()) + 1)
        density = timeline.between(np.array([0]), np.array([total]))[0] / total
        usual = _usual(windows, population, order, density)[baseline].mean(axis=0)
        blame = null_blame(timeline, mine, usual, shifts)
        share: npt.NDArray[np.float64] = np.quantile(blame / thinned_gap, 1 - LEVEL, axis=0, method="higher")
        behind = _around(timeline, mine.start - mine.before, mine.before).sum(axis=0) / max(1, int(mine.before.sum()))
        return Chance(share, behind)

    return [*on_all_cpus(explained, columns)]


def _windows(station: Station, kept: npt.NDArray[np.intp]) -> Windows:
    hold, period = station.hold[kept], station.period[kept]
    start = np.cumsum(hold) - hold
    first = np.searchsorted(period, period, "left")
    wait = station.wait[kept]
    before = np.where(wait > 0, start - start[first], 0)
    return Windows(start, hold, before, wait)


def _served(ledger: Ledger, rank: Ints) -> npt.NDArray[np.intp]:
    """The pieces of the services themselves, in the order of the requests (`rank`, by row)."""
    known = np.append(rank, -1)

    def of(part: slice) -> tuple[npt.NDArray[np.intp], Ints]:
        pieces = ledger.pieces[part]
        row = np.minimum(pieces["row"], len(rank))
        place = known[row]
        mine = np.flatnonzero((pieces["cause"] != Cause.QUEUE) & (pieces["origin"] < 0) & (place >= 0))
        return part.start + mine, place[mine]

    found = on_all_cpus(of, slices(len(ledger.pieces), STRETCH))
    mine, place = (np.concatenate([part[number] for part in found]) for number in range(2))
    return mine if (place[1:] >= place[:-1]).all() else mine[np.argsort(place, kind="stable")]


def _usual(
    windows: Windows, population: Population, order: npt.NDArray[np.intp], density: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """float64[baselines, columns]: what a body request meets at the mean density of each column, scaled to a baseline.

    The body is not shifted.
    """
    usual = np.zeros((len(population.baseline_ns), len(density)))
    for number, baseline in enumerate(population.baseline_ns.tolist()):
        body = np.flatnonzero(~population.tail[order] & (population.baseline[order] == number))
        if not len(body):
            usual[number] = density * baseline
            continue
        body = body[np.linspace(0, len(body) - 1, min(len(body), WINDOWS)).astype(np.intp)]
        there = windows.at(body)
        met = density * there.hold[:, None] + np.minimum(density * there.before[:, None], there.wait[:, None])
        response = max(1.0, float((there.hold + there.wait).mean()))
        usual[number] = met.mean(axis=0) * (baseline / response)
    return usual


def _around(timeline: Timeline, start: Ints, length: Ints) -> Ints:
    """Time of each column in windows on the circular axis; none is longer than the axis."""
    total = timeline.length_ns
    begin = start % total
    end = begin + length
    spent = timeline.between(begin, np.minimum(end, total))
    over = np.flatnonzero(end > total)
    if len(over):
        spent[over] += timeline.between(np.zeros_like(over), end[over] - total)
    return spent


def _until(moments: Ints, at: Ints, before: Ints) -> Ints:
    piece = np.maximum(np.searchsorted(at, moments, "right") - 1, 0)
    spent: Ints = before[piece] + np.clip(moments - at[piece], 0, before[piece + 1] - before[piece])
    return spent
