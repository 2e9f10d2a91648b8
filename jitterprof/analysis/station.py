"""The queue of a session: who arrived when, waited how long and held a server until when; and what each lost meanwhile.

The load generator's workers share one queue: whoever is free takes the next request (`load/serve.py`), so requests are
served first come, first served by as many servers as there are workers.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.account import Classes
from jitterprof.analysis.ledger import previous_end
from jitterprof.analysis.parallel import on_all_cpus, slices
from jitterprof.analysis.piece_table import stretches
from jitterprof.analysis.replay import LONGEST, busy_periods
from jitterprof.analysis.spikes import MIN_BODY, measured_rows
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import Ledger
from jitterprof.model.request import Kind, Phase

Ints = npt.NDArray[np.int64]

#: What a request does or waits for by its own nature: a loss only where it is out of the ordinary for its shape, and
#: then what goes beyond the median. (`unknown` is all a loss, unless most of the service is, as without probes: that
#: the queue is made of ordinary requests is known all the same.)
USUAL = (Cause.RUN, Cause.GPU, Cause.SLEEP, Cause.NET, Cause.LOCK, Cause.SPIN, Cause.UNKNOWN)
FENCE = 1.5
#: Requests whose losses are put together at a time.
_REQUESTS = 1 << 15


@dataclass(frozen=True, slots=True)
class Station:
    """Requests in order of arrival. `rows`: of the request table. `arrival`, `wait`, `hold`: ns until intended start,
    from there until a server is free, and from there to the end. `period`: number of its busy period."""

    rows: Ints
    arrival: Ints
    wait: Ints
    hold: Ints
    period: Ints
    servers: int


@dataclass(frozen=True, slots=True)
class Losses:
    """Time that requests lost in their own service, one entry per request and class, ordered by the two.

    `at`: position in the station; `key`: class, the number of classes for running longer than usual; `ns`: how much;
    `piece`: the largest piece of that class, -1 for running.
    """

    at: Ints
    key: Ints
    ns: Ints
    piece: Ints

    def __len__(self) -> int:
        return len(self.at)

    def where(self, kept: npt.NDArray[np.bool_] | slice) -> "Losses":
        """The entries where `kept`."""
        return Losses(*(getattr(self, name)[kept] for name in Losses.__slots__))

    def between(self, positions: slice) -> "Losses":
        """Those at these positions."""
        return self.where(slice(*np.searchsorted(self.at, [positions.start, positions.stop])))

    @staticmethod
    def joined(parts: "list[Losses]") -> "Losses":
        """All of them, one after the other."""
        none = np.empty(0, np.int64)
        columns = ([none, *(getattr(part, name) for part in parts)] for name in Losses.__slots__)
        return Losses(*(np.concatenate(column) for column in columns))


def station_of(requests: npt.NDArray[np.void]) -> Station:
    """The queue in front of the session's workers, with warm-up and failed requests: they held a worker too."""
    rows = np.flatnonzero((requests["kind"] == Kind.REQUEST) & (requests["phase"] != Phase.FLOOR))
    rows = rows[np.lexsort((requests["start_ns"][rows], requests["intended_ns"][rows]))]
    mine = requests.take(rows)
    arrival, end = (np.ascontiguousarray(mine[name]) for name in ("intended_ns", "end_ns"))
    ready = np.clip(previous_end(mine), arrival, mine["start_ns"])
    servers = len(np.unique(mine["worker"]))
    period = busy_periods(arrival, end)
    if servers > 1 and len(period):
        first = np.flatnonzero(np.diff(period, prepend=-1))
        place = np.arange(len(period)) - first[period]
        cut = (place % LONGEST == 0) & (place > 0)
        period = period + np.cumsum(cut)
    return Station(rows, arrival, ready - arrival, end - ready, period, max(1, servers))


def utilisation(station: Station, start_ns: int, end_ns: int) -> float:
    """The part of [start_ns, end_ns) that the servers, all together, were held."""
    begin = station.arrival + station.wait
    held = np.minimum(begin + station.hold, end_ns) - np.maximum(begin, start_ns)
    whole = station.servers * (end_ns - start_ns)
    return float(np.maximum(0, held).sum() / whole) if whole > 0 else 0.0


