"""A long session is worked on in parts that fit into memory; where the parts meet must not show in the result."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jitterprof.analysis.culprits import Coder
from jitterprof.analysis.evidence import Evidence, find_gaps
from jitterprof.analysis.ledger import build_ledger
from jitterprof.analysis.losses import Doubts, find_losses
from jitterprof.analysis.parallel import on_all_cpus
from jitterprof.analysis.piece_table import cut_at, rebuilt
from jitterprof.analysis.segments import near
from jitterprof.analysis.states import thread_states
from jitterprof.analysis.timeline import build_timeline, request_edges
from jitterprof.model.ledger import PIECE_DTYPE
from tests import simulator
from tests.simulator import Trace, simulate, without

SEEDS = st.integers(0, 2**32)
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(100, 700))
LOST = st.sampled_from((0.0, 0.0, 0.01, 0.1, 0.5))
ENTRIES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=12)


def recorded(seed: int, shape: tuple[int, int, int], share: float) -> tuple[Trace, Evidence]:
    cpus, threads, steps = shape
    trace = simulate(seed, steps, cpus, threads)
    trace = without(trace, np.random.default_rng(seed).random(len(trace.events)) < share)
    evidence = Evidence(
        events=trace.events,
        gaps=find_gaps(trace.events, trace.cpu_seq),
        gc=trace.gc,
        window=trace.window,
        irq_names=simulator.IRQ_NAMES,
        maps=simulator.MAPS,
    )
    return trace, evidence


@settings(max_examples=80, deadline=None)
@given(SEEDS, SHAPES, LOST, st.integers(1, 60))
def test_a_ledger_in_batches_is_the_ledger(seed: int, shape: tuple[int, int, int], share: float, size: int) -> None:
    trace, evidence = recorded(seed, shape, share)
    whole = build_ledger(trace.requests, evidence, timeline=build_timeline(trace.requests, evidence))
    parts = build_ledger(trace.requests, evidence, batch_events=size)
    assert np.array_equal(parts.pieces, whole.pieces)
    assert parts.culprits == whole.culprits
    assert np.array_equal(parts.observer, whole.observer)


@settings(max_examples=80, deadline=None)
@given(SEEDS, SHAPES, LOST, st.integers(1, 20))
def test_states_in_parts_are_the_states(seed: int, shape: tuple[int, int, int], share: float, size: int) -> None:
    trace, evidence = recorded(seed, shape, share)
    losses = find_losses(evidence, *evidence.window)
    known = (evidence, request_edges(trace.requests), losses, Coder.of(evidence))
    whole, parts = thread_states(*known, part=1 << 30), thread_states(*known, part=size)
    assert np.array_equal(parts.segments, whole.segments)
    assert np.array_equal(parts.waits.waker, whole.waits.waker)
    assert np.array_equal(parts.waits.lock, whole.waits.lock)
    for name in Doubts.__slots__:
        mine, theirs = getattr(parts.doubts, name), getattr(whole.doubts, name)
        assert [mine.group.tolist(), mine.start.tolist(), mine.end.tolist()] == [
            theirs.group.tolist(), theirs.start.tolist(), theirs.end.tolist(),
        ]  # fmt: skip


@given(ENTRIES, st.tuples(st.integers(0, 3), st.integers(0, 20)), st.tuples(st.integers(0, 3), st.integers(0, 20)))
def test_near_has_one_more_on_either_side(
    entries: Sequence[tuple[int, int]], first: tuple[int, int], last: tuple[int, int]
) -> None:
    first, last = min(first, last), max(first, last)
    entries = sorted(entries)
    table = np.array(entries, np.int64).reshape(-1, 2)
    found = entries[near(table[:, 0], table[:, 1], first, last)]
    before, after = [entry for entry in entries if entry < first], [entry for entry in entries if entry > last]
    assert found == before[-1:] + [entry for entry in entries if first <= entry <= last] + after[:1]


def test_parts_come_back_in_their_order() -> None:
    assert on_all_cpus(lambda number: number * number, range(100)) == [number * number for number in range(100)]


LENGTHS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 50)), max_size=30)


def _pieces(lengths: list[tuple[int, int]]) -> np.ndarray:
    table = np.zeros(len(lengths), PIECE_DTYPE)
    table["row"], table["ns"] = np.array(sorted(lengths), np.int64).reshape(-1, 2).T
    table["start_ns"] = 1000 * table["row"] + np.cumsum(table["ns"]) - table["ns"]
    return table


@given(LENGTHS, st.lists(st.integers(0, 1500), max_size=20))
def test_pieces_are_cut_where_they_are_told(lengths: list[tuple[int, int]], edges: list[int]) -> None:
    pieces = _pieces(lengths)
    total = int(pieces["ns"].sum())
    wanted = [edge for edge in sorted(edges) if edge <= total]
    parts = cut_at(pieces, np.array(wanted, np.int64))
    ends = np.cumsum(parts["ns"])
    assert set(ends.tolist()) == {*np.cumsum(pieces["ns"]).tolist(), *wanted} - {0}
    assert (parts["start_ns"] - 1000 * parts["row"] == ends - parts["ns"]).all()
    assert np.bincount(parts["row"], parts["ns"]).tolist() == np.bincount(pieces["row"], pieces["ns"]).tolist()


@given(LENGTHS, st.integers(1, 8))
def test_a_table_is_rebuilt_row_by_row(lengths: list[tuple[int, int]], stretch: int) -> None:
    pieces = _pieces(lengths)
    seen = []

    def change(some: np.ndarray) -> np.ndarray:
        seen.append(some["row"].tolist())
        return np.repeat(some, 2)

    assert rebuilt(pieces, change, len(pieces), stretch).tolist() == np.repeat(pieces, 2).tolist()
    rows = [row for some in seen for row in set(some)]
    assert len(rows) == len(set(rows))
