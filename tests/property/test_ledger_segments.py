"""The interval algebra against the same thing done one nanosecond at a time."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jitterprof.analysis.segments import SEGMENT_DTYPE, collect, cut, intervals, overlapping, union

TIME = st.integers(0, 40)
SPAN = st.tuples(st.integers(0, 2), TIME, TIME)
SPANS = st.lists(SPAN, max_size=12)


def columns(spans: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.array(spans, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def moments(spans: list[tuple[int, int, int]]) -> set[tuple[int, int]]:
    return {(group, at) for group, start, end in spans for at in range(start, end)}


@given(SPANS)
def test_intervals_are_disjoint_and_cover_the_same_moments(spans: list[tuple[int, int, int]]) -> None:
    found = intervals(*columns(spans))
    rows = list(zip(found.group.tolist(), found.start.tolist(), found.end.tolist(), strict=True))
    assert moments(rows) == moments(spans)
    assert sum(end - start for _, start, end in rows) == len(moments(spans))
    for (group, start, end), row in zip(rows, found.row.tolist(), strict=True):
        assert spans[row][0] == group and spans[row][1] <= start < end <= spans[row][2]


@given(SPANS)
def test_a_union_is_maximal_and_keeps_points(spans: list[tuple[int, int, int]]) -> None:
    spans = [(group, min(start, end), max(start, end)) for group, start, end in spans]
    found = union(*columns(spans))
    rows = list(zip(found.group.tolist(), found.start.tolist(), found.end.tolist(), strict=True))
    assert moments(rows) == moments(spans)
    assert all(any(g == group and s <= start and end <= e for g, s, e in rows) for group, start, end in spans)
    assert all(a[0] < b[0] or a[2] < b[1] for a, b in pairwise(rows))


@given(SPANS, st.lists(SPAN, min_size=1, max_size=6))
def test_overlaps_are_counted(spans: list[tuple[int, int, int]], queries: list[tuple[int, int, int]]) -> None:
    among = intervals(*columns(spans))
    queries = [(group, min(start, end), max(start, end)) for group, start, end in queries]
    first, count = overlapping(*columns(queries), among)
    for (group, start, end), at, number in zip(queries, first.tolist(), count.tolist(), strict=True):
        expected = [
            index for index in range(len(among))
            if among.group[index] == group and among.end[index] > start and among.start[index] < end
        ]  # fmt: skip
        assert list(range(at, at + number)) == expected


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(TIME, min_size=2, max_size=6, unique=True)), max_size=3),
    SPANS,
    SPANS,
)
def test_cuts_and_collections_lose_nothing(
    threads: list[tuple[int, list[int]]], spans: list[tuple[int, int, int]], windows: list[tuple[int, int, int]]
) -> None:
    threads = list(dict(threads).items())
    rows = [(thread, begin, end) for thread, edges in sorted(threads) for begin, end in pairwise(sorted(edges))]
    segments = np.zeros(len(rows), SEGMENT_DTYPE)
    segments["thread"], segments["start"], segments["end"] = columns(rows)
    among = intervals(*columns(spans))
    # Thread 2 is left whole.
    group = np.where(segments["thread"] < 2, segments["thread"], -1)
    pieces, inside = cut(segments, group.astype(np.int64), among)
    triples = [tuple(piece) for piece in pieces[["thread", "start", "end"]].tolist()]
    assert moments(triples) == moments(rows)
    assert triples == sorted(triples)
    assert all(start < end for _, start, end in triples)
    painted = moments([triple for triple, at in zip(triples, inside.tolist(), strict=True) if at >= 0])
    assert painted == {at for at in moments(spans) & moments(rows) if at[0] < 2}

    owner, found = collect(*columns(windows), pieces)
    for index, (thread, start, end) in enumerate(windows):
        mine = [tuple(piece) for piece in found[owner == index][["thread", "start", "end"]].tolist()]
        assert moments(mine) == moments([(thread, start, end)]) & moments(rows)
        assert mine == sorted(mine)
