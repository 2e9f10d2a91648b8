"""Spikes with one reason are one episode; parts say what they rest on and where they come from."""

from dataclasses import replace

import numpy as np
import pytest
from fakes import run_of

from jitterprof.analysis.explanation import Explanation, explain
from jitterprof.analysis.queueing import LONGER_RUN, inherit_queue
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import Basis, Ledger
from tests.queues import Loss, QueuedSession, queued_session

MS = 1_000_000


def _session(losses: dict[int, list[Loss]], count: int = 4000, slow: dict[int, int] | None = None) -> QueuedSession:
    """A request of 1 ms every 2 ms."""
    work = [MS + n % 97 for n in range(count)]
    for row, more in (slow or {}).items():
        work[row] += more
    return queued_session([2 * MS * n for n in range(count)], work, losses)


def _explained(session: QueuedSession, ledger: Ledger | None = None, **options: object) -> Explanation:
    whole = inherit_queue(session.requests, ledger or session.ledger)
    return explain(run_of(session.requests), whole, slo_ns=2 * MS, **options)  # type: ignore[arg-type]


def test_one_stall_and_its_victims_are_one_episode() -> None:
    explanation = _explained(
        _session({1000: [(Cause.SOFTIRQ, "NET_RX", 20 * MS)], 3000: [(Cause.STOPPED, "", 9 * MS)]})
    )
    first, second = explanation.episodes
    assert (first.cause, first.culprit, first.pieces, first.cpu) == ("softirq", "NET_RX", 1, 0)
    assert (first.ns, first.end_ns - first.start_ns) == (20 * MS, 20 * MS)
    assert first.at_ns == 2000 * MS
    # Each request frees 1 ms: 1000 loses 20 ms, 1001 waits for 19 and so on; with 1 ms of work, 1019 is just above 2.
    assert (first.first_seq, first.last_seq, first.requests) == (1000, 1019, 20)
    assert first.excess_ns == pytest.approx(sum(range(1, 21)) * MS, rel=0.001)
    assert (second.cause, second.first_seq) == ("stopped", 3000)
    assert explanation.spike_count == first.requests + second.requests


def test_what_hits_neighbours_is_one_episode_and_what_is_far_away_is_another() -> None:
    losses: dict[int, list[Loss]] = {
        row: [(Cause.PREEMPTED, f"hog/{row % 2}", 3 * MS // 2)] for row in (500, 501, 502, 900, 901)
    }
    found = _explained(_session(losses)).episodes
    # With one more that waits for the last of them.
    assert [(episode.first_seq, episode.requests) for episode in found] == [(500, 4), (900, 3)]
    assert found[0].pieces == 3
    assert found[0].ns == 4.5 * MS


def test_a_request_that_runs_longer_is_an_episode_of_its_victims() -> None:
    (episode,) = _explained(_session({}, slow={700: 10 * MS})).episodes
    assert (episode.cause, episode.culprit) == ("queue", LONGER_RUN)
    assert (episode.first_seq, episode.requests) == (701, 9)
    assert episode.ns == pytest.approx(11 * MS, rel=0.001)


def test_single_spikes_load_and_the_unknown_are_no_episodes() -> None:
    losses: dict[int, list[Loss]] = {
        **{row: [(Cause.SOFTIRQ, "NET_RX", 5 * MS // 2)] for row in (100, 900)},
        2000: [(Cause.UNKNOWN, "lost", 30 * MS)],
    }
    assert {episode.requests for episode in _explained(_session(losses)).episodes} <= {2}
    assert "unknown" not in {episode.cause for episode in _explained(_session(losses)).episodes}
    assert _explained(_session({})).episodes == ()


def test_parts_say_from_whom_they_were_inherited() -> None:
    explanation = _explained(_session({1000: [(Cause.SOFTIRQ, "NET_RX", 20 * MS)]}), request=1002)
    (spike,) = explanation.spikes
    assert sum(part.ns for part in spike.ledger) == spike.response_ns
    part = next(part for part in spike.ledger if part.cause == "softirq")
    assert (part.inherited_ns, part.origin_seq, part.basis) == (part.ns, 1000, "measured")
    own = next(part for part in spike.ledger if part.cause == "run")
    assert (own.inherited_ns, own.origin_seq) == (0, None)
    assert (spike.top_cause, spike.top_culprit, spike.confidence) == ("softirq", "NET_RX", "high")
    assert explanation.utilisation == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("basis", "confidence"), [(Basis.POOL_GUESS, "low"), (Basis.POOL, "medium")])
def test_what_another_thread_lost_is_no_surer_than_that(basis: Basis, confidence: str) -> None:
    session = _session({1000: [(Cause.PREEMPTED, "hog/1", 20 * MS)]})
    pieces = session.ledger.pieces.copy()
    pieces["basis"][pieces["cause"] == Cause.PREEMPTED] = basis
    explanation = _explained(session, replace(session.ledger, pieces=pieces), top=2)
    assert [spike.confidence for spike in explanation.spikes] == [confidence] * 2
    found = {part.basis for spike in explanation.spikes for part in spike.ledger if part.cause == "preempted"}
    assert found == {basis.name.lower()}


def test_calibrated_time_is_inherited_as_calibrated() -> None:
    session = _session({1000: [(Cause.SOFTIRQ, "NET_RX", 20 * MS)]})
    pieces = session.ledger.pieces.copy()
    mine = pieces["cause"] == Cause.SOFTIRQ
    pieces["calibrated_ns"][mine], pieces["basis"][mine] = 5 * MS, Basis.CALIBRATED
    whole = inherit_queue(session.requests, replace(session.ledger, pieces=pieces)).pieces
    came = whole[whole["origin"] >= 0]
    assert np.abs(came["calibrated_ns"] - came["ns"] / 4).max() <= 1
    assert (came["basis"] == Basis.CALIBRATED).all()
