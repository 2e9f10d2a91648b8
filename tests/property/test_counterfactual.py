"""Quantiles without a cause, against sessions simulated without it; and intervals that hold what they promise."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jitterprof.analysis.account import account, classify
from jitterprof.analysis.blame import BlameRow, BlameTable
from jitterprof.analysis.counterfactual import LEVELS, Counterfactual, counterfactuals, responses_without
from jitterprof.analysis.distribution import quantiles
from jitterprof.analysis.queueing import inherit_queue
from jitterprof.analysis.replay import lindley
from jitterprof.analysis.resample import MIN_CLUSTERS, blocks_of, clusters, correlation_lag, intervals, resampled
from jitterprof.analysis.spikes import select
from jitterprof.analysis.station import station_of
from jitterprof.model.cause import CAUSE_IDS, Cause
from tests.queues import Loss, QueuedSession, queued_session, served

CAUSES = (Cause.SOFTIRQ, Cause.PREEMPTED, Cause.PAGE_FAULT)
LOSSES = st.lists(st.tuples(st.sampled_from(CAUSES), st.sampled_from(["", "a/1"]), st.integers(1, 90)), max_size=3)


@st.composite
def sessions(draw: st.DrawFn) -> tuple[QueuedSession, list[int], dict[int, list[Loss]]]:
    gaps = draw(st.lists(st.integers(0, 60), min_size=2, max_size=30))
    work = draw(st.lists(st.integers(1, 40), min_size=len(gaps), max_size=len(gaps)))
    losses = {row: draw(LOSSES) for row in range(len(gaps))}
    arrival = np.cumsum(gaps).tolist()
    return queued_session(arrival, work, losses, draw(st.integers(1, 3))), work, losses


def table(*causes: Cause) -> BlameTable:
    rows = tuple(BlameRow(cause.id, "x", 100 - number, 0.5, 1, None) for number, cause in enumerate(causes))
    return BlameTable(rows, 100, 0, 0.0)


def computed(session: QueuedSession, *causes: Cause) -> tuple[Counterfactual, ...]:
    ledger = inherit_queue(session.requests, session.ledger)
    classes = classify(ledger)
    population = select(session.requests)
    return counterfactuals(session.requests, ledger, classes, station_of(session.requests), population, table(*causes))


def responses(session: QueuedSession, work: list[int], losses: dict[int, list[Loss]], gone: set[Cause]) -> np.ndarray:
    """The same arrivals served without the causes that are gone."""
    arrival = (session.requests["intended_ns"]).tolist()
    hold = [own + sum(ns for cause, _, ns in losses[n] if cause not in gone) for n, own in enumerate(work)]
    servers = station_of(session.requests).servers
    begin = np.array([begin for begin, _ in served(arrival, hold, servers)])
    return begin + np.array(hold) - np.array(arrival)


@given(sessions())
def test_with_nothing_removed_it_is_what_was_measured(drawn: tuple[QueuedSession, list[int], dict]) -> None:
    session, _, _ = drawn
    station = station_of(session.requests)
    nothing = np.zeros((len(station.rows), 2), np.int64)
    measured = (session.requests["end_ns"] - session.requests["intended_ns"])[station.rows]
    assert (responses_without(station, nothing) == measured[:, None]).all()
    expected = quantiles(measured)
    for row in computed(session, *CAUSES):
        assert (
            row.as_measured_ns
            == {"p50": expected.p50_ns, "p99": expected.p99_ns, "p99.9": expected.p99_9_ns}[row.quantile]
        )


@settings(deadline=None)
@given(sessions())
def test_without_a_cause_it_is_the_session_without_it(drawn: tuple[QueuedSession, list[int], dict]) -> None:
    session, work, losses = drawn
    rows = computed(session, *CAUSES)
    assert len(rows) == len(CAUSES) * len(LEVELS)
    everything = responses(session, work, losses, set(CAUSES))
    for name, level in LEVELS:
        mine = {row.cause: row for row in rows if row.quantile == name}
        total = 0
        for cause in CAUSES:
            row = mine[cause.id]
            without = float(np.quantile(responses(session, work, losses, {cause}), level))
            assert abs(row.without_ns - without) <= 1
            assert row.first_ns == row.as_measured_ns - row.without_ns
            rest = float(np.quantile(responses(session, work, losses, set(CAUSES) - {cause}), level))
            assert abs(row.last_ns - (rest - float(np.quantile(everything, level)))) <= 1
            total += row.shapley_ns
        # The shares of all causes add up to what the session would be with none of them: work and load.
        gone = mine[CAUSES[0].id].as_measured_ns - float(np.quantile(everything, level))
        assert abs(total - gone) <= 1 + len(CAUSES)


def test_the_culprit_is_named_when_there_is_one() -> None:
    session = queued_session(
        [100 * n for n in range(20)], [50] * 20, {3: [(Cause.SOFTIRQ, "A", 40), (Cause.PREEMPTED, "b/1", 9)]}
    )
    ledger = session.ledger
    classes = classify(ledger)
    rows = (
        BlameRow("preempted", "a", 5, 0.1, 1, None), BlameRow("softirq", "A", 9, 0.3, 1, None),
        BlameRow("preempted", "b", 6, 0.2, 1, None), BlameRow("run", "", 70, 0.4, 1, None),
    )  # fmt: skip
    found = counterfactuals(
        session.requests, ledger, classes, station_of(session.requests), select(session.requests),
        BlameTable(rows, 90, 0, 0.0),
    )  # fmt: skip
    assert list(dict.fromkeys((row.cause, row.culprit) for row in found)) == [("preempted", ""), ("softirq", "A")]
    assert account(ledger, classes).ns.sum() == sum(row["ns"] for row in ledger.pieces)
    assert all(row.reason for row in found)
    assert {row.cause for row in found} <= set(CAUSE_IDS)


def _queue(seed: int, count: int, load: float = 0.6, rate: float = 600.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1e9 / rate, count)).astype(np.int64)
    hold = (rng.lognormal(-0.125, 0.5, count) * 1e9 / rate * load).astype(np.int64)
    return arrival, hold + lindley(arrival, hold)


def test_intervals_hold_the_true_quantile_as_often_as_they_say() -> None:
    """M/G/1 at 60 % load, 60 sessions of 18000 requests, against one of two million. Figures: queue-and-chance.md."""
    _, long = _queue(10_000, 2_000_000)
    truth = np.quantile(long, (0.5, 0.99))
    held = np.zeros(2)
    for seed in range(60):
        arrival, response = _queue(seed, 18_000)
        found = intervals(response, (0.5, 0.99), blocks_of(arrival, response), seed)
        for number, interval in enumerate(found):
            assert interval.low_ns is not None and interval.high_ns is not None
            held[number] += interval.low_ns <= truth[number] <= interval.high_ns
    # 95 % nominal: below 50 of 60 has a chance of 1e-4.
    assert (held >= 50).all(), held


def test_an_interval_of_independent_requests_is_that_of_the_binomial() -> None:
    rng = np.random.default_rng(4)
    response = rng.integers(1, 10**6, 20_000)
    arrival = np.arange(20_000) * 1_000_000
    drawn = resampled(response, (0.5, 0.99), blocks_of(arrival, response), 0)
    # Order statistics: a standard error of sqrt(p (1 - p) / n) of the range.
    expected = 1e6 * np.sqrt(np.array([0.25, 0.0099]) / 20_000)
    assert np.allclose(drawn.std(axis=0), expected, rtol=0.35)
    assert np.allclose(drawn.mean(axis=0), np.quantile(response, (0.5, 0.99)), rtol=0.01)


def test_resamples_of_equal_blocks_are_the_session() -> None:
    response = np.tile(np.arange(1, 101), 100)
    arrival = np.arange(10_000) * 10_000_000
    blocks = blocks_of(arrival, response)
    drawn = resampled(response, (0.5, 0.9, 0.99), blocks, 0)
    assert np.abs(drawn - np.quantile(response, (0.5, 0.9, 0.99))).max() <= 3


def test_too_short_and_too_few_are_said_and_not_guessed() -> None:
    arrival, response = _queue(1, 3000)
    (short,) = intervals(response, (0.99,), blocks_of(arrival, response))
    assert (short.low_ns, short.high_ns) == (None, None)
    assert "shorter than" in short.reason
    arrival, response = _queue(1, 20_000)
    response = response.copy()
    response[5000:5300] += 10**9
    body, tail = intervals(response, (0.5, 0.99), blocks_of(arrival, response))
    assert body.low_ns is not None
    assert (tail.low_ns, tail.high_ns) == (None, None)
    assert "separate groups of requests above p99" in tail.reason
    assert clusters(response, float(np.quantile(response, 0.99)), correlation_lag(response)) < MIN_CLUSTERS
    assert blocks_of(arrival[:1], response[:1]).reason == "too few requests"


def test_the_correlation_of_a_queue_grows_with_its_load() -> None:
    lags = [correlation_lag(_queue(2, 50_000, load)[1]) for load in (0.2, 0.6, 0.9)]
    assert lags[0] < lags[1] < lags[2]
