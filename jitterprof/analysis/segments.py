"""Interval algebra on columns: the segments that threads' time is cut into, and how to cut and collect them.

All cuts keep the total: a cut replaces a segment by pieces that cover exactly the same nanoseconds.
"""

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
#: Rows of a table. `rows.take(index)` is much faster than `rows[index]`, which numpy copies field by field.
Rows = npt.NDArray[np.void]


class Role(IntEnum):
    """How a thread relates to its CPU: interrupts there hit it only while it runs or waits in the run queue."""

    OFF = 0
    RUNNING = 1
    WAITING = 2


#: One state of one thread. `thread`: index into the timeline's tids. `cpu`: -1 for none. `code`: culprits.CulpritCode;
#: `note`: 1 + the system call that belongs to the culprit's name, `via`: the lock holder whose state this is (0: no).
#: `tid`: whose state it is. `wait`: index into the timeline's table of blocked spans, -1 for none.
SEGMENT_DTYPE = np.dtype(
    [
        ("thread", "<i4"),
        ("cpu", "<i4"),
        ("start", "<i8"),
        ("end", "<i8"),
        ("code", "<i8"),
        ("tid", "<i4"),
        ("via", "<i4"),
        ("note", "<i4"),
        ("wait", "<i4"),
        ("cause", "u1"),
        ("role", "u1"),
    ]
)


@dataclass(frozen=True, slots=True)
class Intervals:
    """Intervals [start, end) in groups (a CPU or a thread): sorted by (group, start) and disjoint within a group.

    `row`: where each came from, an index that the maker of the intervals chooses.
    """

    group: Ints
    start: Ints
    end: Ints
    row: Ints

    def __len__(self) -> int:
        return len(self.start)

    def rows(self, index: Ints | slice) -> "Intervals":
        """Some of them."""
        return Intervals(self.group[index], self.start[index], self.end[index], self.row[index])


def near(group: Ints, time: Ints, first: tuple[int, int], last: tuple[int, int]) -> slice:
    """Of entries sorted by (group, time) those from `first` to `last` (both a group and a time), and one more on either
    side."""
    bounds = []
    for (wanted, at), side in ((first, "left"), (last, "right")):
        low, high = np.searchsorted(group, [wanted, wanted + 1])
        bounds.append(int(low) + int(np.searchsorted(time[low:high], at, side)))  # type: ignore[call-overload]
    return slice(max(bounds[0] - 1, 0), bounds[1] + 1)


class Stretch:
    """Finds what reaches into a stretch of time, among disjoint spans by (group, start): so that a long session can be
    worked on piece by piece."""

    __slots__ = ("_bounds", "_ends", "_starts")

    def __init__(self, group: Ints, start: Ints, end: Ints) -> None:
        """Keeps the columns that it is given."""
        self._starts, self._ends = start, end
        edges = np.flatnonzero(np.diff(group)) + 1
        self._bounds = list(pairwise([0, *edges.tolist(), len(group)]))

    def during(self, start: int, end: int) -> Ints:
        """Index of every span that has a part in [start, end), in order."""
        found = []
        for first, last in self._bounds:
            low = first + int(np.searchsorted(self._ends[first:last], start, "right"))
            high = first + int(np.searchsorted(self._starts[first:last], end, "left"))
            found.append(np.arange(low, high))
        return np.concatenate(found)


def intervals(group: Ints, start: Ints, end: Ints) -> Intervals:
    """Sort by (group, start), clip what overlaps its predecessor, drop what is empty. `row` = the index given."""
    row = np.lexsort((end, start, group))
    group, start, end = group[row], start[row], end[row]
    if len(row):
        # The latest end so far within the group: groups are shifted apart so that one running maximum does for all.
        lowest, span = _extent(start, end)
        rank = np.concatenate([[0], np.cumsum(np.diff(group) != 0)])
        reach = np.maximum.accumulate((end - lowest) + rank * span) - rank * span + lowest
        before = np.concatenate([[lowest], reach[:-1]])
        same = np.concatenate([[False], group[1:] == group[:-1]])
        start = np.where(same, np.maximum(start, before), start)
    keep = start < end
    return Intervals(group[keep], start[keep], end[keep], row[keep])


def union(group: Ints, start: Ints, end: Ints) -> Intervals:
    """The union within each group. Empty intervals count as points and are kept. `row` numbers the result."""
    order = np.lexsort((end, start, group))
    group, start, end = group[order], start[order], end[order]
    if not len(start):
        return Intervals(group, start, end, order)
    lowest, span = _extent(start, end)
    rank = np.concatenate([[0], np.cumsum(np.diff(group) != 0)])
    reach = np.maximum.accumulate((end - lowest) + rank * span)
    opens = np.concatenate([[True], (start[1:] - lowest) + rank[1:] * span > reach[:-1]])
    first = np.flatnonzero(opens)
    last = np.concatenate([first[1:] - 1, [len(start) - 1]])
    ends = reach[last] - rank[last] * span + lowest
    return Intervals(group[first], start[first], ends, np.arange(len(first)))


def _extent(*times: Ints) -> tuple[int, int]:
    lowest = min(int(column.min()) for column in times if len(column))
    highest = max(int(column.max()) for column in times if len(column))
    return lowest, highest - lowest + 2


