"""Which requests the flight recorder keeps, and what reaches the disk when."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from jitterprof.experiment.flight import (
    HOLD_NS,
    MARGIN_NS,
    MAX_HELD,
    MAX_HOLD_NS,
    START_NS,
    Batch,
    Flight,
    Selection,
)
from jitterprof.experiment.row_follower import FINISHED_DTYPE
from jitterprof.model.event import EVENT_DTYPE, EventKind
from jitterprof.model.request import Phase
from jitterprof.model.stream import Why

Rows = npt.NDArray[np.void]
MS, S = 1_000_000, 1_000_000_000
T0 = 100 * S


def finished(response_ns: npt.NDArray[np.int64], gap_ns: int = 2 * MS, first_ns: int = T0, first_seq: int = 0) -> Rows:
    """Requests of one worker, intended `gap_ns` apart."""
    rows = np.zeros(len(response_ns), FINISHED_DTYPE)
    rows["intended_ns"] = rows["ready_ns"] = rows["start_ns"] = first_ns + gap_ns * np.arange(len(rows))
    rows["end_ns"] = rows["intended_ns"] + response_ns
    rows["seq"], rows["phase"], rows["tid"] = first_seq + np.arange(len(rows)), Phase.MEASURED, 7
    return rows


def in_seconds(rows: Rows) -> list[Rows]:
    edges = np.searchsorted(rows["end_ns"], np.arange(T0, int(rows["end_ns"].max()) + 2 * S, S))
    return [rows[start:end] for start, end in pairwise(edges.tolist())]


def selected(response_ns: npt.NDArray[np.int64], slo_ns: int | None = None, seed: int = 1) -> Rows:
    selection = Selection(1, slo_ns, seed)
    windows: Rows = np.concatenate([selection.windows(part) for part in in_seconds(finished(response_ns))])
    return windows


def lognormal(count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    return (MS * 0.2 * np.random.default_rng(seed).lognormal(0, 0.6, count)).astype(np.int64)


def why(windows: Rows, reason: Why) -> set[int]:
    return set(windows["seq"][windows["why"] & reason != 0].tolist())


@pytest.mark.parametrize("seed", range(5))
def test_the_tail_of_a_steady_session_is_kept_and_little_else(seed: int) -> None:
    response = lognormal(30_000, seed)
    windows = selected(response)
    tail = set(np.flatnonzero(response > np.quantile(response, 0.99)).tolist())
    kept = why(windows, Why.TAIL)
    assert len(tail - kept) <= 0.01 * len(tail)
    assert len(kept) <= 0.03 * len(response)


def test_the_sample_does_not_look_at_the_response_and_is_large_enough() -> None:
    response = lognormal(20_000)
    drawn = why(selected(response), Why.SAMPLE)
    assert drawn == why(selected(response[::-1]), Why.SAMPLE)
    assert drawn != why(selected(response, seed=2), Why.SAMPLE)
    assert 200 <= len(drawn) <= 0.03 * len(response)
    assert len([seq for seq in drawn if seq >= 10_000]) >= 0.005 * 10_000


def test_a_slow_stretch_is_not_kept_as_a_whole() -> None:
    response = np.concatenate([lognormal(20_000), 10 * lognormal(20_000, 1)])
    kept = why(selected(response), Why.TAIL)
    slow = len([seq for seq in kept if seq >= 26_000])
    assert 0.05 * 14_000 < slow < 0.12 * 14_000


def test_a_faster_stretch_has_a_tail_too() -> None:
    response = np.concatenate([10 * lognormal(10_000), lognormal(10_000, 1)])
    kept = why(selected(response), Why.TAIL)
    assert len([seq for seq in kept if seq >= 15_000]) >= 0.012 * 5_000


def test_an_slo_is_the_threshold_but_not_a_way_to_keep_everything() -> None:
    response = lognormal(20_000)
    slo = int(np.quantile(response, 0.999))
    late = {seq for seq in why(selected(response, slo), Why.TAIL) if seq > 1000}
    assert late == {seq for seq in np.flatnonzero(response > slo).tolist() if seq > 1000}
    assert len(why(selected(response, 1), Why.TAIL)) < 0.15 * len(response)


def test_warm_up_is_not_kept_and_the_beginning_of_the_measurement_is() -> None:
    rows = finished(lognormal(4_000))
    rows["phase"][:2_000] = Phase.WARMUP
    selection = Selection(1, None, 1)
    windows = np.concatenate([selection.windows(part) for part in in_seconds(rows)])
    whole = windows[windows["why"] == Why.START]
    begin = int(rows["intended_ns"][2_000])
    assert whole[["start_ns", "end_ns"]].tolist() == [
        (0, int(rows["intended_ns"][0])),
        (begin - MARGIN_NS, begin - MARGIN_NS + START_NS),
    ]
    assert windows[windows["why"] != Why.START]["start_ns"].min() >= begin - MARGIN_NS


# The recorder's buffer.


def ticks(since_ns: int, until_ns: int, first_seq: int) -> Rows:
    """A record every 100 us."""
    ts = np.arange(since_ns, until_ns, MS // 10)
    events = np.zeros(len(ts), EVENT_DTYPE)
    events["ts"], events["seq"], events["kind"] = ts, first_seq + np.arange(len(ts)), EventKind.IDLE_EXIT
    return events


class Recording:
    """A flight with one batch per second."""

    def __init__(self) -> None:
        self.flight = Flight(1, None, 1)
        self.batches: list[Batch] = []
        self.now, self.seq = T0, 0

    def second(self, rows: Rows, lost: int = 0) -> Batch:
        events = ticks(self.now, self.now + S, self.seq)
        self.seq += len(events)
        self.now += S
        self.batches.append(self.flight.take(events[lost:], rows, self.now))
        return self.batches[-1]

    def finish(self, rows: Rows) -> None:
        self.batches.append(self.flight.finish(rows, {0: self.seq - 1}))

    def all(self, name: str) -> Rows:
        joined: Rows = np.concatenate([getattr(batch, name) for batch in self.batches])
        return joined


def test_discarded_records_are_no_losses_and_lost_ones_are() -> None:
    recording = Recording()
    rows = finished(lognormal(15_000))
    for number, part in enumerate(in_seconds(rows)):
        recording.second(part, lost=3 if number == 10 else 0)
    recording.finish(rows[:0])
    events, losses, windows = recording.all("events"), recording.all("losses"), recording.all("windows")
    assert len(events) < 0.25 * recording.seq
    assert losses["lost"].tolist() == [3]
    missing = T0 + 10 * S
    assert (losses["start_ns"][0], losses["end_ns"][0]) == (missing - MS // 10, missing + 3 * MS // 10)
    everything = ticks(T0, recording.now, 0)
    everything = everything[(everything["ts"] < missing) | (everything["ts"] >= missing + 3 * MS // 10)]
    ts = everything["ts"].astype(np.int64)
    wanted = ((ts[:, None] >= windows["start_ns"]) & (ts[:, None] <= windows["end_ns"])).any(axis=1)
    assert np.array_equal(np.sort(events, order="ts"), everything[wanted])


def test_a_window_reaches_the_disk_after_all_of_its_records() -> None:
    recording = Recording()
    for part in in_seconds(finished(lognormal(5_000))):
        recording.second(part)
    # Killed here: what was written is all that there is.
    events, windows = recording.all("events"), recording.all("windows")
    assert len(windows) > 100
    everything = ticks(T0, recording.now, 0)["ts"].astype(np.int64)
    for window in windows:
        inside = everything[(everything >= window["start_ns"]) & (everything <= window["end_ns"])]
        assert np.isin(inside, events["ts"]).all()


def test_a_request_that_does_not_end_keeps_what_would_be_held_too_long() -> None:
    recording = Recording()
    rows = finished(lognormal(1_000))
    for part in in_seconds(rows):
        recording.second(part)
    for _ in range(40):
        recording.second(rows[:0])
    last = int(rows["end_ns"].max())
    long = recording.all("windows")
    long = long[long["why"] == Why.LONG]
    assert long["start_ns"].min() == last - MARGIN_NS
    assert recording.now - MAX_HOLD_NS - 2 * S <= long["end_ns"].max() <= recording.now - MAX_HOLD_NS
    # It ends after all, and is kept for being slow: with all that is left of its time.
    slow = finished(np.array([recording.now - last - 10 * MS]), first_ns=last + 10 * MS, first_seq=1_000)
    recording.finish(slow)
    (window,) = recording.all("windows")[recording.all("windows")["seq"] == 1_000]
    kept = recording.all("events")["ts"].astype(np.int64)
    assert np.isin(np.arange(last + 10 * MS, recording.now, MS // 10) // (MS // 10) * (MS // 10), kept).all()
    assert window["why"] & Why.TAIL


def test_memory_is_bounded() -> None:
    flight = Flight(1, None, 1)
    flight.take(np.empty(0, EVENT_DTYPE), finished(lognormal(10)), T0 + S)
    burst = ticks(T0 + S, T0 + S + 100 * S, 0)
    assert len(burst) == MAX_HELD
    first = flight.take(burst, finished(lognormal(0)), T0 + 2 * S)
    assert not len(first.events)
    second = flight.take(ticks(T0 + 200 * S, T0 + 200 * S + MS, MAX_HELD), finished(lognormal(0)), T0 + 2 * S)
    assert len(second.events) >= MAX_HELD // 3
    assert flight.held <= MAX_HELD * 2 // 3


def test_a_request_that_queued_is_kept_from_its_intended_start() -> None:
    recording = Recording()
    calm = finished(lognormal(1_500))
    for part in in_seconds(calm):
        recording.second(part)
    slow = finished(np.array([HOLD_NS - 200 * MS]), first_ns=recording.now - HOLD_NS + 100 * MS, first_seq=1_500)
    slow["ready_ns"] = slow["start_ns"] = slow["end_ns"] - MS
    recording.second(slow)
    recording.finish(slow[:0])
    (window,) = recording.all("windows")[recording.all("windows")["seq"] == 1_500]
    assert window["start_ns"] == slow["intended_ns"][0] - MARGIN_NS
