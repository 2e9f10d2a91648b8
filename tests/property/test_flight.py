"""Whatever windows are kept: inside them the thinned records say exactly what all records say."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from jitterprof.analysis.evidence import find_gaps
from jitterprof.analysis.ledger import build_ledger, previous_end
from jitterprof.experiment.thinning import ALWAYS, INTERVALS, GapWatch, Spans, Thinner
from jitterprof.model.event import EVENT_DTYPE
from tests.property.test_ledger_truth import SEEDS, evidence_of, pieces_of, simulated
from tests.simulator import Trace

Rows = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]
#: CPUs, threads, steps. Longer than for the ledger alone: what is thrown away must be long, too.
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(200, 1200))
SHARES = st.sampled_from([0.0, 0.05, 0.2, 0.6])
ROUNDS = st.integers(1, 12)
SPANS = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 30)), max_size=8)


def rounds(trace: Trace, count: int) -> Iterator[tuple[int, int]]:
    first, last = trace.window
    return pairwise(np.linspace(first, last + 1, count + 1).astype(np.int64).tolist())


def thinned(trace: Trace, start: Ints, end: Ints, count: int) -> Rows:
    """The trace thinned to windows [start, end], in that many rounds."""
    thinner, kept = Thinner(), [np.empty(0, EVENT_DTYPE)]
    ts = trace.events["ts"].astype(np.int64)
    for since, until in rounds(trace, count):
        begins = (start >= since) & (start < until)
        thinner.kept.add(start[begins], end[begins])
        kept.append(thinner.thin(trace.events[(ts >= since) & (ts < until)], until))
    joined = np.concatenate(kept)
    assert len(np.unique(joined[["cpu", "seq"]])) == len(joined), "a record was written twice"
    return joined[np.lexsort((joined["seq"], joined["ts"]))]


def windows_of(trace: Trace, share: float, seed: int) -> tuple[npt.NDArray[np.intp], Ints, Ints]:
    """Some requests, and what of their time the ledger takes from events."""
    rows = np.flatnonzero(np.random.default_rng(seed).random(len(trace.requests)) < share)
    requests = trace.requests[rows]
    ready = np.clip(previous_end(trace.requests)[rows], requests["intended_ns"], requests["start_ns"])
    return rows, ready, requests["end_ns"]


@settings(max_examples=150, deadline=None)
@given(SEEDS, SHAPES, SHARES, ROUNDS)
def test_kept_requests_have_the_ledger_of_all_records(
    seed: int, shape: tuple[int, int, int], share: float, count: int
) -> None:
    trace = simulated(seed, shape)
    rows, start, end = windows_of(trace, share, seed)
    events = thinned(trace, start, end, count)
    # What was thrown away is not lost: there is no gap.
    full = evidence_of(trace)
    from_few = build_ledger(trace.requests, replace(full, events=events))
    wanted = set(rows.tolist())
    kept = [piece for piece in pieces_of(from_few) if piece[0] in wanted]
    assert kept == [piece for piece in trace.truth if piece[0] in wanted]
    if not len(rows):
        assert {*events["kind"].tolist()} <= {*ALWAYS}


@settings(max_examples=100, deadline=None)
@given(SEEDS, SHAPES, SHARES, ROUNDS)
def test_what_overlaps_a_window_is_kept_and_so_are_names(
    seed: int, shape: tuple[int, int, int], share: float, count: int
) -> None:
    trace = simulated(seed, shape)
    _, start, end = windows_of(trace, share, seed)
    events = trace.events
    begin = np.where(np.isin(events["kind"], INTERVALS), events["a"], events["ts"]).astype(np.int64)
    until = events["ts"].astype(np.int64)
    needed = ((begin[:, None] <= end) & (until[:, None] >= start)).any(axis=1) | np.isin(events["kind"], ALWAYS)
    kept = thinned(trace, start, end, count)
    missing = np.setdiff1d(events[needed][["cpu", "seq"]], kept[["cpu", "seq"]])
    assert not len(missing)
    assert len(np.setdiff1d(kept, events)) == 0


@settings(max_examples=100, deadline=None)
@given(SEEDS, SHAPES, st.sampled_from([0.001, 0.05, 0.3]), ROUNDS, st.booleans())
def test_losses_are_found_while_the_records_go_by(
    seed: int, shape: tuple[int, int, int], share: float, count: int, swapped: bool
) -> None:
    trace = simulated(seed, shape)
    random = np.random.default_rng(seed)
    events = trace.events[random.random(len(trace.events)) >= share].copy()
    if swapped and len(events) > 1:
        # An interrupt between taking the time and taking the number: of two neighbours on a CPU the earlier one in time
        # has the later number.
        mine = np.flatnonzero(events["cpu"] == events["cpu"][0])[:2]
        events["seq"][mine] = events["seq"][mine][::-1]
    watch, found = GapWatch(), []
    ts = events["ts"].astype(np.int64)
    for since, until in rounds(trace, count):
        # All the time of a simulated run is less than the wait for records that are late.
        found.append(watch.watch(events[(ts >= since) & (ts < until)], until + int(1e9) if count % 2 else until))
    found.append(watch.finish(trace.cpu_seq))
    at_once = find_gaps(events, trace.cpu_seq)
    assert np.concatenate(found)["lost"].sum() == at_once["lost"].sum()
    if not swapped:
        in_rounds = np.sort(np.concatenate(found), order=("cpu", "start_ns", "end_ns"))
        assert in_rounds.tolist() == np.sort(at_once, order=("cpu", "start_ns", "end_ns")).tolist()


@given(st.lists(SPANS, max_size=5))
def test_spans_are_a_union(groups: list[list[tuple[int, int]]]) -> None:
    spans, covered = Spans(), np.zeros(140, bool)
    for group in groups:
        pairs = np.array([(start, start + length) for start, length in group], np.int64).reshape(-1, 2)
        spans.add(pairs[:, 0], pairs[:, 1])
        for start, end in pairs.tolist():
            covered[start : end + 1] = True
    moments = np.arange(140)
    assert spans.meets(moments, moments).tolist() == covered.tolist()
    assert np.all(spans.start[1:] > spans.end[:-1])
    assert spans.meets(moments - 3, moments).tolist() == [covered[max(0, at - 3) : at + 1].any() for at in range(140)]
    assert spans.cover(moments, moments).tolist() == covered.tolist()
