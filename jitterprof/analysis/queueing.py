"""Who is to blame for waiting in the queue: what earlier requests lost is billed to whoever took it from them.

The queue is replayed with a cause removed from the services; how much shorter a request then waits, it inherits from
that cause. Where several causes met in one busy period their effects interact, and each gets its Shapley value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.account import Classes, classify
from jitterprof.analysis.interaction import MAX_CAUSES, round_rows, shapley_coefficients
from jitterprof.analysis.parallel import on_all_cpus, slices
from jitterprof.analysis.piece_table import empty_table
from jitterprof.analysis.replay import lindley, waits_of_periods
from jitterprof.analysis.station import Ints, Losses, Station, merged, own_losses, station_of
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import PIECE_DTYPE, Basis, Ledger

#: Culprit of queueing behind requests that computed for longer than is usual for their shape.
LONGER_RUN = "longer run of earlier requests"
#: Culprit of the classes of a busy period beyond its INDIVIDUAL largest.
OTHERS = "others"
INDIVIDUAL = 12
#: Cells of `hold` that a replay for several servers works on at a time.
_CELLS = 1 << 24
#: Pieces copied at a time.
_CHUNK = 1 << 16
#: Requests at a single server that are replayed at a time.
_STRETCH = 1 << 16
#: A table of pieces as bytes: copying it field by field takes ten times as long.
_RAW = f"V{PIECE_DTYPE.itemsize}"
_TIME = 1 << 37


@dataclass(frozen=True, slots=True)
class _Inherited:
    """One piece of a victim's queue: positions of victim and origin, class and ns; and the largest piece of the ledger
    in which the origin lost that, -1 where it ran."""

    at: Ints
    origin: Ints
    key: Ints
    ns: Ints
    piece: Ints

    @staticmethod
    def joined(parts: "list[_Inherited]") -> "_Inherited":
        """All of them, one after the other."""
        none = np.empty(0, np.int64)
        columns = ([none, *(getattr(part, name) for part in parts)] for name in _Inherited.__slots__)
        return _Inherited(*(np.concatenate(column) for column in columns))


def inherit_queue(requests: npt.NDArray[np.void], ledger: Ledger) -> Ledger:
    """Split the `queue` of each request by what made it; the rest of it stays `queue`: load.

    `requests`: REQUEST_DTYPE. A new piece has the cause, culprit, thread, CPU and basis of the time that was lost, and
    in `origin` the row of the request that lost most of it; oldest origin first. What earlier requests ran longer than
    usual stays `queue` with the culprit LONGER_RUN. Sums are unchanged to the nanosecond. Returns `ledger` itself where
    nothing is inherited. Raises AssertionError for a ledger whose queue is not that of `requests`.
    """
    station = station_of(requests)
    waited = np.zeros(int(station.period[-1]) + 1 if len(station.period) else 0, bool)
    waited[station.period[station.wait > 0]] = True
    if not waited.any():
        return ledger
    classes = classify(ledger)
    losses = own_losses(requests, ledger, classes, station, waited[station.period])
    if not len(losses):
        return ledger
    found = _found(station, losses, classes)
    # The new table needs the room.
    del losses
    return _split(requests, ledger, classes, station, found) if len(found.at) else ledger


def _found(station: Station, losses: Losses, classes: Classes) -> _Inherited:
    """What all requests inherited from these losses."""
    parts = on_all_cpus(lambda part: _inherited(station, losses, classes, part), _busy_stretches(station))
    return _Inherited.joined(parts)


def _busy_stretches(station: Station) -> list[slice]:
    """Parts of the station that end with a busy period: these have nothing to do with each other."""
    # Several servers are replayed for all busy periods at once, a request each.
    size = _STRETCH if station.servers == 1 else len(station.period)
    edges = np.searchsorted(station.period, station.period[size::size])
    return [slice(*pair) for pair in pairwise(np.unique([0, *edges.tolist(), len(station.period)]).tolist())]


def _inherited(station: Station, losses: Losses, classes: Classes, part: slice) -> _Inherited:
    """What the requests of some busy periods inherited."""
    mine, group, rank = _ranked(losses.between(part), station, classes)
    return _Inherited.joined(list(_shared_out(station, part, mine, group, rank)) if len(mine) else [])


def removable(station: Station, hold: Ints) -> Ints:
    """How much shorter each request waits when the servers are held for `hold`, int64[n, versions], int64 likewise.

    Several servers: whoever was free first may by chance have come second, so the change of the replayed wait counts,
    and never more than the recorded one.
    """
    if station.servers == 1:
        return station.wait[:, None] - waits_of_periods(station.arrival, hold, 1, station.period)
    held = np.concatenate([station.hold[:, None], hold], axis=1)
    waits = waits_of_periods(station.arrival, held, station.servers, station.period)
    shorter: Ints = np.clip(waits[:, :1] - waits[:, 1:], 0, station.wait[:, None])
    return shorter


def _ranked(losses: Losses, station: Station, classes: Classes) -> tuple[Losses, Ints, Ints]:
    """The losses, the number of classes in the busy period of each, and the place of its class there, largest first.

    Classes beyond the INDIVIDUAL largest of a busy period are joined per cause.
    """
    keys = len(classes) + 1 + len(Cause)
    count, rank = _places(losses, station, keys)
    small = rank >= INDIVIDUAL
    if small.any():
        cause = np.append(classes.cause, Cause.QUEUE).astype(np.int64)
        key = np.where(small, len(classes) + 1 + cause[losses.key], losses.key)
        losses = merged([Losses(losses.at, key, losses.ns, losses.piece)], keys)
        count, rank = _places(losses, station, keys)
    return losses, count, rank


def _places(losses: Losses, station: Station, keys: int) -> tuple[Ints, Ints]:
    period = station.period[losses.at]
    code, inverse = np.unique(period * keys + losses.key, return_inverse=True)
    total = np.zeros(len(code), np.int64)
    np.add.at(total, inverse, losses.ns)
    of_code = code // keys
    order = np.lexsort((-total, of_code))
    first = np.searchsorted(of_code, of_code, "left")
    rank = np.empty(len(code), np.int64)
    rank[order] = np.arange(len(code)) - first[order]
    count = np.searchsorted(of_code, of_code, "right") - first
    return count[inverse], rank[inverse]


def _shared_out(station: Station, part: slice, losses: Losses, count: Ints, rank: Ints) -> Iterator[_Inherited]:
    """Busy periods with as many players are replayed together. The last of MAX_CAUSES + 1 is all smaller ones."""
    most = MAX_CAUSES + 1
    period = station.period[part] - station.period[part.start]
    of_period = np.zeros(int(period[-1]) + 1, np.int64)
    of_period[period[losses.at - part.start]] = np.minimum(count, most)
    players_at = of_period[period]
    for players in range(1, most + 1):
        inside = part.start + np.flatnonzero(players_at == players)
        if not len(inside):
            continue
        together = Station(
            inside, station.arrival[inside], station.wait[inside], station.hold[inside], station.period[inside],
            station.servers,
        )  # fmt: skip
        mine = players_at[losses.at - part.start] == players
        local = np.searchsorted(inside, losses.at[mine])
        yield from _play(together, players, local, losses.where(mine), rank[mine])


def _play(part: Station, players: int, local: Ints, losses: Losses, rank: Ints) -> Iterator[_Inherited]:
    """`part.rows`: positions in the whole station; `local`: in this part."""
    lost = np.zeros((players, len(part.rows)), np.int64)
    np.add.at(lost, (np.minimum(rank, players - 1), local), losses.ns)
    victims = np.flatnonzero(part.wait > 0)
    origins = np.stack([_largest_before(one, part.period)[victims] for one in lost], axis=1)
    values, total = _values(part, lost, victims)
    values[origins < 0] = 0
    # Requests that are not served in the order of arrival may wait for one that comes after them: nobody before them
    # lost anything.
    given = round_rows(np.maximum(values, 0), np.where((origins >= 0).any(axis=1), total, 0))
    key, piece = (np.zeros((len(part.rows), players), np.int64) for _ in range(2))
    key[local, np.minimum(rank, players - 1)] = losses.key
    piece[local, np.minimum(rank, players - 1)] = losses.piece
    single = players if players <= MAX_CAUSES else MAX_CAUSES
    for player in range(single):
        has = given[:, player] > 0
        origin = origins[has, player]
        yield _Inherited(
            part.rows[victims[has]],
            part.rows[origin],
            key[origin, player],
            given[has, player],
            piece[origin, player],
        )
    if players > single:
        yield from _rest(part, local, losses, rank, victims, given[:, single])


def _values(part: Station, lost: Ints, victims: Ints) -> tuple[npt.NDArray[np.float64], Ints]:
    """Shapley values of the players, float64[victims, players], and what they inherit together, int64[victims]."""
    players = len(lost)
    weights = shapley_coefficients(players)
    # A player's values lie next to each other while they are summed.
    values = np.zeros((players, len(victims)))
    shorter = np.zeros(len(victims), np.int64)
    width = max(1, _CELLS // len(part.rows)) if part.servers > 1 else 1
    for low in range(1, 1 << players, width):
        sets = range(low, min(low + width, 1 << players))
        hold = np.stack([part.hold - _removed(lost, number) for number in sets], axis=1)
        if part.servers == 1:
            waits = [part.wait[victims] - lindley(part.arrival, hold[:, 0])[victims]]
        else:
            waits = list(removable(part, hold)[victims].T)
        for number, shorter in zip(sets, waits, strict=True):
            for player in range(players):
                values[player] += weights[number, player] * shorter
    return np.ascontiguousarray(values.T), shorter


def _removed(lost: Ints, number: int) -> Ints:
    members = [player for player in range(len(lost)) if number >> player & 1]
    removed: Ints = lost[members[0]] if len(members) == 1 else lost[members].sum(axis=0)
    return removed


def _rest(part: Station, local: Ints, losses: Losses, rank: Ints, victims: Ints, given: Ints) -> Iterator[_Inherited]:
    """The small classes share what they cause together, by the time each took before the victim came."""
    victims, given = victims[given > 0], given[given > 0]
    if not len(victims):
        return
    places = range(MAX_CAUSES, int(rank.max()) + 1)
    before = np.zeros((len(victims), len(places)))
    origins = np.zeros((len(victims), len(places)), np.int64)
    keys, pieces = (np.zeros((len(victims), len(places)), np.int64) for _ in range(2))
    first = np.searchsorted(part.period, part.period, "left")
    for column, place in enumerate(places):
        mine = rank == place
        lost, key, piece = (np.zeros(len(part.rows), np.int64) for _ in range(3))
        lost[local[mine]], key[local[mine]], piece[local[mine]] = losses.ns[mine], losses.key[mine], losses.piece[mine]
        sums = np.cumsum(lost) - lost
        before[:, column] = (sums - sums[first])[victims]
        origins[:, column] = _largest_before(lost, part.period)[victims]
        keys[:, column], pieces[:, column] = key[origins[:, column]], piece[origins[:, column]]
    shares = round_rows(before, given)
    who, which = np.nonzero(shares)
    yield _Inherited(
        part.rows[victims[who]],
        part.rows[origins[who, which]],
        keys[who, which],
        shares[who, which],
        pieces[who, which],
    )


def _largest_before(lost: Ints, period: Ints) -> Ints:
    """For each request the earlier one of its busy period that lost most; -1 where none lost anything."""
    level = period * _TIME + np.minimum(lost, _TIME - 1)
    highest = np.maximum.accumulate(level)
    record = lost > 0
    record[1:] &= highest[1:] > highest[:-1]
    latest = np.maximum.accumulate(np.where(record, np.arange(len(lost)), -1))
    before = np.concatenate([[-1], latest[:-1]])
    before[period[np.maximum(before, 0)] != period] = -1
    return before


def _split(
    requests: npt.NDArray[np.void],
    ledger: Ledger,
    classes: Classes,
    station: Station,
    found: _Inherited,
) -> Ledger:
    pieces = ledger.pieces
    order = np.lexsort((found.origin, found.at))
    at, origin, key, ns, source = (getattr(found, name)[order] for name in _Inherited.__slots__)
    first = np.flatnonzero(np.diff(at, prepend=-1))
    victim, count = at[first], np.diff(np.append(first, len(at)))
    queue = _queue_pieces(ledger, station, victim)
    inherited = np.add.reduceat(ns, first)
    load = station.wait[victim] - inherited
    # Where each of those queue pieces comes to stand, and the table with room for what is before it.
    by_place = np.argsort(queue)
    more = count - (load == 0)
    place = np.empty(len(queue), np.int64)
    place[by_place] = queue[by_place] + np.cumsum(more[by_place]) - more[by_place]
    kept = place + count
    within = np.arange(len(at)) - np.repeat(first, count)
    where = np.repeat(place, count) + within
    split = empty_table(len(pieces) + int(more.sum()))
    old = np.ones(len(split), bool)
    old[where] = False
    stays = np.ones(len(pieces), bool)
    stays[queue[load == 0]] = False

    def copy(part: slice) -> None:
        begin, end = (bound + int(more[queue < bound].sum()) for bound in (part.start, part.stop))
        kept = pieces[part].compress(stays[part])
        if len(kept):
            # In the places of new pieces comes what is before them, until they are there.
            np.take(kept, np.cumsum(old[begin:end]) - 1, out=split[begin:end], mode="clip")

    on_all_cpus(copy, slices(len(pieces), _CHUNK))
    split["ns"][kept[load > 0]] = load[load > 0]
    split["start_ns"][kept[load > 0]] += inherited[load > 0]

    names, observer = list(ledger.culprits), list(ledger.observer)
    longer = _named(names, observer, LONGER_RUN) if (key == len(classes)).any() else 0
    others = _named(names, observer, OTHERS) if (key > len(classes)).any() else 0
    sums = np.cumsum(ns) - ns
    start = station.arrival[at] + sums - np.repeat(sums[first], count)

    def add(part: slice) -> None:
        new = pieces.take(source[part])
        ran, joined = key[part] == len(classes), key[part] > len(classes)
        by = station.rows[origin[part]]
        new["row"], new["origin"], new["start_ns"] = station.rows[at[part]], by, start[part]
        calibrated = np.floor(ns[part] * (new["calibrated_ns"] / new["ns"])).astype(np.int64)
        new["calibrated_ns"] = np.where(ran, 0, calibrated)
        new["ns"] = ns[part]
        new["culprit"][ran], new["culprit"][joined] = longer, others
        new["cause"][ran], new["basis"][ran] = Cause.QUEUE, Basis.MEASURED
        new["tid"][ran], new["cpu"][ran] = requests["tid"][by[ran]], requests["cpu_start"][by[ran]]
        split.view(_RAW)[where[part]] = new.view(_RAW)

    on_all_cpus(add, slices(len(at), _CHUNK))
    return Ledger(split, tuple(names), np.array(observer, bool))


def _queue_pieces(ledger: Ledger, station: Station, victim: Ints) -> Ints:
    """The index of the one `queue` piece of each of the victims."""
    mine = np.flatnonzero((ledger.pieces["cause"] == Cause.QUEUE) & (ledger.pieces["origin"] < 0))
    rows = np.ascontiguousarray(ledger.pieces["row"][mine])
    found = np.minimum(np.searchsorted(rows, station.rows[victim]), len(rows) - 1)
    queue: Ints = mine[found]
    same = (rows[found] == station.rows[victim]) & (ledger.pieces["ns"][queue] == station.wait[victim])
    if not same.all():
        raise AssertionError(f"the queue of {int((~same).sum())} requests is not in the ledger as it was")
    return queue


def _named(names: list[str], observer: list[bool], name: str) -> int:
    names.append(name)
    observer.append(False)
    return len(names) - 1
