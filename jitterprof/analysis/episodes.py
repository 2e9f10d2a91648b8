"""Episodes: spikes that are slow for one and the same reason, which happened once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.account import Account, Classes
from jitterprof.analysis.queueing import LONGER_RUN
from jitterprof.analysis.spikes import Population
from jitterprof.analysis.station import Station
from jitterprof.model.cause import CAUSE_IDS, Cause
from jitterprof.model.ledger import Ledger

Ints = npt.NDArray[np.int64]

#: A spike belongs to the episode of a cause that has at least this part of its excess.
PART = 0.3
#: One spike is no episode: it is among the single requests.
MIN_REQUESTS = 2


@dataclass(frozen=True, slots=True)
class Episode:
    """`requests` spikes, `first_seq` to `last_seq`, slow by `excess_ns` together through one loss of time.

    The loss: `ns` in `pieces` pieces between `start_ns` and `end_ns` (CLOCK_MONOTONIC), in the service of the requests
    where it began; `at_ns`: its start after that of the measured part; `cpu`: of the largest piece. For a request that
    ran longer than usual, `ns` is its service time.
    """

    cause: str
    culprit: str
    at_ns: int
    start_ns: int
    end_ns: int
    ns: int
    pieces: int
    cpu: int
    requests: int
    first_seq: int
    last_seq: int
    excess_ns: int


@dataclass(frozen=True, slots=True)
class _Roots:
    """A loss of time that spikes go back to: class, row of the request that lost it, and where its pieces lie."""

    key: Ints
    row: Ints
    start: Ints
    end: Ints
    ns: Ints
    pieces: Ints
    largest: Ints


def find_episodes(
    requests: npt.NDArray[np.void],
    ledger: Ledger,
    classes: Classes,
    totals: Account,
    station: Station,
    population: Population,
    baselines: npt.NDArray[np.int64],
    began_ns: int,
) -> tuple[Episode, ...]:
    """Group the spikes by what made each slow, largest excess first. `began_ns`: start of the measured part.

    The reason of a spike is its class with the largest excess: where most of it was inherited, as it happened to the
    request it came from. Reasons of one class are one when they overlap in time, and when their spikes are neighbours.
    """
    row, key, over = _reasons(ledger, classes, totals, population, baselines)
    if not len(row):
        return ()
    origin = _origins(ledger, classes, row, key)
    code, of_root = np.unique(key * len(requests) + origin, return_inverse=True)
    roots = _roots(requests, ledger, classes, code // len(requests), code % len(requests))
    position = np.full(len(requests), -1, np.int64)
    position[station.rows] = np.arange(len(station.rows))
    first, last = np.full(len(code), len(requests), np.int64), np.full(len(code), -1, np.int64)
    np.minimum.at(first, of_root, position[row])
    np.maximum.at(last, of_root, position[row])
    group = _joined(roots, first, last)[of_root]
    found = []
    for number in np.flatnonzero(np.bincount(group) >= MIN_REQUESTS).tolist():
        mine = group == number
        of = np.unique(of_root[mine])
        largest = of[roots.ns[of].argmax()]
        seqs = requests["seq"][row[mine]]
        start = int(roots.start[of].min())
        cause, culprit, cpu = _named(requests, ledger, classes, roots, int(largest))
        found.append(
            Episode(
                cause,
                culprit,
                start - began_ns,
                start,
                int(roots.end[of].max()),
                int(roots.ns[of].sum()),
                int(roots.pieces[of].sum()),
                cpu,
                int(mine.sum()),
                int(seqs.min()),
                int(seqs.max()),
                int(over[mine].sum()),
            )
        )
    return tuple(sorted(found, key=lambda episode: -episode.excess_ns))


def _reasons(
    ledger: Ledger, classes: Classes, totals: Account, population: Population, baselines: Ints
) -> tuple[Ints, Ints, Ints]:
    """Row, class and its excess, of the spikes that have a reason which happened at some moment."""
    size = int(population.rows.max()) + 1 if len(population.rows) else 0
    spike = np.full(size, -1, np.int64)
    spike[population.tail_rows] = np.flatnonzero(population.tail)
    inside = totals.row < size
    mine = np.flatnonzero(inside)[spike[totals.row[inside]] >= 0]
    number, key = spike[totals.row[mine]], totals.key[mine]
    baseline = population.baseline[number]
    over = totals.ns[mine] - baselines[baseline, key]
    excess = population.response_ns[number] - population.baseline_ns[baseline]
    groups = [name == LONGER_RUN for name in classes.groups]
    longer = (classes.cause == Cause.QUEUE) & np.array(groups, bool)[classes.group]
    named = longer | ~np.isin(classes.cause, (Cause.RUN, Cause.QUEUE, Cause.UNKNOWN, Cause.DISPATCH))
    kept = np.flatnonzero(named[key] & (over > 0) & (over >= PART * excess))
    kept = kept[np.lexsort((over[kept], number[kept]))]
    last = np.append(np.diff(number[kept]) > 0, [True] * bool(len(kept))).astype(bool)
    kept = kept[last]
    return population.rows[number[kept]], key[kept], over[kept]


def _pieces_of(ledger: Ledger, classes: Classes, row: Ints, key: Ints) -> tuple[Ints, Ints]:
    """Pieces of these classes in these rows: index into the ledger and into `row`. Pairs of the two are distinct."""
    code = row * len(classes) + key
    order = np.argsort(code)
    wanted = np.zeros(int(row.max()) + 1, bool)
    wanted[row] = True
    rows = ledger.pieces["row"]
    near = np.flatnonzero((rows < len(wanted)) & wanted[np.minimum(rows, len(wanted) - 1)])
    mine = rows[near] * len(classes) + classes.of_piece[near]
    at = np.minimum(np.searchsorted(code, mine, sorter=order), len(code) - 1)
    hit = code[order[at]] == mine
    return near[hit], order[at[hit]]


def _origins(ledger: Ledger, classes: Classes, row: Ints, key: Ints) -> Ints:
    """For each spike the row in whose service it lost most: its own, or where it was inherited from."""
    piece, of = _pieces_of(ledger, classes, row, key)
    largest = np.lexsort((ledger.pieces["ns"][piece], of))
    largest = largest[np.append(np.diff(of[largest]) > 0, True)]
    origin = row.copy()
    came = ledger.pieces["origin"][piece[largest]]
    origin[of[largest]] = np.where(came >= 0, came, row[of[largest]])
    return origin


def _roots(requests: npt.NDArray[np.void], ledger: Ledger, classes: Classes, key: Ints, row: Ints) -> _Roots:
    piece, of = _pieces_of(ledger, classes, row, key)
    own = ledger.pieces["origin"][piece] < 0
    piece, of = piece[own], of[own]
    piece = piece[np.lexsort((ledger.pieces["ns"][piece], of))]
    of = np.sort(of)
    start, end = requests["start_ns"][row].copy(), requests["end_ns"][row].copy()
    ns, pieces, largest = end - start, np.ones(len(row), np.int64), np.full(len(row), -1, np.int64)
    if len(of):
        first = np.flatnonzero(np.diff(of, prepend=-1))
        here = of[first]
        mine = ledger.pieces[piece]
        start[here] = np.minimum.reduceat(mine["start_ns"], first)
        end[here] = np.maximum.reduceat(mine["start_ns"] + mine["ns"], first)
        ns[here] = np.add.reduceat(mine["ns"], first)
        pieces[here] = np.diff(np.append(first, len(of)))
        largest[here] = piece[np.append(first[1:], len(of)) - 1]
    return _Roots(key, row, start, end, ns, pieces, largest)


def _joined(roots: _Roots, first: Ints, last: Ints) -> Ints:
    """Number of the episode of each root. `first`, `last`: positions of its spikes in order of arrival."""
    order = np.lexsort((first, roots.start, roots.key))
    number = np.zeros(len(order), np.int64)
    current, key, until, upto = -1, -1, 0, 0
    for root in order.tolist():
        apart = roots.start[root] > until and first[root] > upto + 1
        if roots.key[root] != key or apart:
            current, key, until, upto = current + 1, int(roots.key[root]), 0, -1
        number[root] = current
        until, upto = max(until, int(roots.end[root])), max(upto, int(last[root]))
    return number


def _named(
    requests: npt.NDArray[np.void], ledger: Ledger, classes: Classes, roots: _Roots, root: int
) -> tuple[str, str, int]:
    key, piece = int(roots.key[root]), int(roots.largest[root])
    cause = CAUSE_IDS[classes.cause[key]]
    if piece < 0:
        return cause, classes.groups[classes.group[key]], int(requests["cpu_start"][roots.row[root]])
    return cause, ledger.culprits[ledger.pieces["culprit"][piece]], int(ledger.pieces["cpu"][piece])
