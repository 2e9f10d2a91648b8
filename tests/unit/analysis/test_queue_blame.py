"""Who is named when requests queue: nobody for load, and one stall for all its victims."""

import numpy as np
import pytest
from fakes import run_of

from jitterprof.analysis.explanation import Explanation, explain
from jitterprof.analysis.queueing import LONGER_RUN, inherit_queue
from jitterprof.model.cause import Cause
from tests.queues import Loss, queued_session

MS = 1_000_000


def _explained(
    seed: int, load: float, losses: dict[int, list[Loss]], servers: int = 1, slow: int | None = None, top: int = 10
) -> Explanation:
    """Poisson arrivals, lognormal service with a mean of 1 ms, at `load` of the servers."""
    rng, count = np.random.default_rng(seed), 6000
    work = (rng.lognormal(-0.02, 0.2, count) * MS).astype(np.int64)
    if slow is not None:
        work[slow] += 30 * MS
    arrival = np.cumsum(rng.exponential(MS / load / servers, count)).astype(np.int64)
    session = queued_session(arrival.tolist(), work.tolist(), losses, servers)
    return explain(run_of(session.requests), inherit_queue(session.requests, session.ledger), top=top)


def _noise(seed: int, count: int = 6000) -> dict[int, list[Loss]]:
    """Ticks in every fourth request, a softirq in every tenth."""
    rng = np.random.default_rng(seed)
    return {
        row: [(Cause.TIMER, "tick", 6000)] * int(rng.random() < 0.25)
        + [(Cause.SOFTIRQ, "RCU", int(rng.integers(500, 9000)))] * int(rng.random() < 0.1)
        for row in range(count)
    }


def _named(explanation: Explanation) -> set[str]:
    return {row.cause for row in explanation.causes} - {"run", "queue", "unknown"}


@pytest.mark.parametrize("load", [0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("seed", range(3))
def test_a_quiet_queue_near_saturation_names_no_cause(seed: int, load: float) -> None:
    explanation = _explained(seed, load, _noise(seed))
    assert _named(explanation) == set()
    assert explanation.causes[0].cause == "queue"
    assert sum(row.share for row in explanation.causes if row.cause in ("queue", "run")) > 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("servers", [1, 2])
def test_one_stall_is_named_for_all_its_victims(seed: int, servers: int) -> None:
    losses = _noise(seed)
    rows = range(3000, 3000 + servers)
    losses |= {row: [(Cause.STOPPED, "kill/7", 25 * MS)] for row in rows}
    explanation = _explained(seed, 0.5, losses, servers=servers)
    assert _named(explanation) == {"stopped"}
    first = explanation.causes[0]
    assert (first.cause, first.culprit) == ("stopped", "kill/7")
    assert first.share > 0.5
    assert first.requests >= 16
    assert first.null_share is not None
    assert first.null_share < first.share / 2


@pytest.mark.parametrize("load", [0.5, 0.9])
def test_the_table_adds_up_to_the_mean_excess_and_its_causes_to_their_pieces(load: float) -> None:
    losses = _noise(3)
    losses |= {row: [(Cause.STOPPED, "kill/7", 25 * MS)] for row in (1000, 4000)}
    explanation = _explained(3, load, losses)
    blame = explanation.blame
    assert sum(row.excess_ns for row in blame.rows) + blame.minor_ns == blame.excess_ns
    every = _explained(3, load, losses, top=10_000)
    assert len(every.spikes) == every.spike_count
    mean = sum(spike.excess_ns for spike in every.spikes) / len(every.spikes)
    assert abs(blame.excess_ns - mean) <= 1
    # Some victims waited so little that they are in the baseline.
    stopped = sum(part.ns for spike in every.spikes for part in spike.ledger if part.cause == "stopped")
    row = next(row for row in blame.rows if row.cause == "stopped")
    assert 0.98 * stopped <= row.excess_ns * len(every.spikes) <= stopped


def test_a_slow_request_is_not_a_kernel_cause_but_told_apart_from_load() -> None:
    explanation = _explained(1, 0.5, _noise(1), slow=3000)
    assert _named(explanation) == set()
    assert (explanation.causes[0].cause, explanation.causes[0].culprit) == ("queue", LONGER_RUN)


def test_a_neighbour_that_takes_the_capacity_is_named() -> None:
    """Everywhere alike, so no shift brings more of it; but without it there would be no queue to speak of."""
    rng = np.random.default_rng(5)
    hog = {row: [(Cause.PREEMPTED, "hog/9", int(rng.exponential(0.8 * MS)))] for row in range(6000)}
    explanation = _explained(5, 0.55, hog)
    assert _named(explanation) == {"preempted"}