class Axis:
    """Puts (group, time) on one axis, group after group, so that one search finds both."""

    __slots__ = ("_groups", "_lowest", "_span")

    def __init__(self, group: Ints, *times: Ints) -> None:
        """`group`: sorted. `times`: all that the axis must hold; others go to the nearer end of their group."""
        self._groups = group[np.flatnonzero(np.diff(group, prepend=group[:1] - 1))]
        self._lowest, span = _extent(*times) if len(group) else (0, 2)
        self._span = span + 1
        if len(self._groups) and self._span > np.iinfo(np.int64).max // (len(self._groups) + 2):
            raise OverflowError(f"{len(self._groups)} groups over {self._span} ns do not fit one key")

    def keys(self, group: Ints, time: Ints) -> Ints:
        """Where each (group, time) lies; in a group that the axis does not have all times are its beginning."""
        base, known = self.bases(group)
        return self.along(base, np.where(known, time, self._lowest - 1))

    def bases(self, group: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Where each group begins, and whether the axis has it."""
        rank = np.searchsorted(self._groups, group)
        if not len(self._groups):
            return rank, np.zeros(len(group), bool)
        return rank * self._span, self._groups[np.minimum(rank, len(self._groups) - 1)] == group

    def along(self, base: Ints, time: Ints) -> Ints:
        """Where each time lies in the group that begins at `base`."""
        key: Ints = base + np.clip(time - (self._lowest - 1), 0, self._span - 1)
        return key


class Finder:
    """Looks up times in grouped, sorted columns."""

    __slots__ = ("_axis", "_keys")

    def __init__(self, group: Ints, time: Ints) -> None:
        """`group`, `time`: sorted by (group, time)."""
        self._axis = Axis(group, time)
        self._keys = self._axis.keys(group, time)

    def after(self, group: Ints, time: Ints) -> Ints:
        """Index of the first entry with entry time > time; past the group's last entry where there is none."""
        return np.searchsorted(self._keys, self._axis.keys(group, time), "right").astype(np.int64)

    def at_or_after(self, group: Ints, time: Ints) -> Ints:
        """Index of the first entry with entry time >= time; past the group's last entry where there is none."""
        return np.searchsorted(self._keys, self._axis.keys(group, time), "left").astype(np.int64)


def overlapping(group: Ints, start: Ints, end: Ints, among: Intervals) -> tuple[Ints, Ints]:
    """For each query [start, end) the index of the first interval that reaches past its start, and how many overlap."""
    axis = Axis(among.group, among.start, among.end)
    base, known = axis.bases(group)
    of_interval, _ = axis.bases(among.group)
    first = np.searchsorted(axis.along(of_interval, among.end), axis.along(base, start), "right")
    beyond = np.searchsorted(axis.along(of_interval, among.start), axis.along(base, end), "left")
    return first, np.where(known, np.maximum(beyond - first, 0), 0)


def ragged(first: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Flatten ranges: (which range, index) for `count[i]` indices from `first[i]` on."""
    owner = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return owner, first[owner] + within


def cut(segments: Rows, group: Ints, among: Intervals) -> tuple[Rows, Ints]:
    """Cut segments at the edges of the intervals of their group; -1 = leave it whole.

    Returns the pieces in order, and for each the index of the interval that it lies in (-1: in none).
    """
    whole = np.full(len(segments), -1)
    eligible = np.flatnonzero(group >= 0)
    if not len(eligible) or not len(among):
        return segments, whole
    first, count = overlapping(group[eligible], segments["start"][eligible], segments["end"][eligible], among)
    met = count > 0
    hit, first, count = eligible[met], first[met], count[met]
    if not len(hit):
        return segments, whole
    # A segment that meets k intervals has k pieces inside them (odd steps), and k + 1 before, between and after them,
    # of which most are empty.
    owner, step = ragged(np.zeros(len(hit), np.int64), 2 * count + 1)
    inside = step % 2 == 1
    ahead = first[owner] + step // 2
    start, end = segments["start"][hit][owner], segments["end"][hit][owner]
    here, behind = np.minimum(ahead, len(among) - 1), np.maximum(ahead - 1, 0)
    opens = np.where(inside, among.start[here], np.where(step == 0, start, among.end[behind]))
    closes = np.where(inside, among.end[here], np.where(step == 2 * count[owner], end, among.start[here]))
    start, end = np.maximum(start, opens), np.minimum(end, closes)
    kept = np.flatnonzero(start < end)
    owner, inside, here, start, end = owner[kept], inside[kept], here[kept], start[kept], end[kept]

    number = np.ones(len(segments), np.int64)
    number[hit] = np.bincount(owner, minlength=len(hit))
    pieces = segments.take(np.repeat(np.arange(len(segments)), number))
    cut_up = np.zeros(len(segments), bool)
    cut_up[hit] = True
    place = np.flatnonzero(np.repeat(cut_up, number))
    pieces["start"][place], pieces["end"][place] = start, end
    at = np.full(len(pieces), -1)
    at[place] = np.where(inside, here, -1)
    return pieces, at


def clipped(segments: Rows, start: int | Ints, end: int | Ints) -> Rows:
    """Cut off, in place, what lies outside [start, end)."""
    np.maximum(segments["start"], start, out=segments["start"])
    np.minimum(segments["end"], end, out=segments["end"])
    return segments


def ordered(segments: Rows) -> Rows:
    """By (thread, start)."""
    return segments.take(np.lexsort((segments["start"], segments["thread"])))


def collect(group: Ints, start: Ints, end: Ints, segments: Rows, by: str = "thread") -> tuple[Ints, Rows]:
    """The segments of each window's group within the window, clipped to it: (which window, pieces) in order.

    `segments` are sorted by (group, start) and contiguous per group.
    """
    at = Finder(segments[by].astype(np.int64), segments["end"]).after(group, start)
    beyond = Finder(segments[by].astype(np.int64), segments["start"]).at_or_after(group, end)
    owner, index = ragged(at, np.where(start < end, np.maximum(beyond - at, 0), 0))
    return owner, clipped(segments.take(index), start[owner], end[owner])
