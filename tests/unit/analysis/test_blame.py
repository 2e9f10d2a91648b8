"""The blame table: who is named, who is not, and shares that add up."""

import numpy as np
import pytest
from fakes import ledger_of, request_table

from jitterprof.analysis.account import account, classify
from jitterprof.analysis.blame import BlameTable, blame_table
from jitterprof.analysis.chance import PieceTimeline
from jitterprof.analysis.spikes import baseline_ledgers, select
from jitterprof.analysis.station import station_of
from jitterprof.model.cause import Cause

Parts = dict[int, list[tuple[Cause, str, int]]]


def _table(work: np.ndarray, parts: Parts, shape: int | np.ndarray = 0) -> BlameTable:
    response = work + np.array([sum(ns for _, _, ns in parts.get(row, ())) for row in range(len(work))])
    requests = request_table(response, shape=shape)
    ledger = ledger_of(requests, parts)
    classes = classify(ledger)
    totals = account(ledger, classes)
    population = select(requests)
    baselines = baseline_ledgers(population, totals, classes, len(requests))
    return blame_table(station_of(requests), ledger, classes, totals, population, baselines, len(requests))


def _work(count: int, seed: int = 0, spread: float = 20_000) -> np.ndarray:
    return (2e6 + np.random.default_rng(seed).normal(0, spread, count)).astype(np.int64)


def _named(table: BlameTable) -> set[str]:
    return {row.cause for row in table.rows} - {"run", "unknown"}


def test_a_neighbour_is_named_with_its_share() -> None:
    parts: Parts = {row: [(Cause.PREEMPTED, "hog/7", 3_000_000)] for row in range(0, 5000, 200)}
    table = _table(_work(5000), parts)
    first = table.rows[0]
    assert (first.cause, first.culprit, first.requests) == ("preempted", "hog/7", 25)
    # 25 of the 50 spikes lose 3 ms each.
    assert first.excess_ns == pytest.approx(1_500_000, rel=0.01)
    assert first.share > 0.9
    assert first.null_share is not None
    assert first.null_share < 0.2
    assert sum(row.share for row in table.rows) + table.minor_share == pytest.approx(1)
    assert sum(row.excess_ns for row in table.rows) + table.minor_ns == table.excess_ns


def test_tasks_of_one_name_are_one_row() -> None:
    parts: Parts = {row: [(Cause.PREEMPTED, f"cc1/{row}", 3_000_000)] for row in range(0, 5000, 200)}
    assert _table(_work(5000), parts).rows[0].culprit == "cc1 (25 tasks)"


@pytest.mark.parametrize("seed", range(8))
def test_a_quiet_run_names_nobody(seed: int) -> None:
    rng = np.random.default_rng(seed)
    work = _work(6000, seed) + np.where(rng.random(6000) < 0.05, rng.integers(40_000, 160_000, 6000), 0)
    # Ticks every 4 ms of 5 us, softirqs in one request of ten: there, but not why requests are slow.
    parts: Parts = {
        row: [(Cause.TIMER, "tick", 5000)] * int(rng.integers(0, 2))
        + [(Cause.SOFTIRQ, "RCU", int(rng.integers(500, 4000)))] * int(rng.random() < 0.1)
        for row in range(6000)
    }
    table = _table(work, parts)
    assert _named(table) == set()
    assert table.rows[0].cause == "run"


def test_extra_work_in_the_request_stays_run() -> None:
    work = _work(5000)
    work[::250] += 5_000_000
    # The longer a request, the more ticks hit it: that is chance.
    parts: Parts = {row: [(Cause.TIMER, "tick", 6000)] * int(work[row] // 1_000_000) for row in range(5000)}
    table = _table(work, parts)
    assert _named(table) == set()
    assert table.rows[0].cause == "run"
    assert table.rows[0].share > 0.98


def test_what_hits_every_request_alike_is_not_the_reason() -> None:
    parts: Parts = {row: [(Cause.PREEMPTED, "hog/7", 1_000_000)] for row in range(5000)}
    work = _work(5000)
    work[::250] += 1_000_000
    assert _named(_table(work, parts)) == set()


def test_unknown_time_is_shown_as_unknown() -> None:
    parts: Parts = {row: [(Cause.UNKNOWN, "lost", 4_000_000)] for row in range(0, 5000, 150)}
    first = _table(_work(5000), parts).rows[0]
    assert (first.cause, first.culprit) == ("unknown", "lost")


def test_long_shapes_are_not_blamed_on_what_hits_long_requests() -> None:
    count = 3000
    shape = (np.arange(count) % 60 == 0).astype(np.int64)
    work = _work(count) + shape * 8_000_000
    parts: Parts = {row: [(Cause.TIMER, "tick", 6000)] * int(work[row] // 1_000_000) for row in range(count)}
    parts[60] = [(Cause.BLOCK_IO, "nvme0n1", 40_000_000)]
    table = _table(work, parts, shape)
    assert _named(table) == {"block_io"}


def test_no_spikes_no_rows() -> None:
    assert _table(np.full(100, 5000), {}).rows == ()


def test_timeline_sums_any_window() -> None:
    rng = np.random.default_rng(3)
    lengths, column = rng.integers(1, 50, 200), rng.integers(-1, 4, 200)
    timeline = PieceTimeline(lengths, column, 4)
    owner = np.repeat(column, lengths)
    starts = rng.integers(0, timeline.length_ns, 100)
    ends = np.minimum(starts + rng.integers(0, 900, 100), timeline.length_ns)
    expected = [[int((owner[a:b] == number).sum()) for number in range(4)] for a, b in zip(starts, ends, strict=True)]
    assert timeline.between(starts, ends).tolist() == expected