def own_losses(
    requests: npt.NDArray[np.void],
    ledger: Ledger,
    classes: Classes,
    station: Station,
    wanted: npt.NDArray[np.bool_] | None = None,
    of: npt.NDArray[np.bool_] | None = None,
) -> Losses:
    """What the requests at the `wanted` positions lost to the classes `of` while they held a server (default: all).

    All time of a class but `run`, and of the causes in USUAL what is out of the ordinary for the shape. What a
    request waited in the queue or inherited there is not its own.
    """
    position = np.full(len(requests), -1, np.int64)
    position[station.rows] = np.arange(len(station.rows))
    if wanted is not None:
        position[station.rows[~wanted]] = -1
    usual = {cause: np.zeros(len(requests), np.int64) for cause in USUAL}
    # A sort of all at once would hold all of them several times.
    found = on_all_cpus(lambda part: _lost_in(ledger.pieces, classes, position, of, part), stretches(ledger.pieces))
    for sums, _ in found:
        for cause, rows, ns in sums:
            usual[cause][rows] += ns
    losses = merged([part for _, part in found], len(classes) + 1)
    beyond = on_all_cpus(lambda total: _beyond_usual(requests, total), usual.values())
    excess = dict(zip(usual, beyond, strict=True))
    served = requests["end_ns"] - requests["start_ns"]
    if not _mostly(requests, usual[Cause.UNKNOWN], served):
        excess[Cause.UNKNOWN] = usual[Cause.UNKNOWN]
    share = np.ones(len(losses))
    for one, total in usual.items():
        mine = classes.cause[losses.key] == one
        here = station.rows[losses.at[mine]]
        share[mine] = excess[one][here] / np.maximum(1, total[here])
    ns = np.floor(losses.ns * share).astype(np.int64)
    losses = Losses(losses.at, losses.key, ns, losses.piece)
    ran = excess[Cause.RUN][station.rows]
    longer = np.flatnonzero((ran > 0) & (position[station.rows] >= 0))
    none = np.zeros(len(longer), np.int64)
    runs = Losses(longer, none + len(classes), ran[longer], none - 1)
    both = losses.where(ns > 0), runs
    parts = on_all_cpus(
        lambda part: merged([some.between(part) for some in both], len(classes) + 1),
        slices(len(station.rows), _REQUESTS),
    )
    return Losses.joined(parts)


def _lost_in(
    pieces: npt.NDArray[np.void],
    classes: Classes,
    position: Ints,
    of: npt.NDArray[np.bool_] | None,
    part: slice,
) -> tuple[list[tuple[Cause, Ints, Ints]], Losses]:
    """In some pieces: of USUAL what is there, the rows and how much of it they have; and the losses but of `run`."""
    block, key = pieces[part], classes.of_piece[part]
    row, cause, ns = (np.ascontiguousarray(block[name]) for name in ("row", "cause", "ns"))
    own = (block["origin"] < 0) & (cause != Cause.QUEUE)
    sums = []
    for one in USUAL:
        mine = own & (cause == one)
        if mine.any():
            sums.append((one, *_summed(row[mine], ns[mine])))
    at = position[row]
    kept = np.flatnonzero(own & (at >= 0) & (cause != Cause.RUN))
    if of is not None:
        kept = kept[of[key[kept]]]
    found = Losses(at[kept], key[kept].astype(np.int64), ns[kept], part.start + kept)
    return sums, merged([found], len(classes) + 1)


def merged(parts: list[Losses], keys: int) -> Losses:
    """Entries of all `parts` added up by position and key; `keys`: all keys are smaller."""
    whole = Losses.joined(parts)
    ns, code = whole.ns, whole.at * keys + whole.key
    if (np.diff(code) > 0).all():
        return whole
    order = np.argsort(code, kind="stable")
    code, ns = code[order], ns[order]
    opens = np.diff(code, prepend=-1) > 0
    first = np.flatnonzero(opens)
    # The first of the largest in each group.
    number = np.cumsum(opens) - 1
    largest = np.flatnonzero(ns == np.maximum.reduceat(ns, first)[number])
    largest = largest[np.diff(number[largest], prepend=-1) > 0]
    code = code[first]
    return Losses(code // keys, code % keys, np.add.reduceat(ns, first), whole.piece[order[largest]])


def _summed(row: Ints, ns: Ints) -> tuple[Ints, Ints]:
    """Sums of neighbours with one row; a ledger is ordered by rows."""
    first = np.flatnonzero(np.diff(row, prepend=-1))
    return row[first], np.add.reduceat(ns, first)


def _mostly(requests: npt.NDArray[np.void], part: Ints, whole: Ints) -> bool:
    rows = measured_rows(requests)
    return bool(len(rows) and 2 * np.median(part[rows]) >= np.median(whole[rows]))


def _beyond_usual(requests: npt.NDArray[np.void], spent: Ints) -> Ints:
    """Per row, time beyond the median of the measured requests of its shape, where it is an outlier among them: above
    the upper quartile by more than FENCE times the distance of the quartiles (Tukey 1977). What varies from request to
    request is load. 0 for shapes too rare to say.
    """
    excess = np.zeros(len(requests), np.int64)
    if not spent.any():
        return excess
    rows = measured_rows(requests)
    shapes = requests["shape"][rows]
    for shape in np.unique(shapes):
        of_shape = rows[shapes == shape]
        if len(of_shape) >= MIN_BODY:
            all_of_it = np.flatnonzero(requests["shape"] == shape)
            low, middle, high = np.quantile(spent[of_shape], (0.25, 0.5, 0.75))
            over = np.maximum(0, spent[all_of_it] - round(float(middle)))
            excess[all_of_it] = np.where(spent[all_of_it] > high + FENCE * (high - low), over, 0)
    return excess
