"""One explanation from a run and its ledger: spikes, confidence, health."""

from dataclasses import replace

import numpy as np
import pytest
from fakes import ledger_of, manifest, request_table, run_of

from jitterprof.analysis.explanation import Explanation, explain
from jitterprof.analysis.health import HIDDEN_CAUSES
from jitterprof.errors import SpecError
from jitterprof.model.cause import Cause
from jitterprof.model.request import Status
from jitterprof.model.run import Health, Loss, Manifest, ProbeStatus, Quantiles, RunSpec
from jitterprof.trace.catalog import PROBES

MS = 1_000_000
Piece = tuple[Cause, str, int]


def _explain(
    spike: list[Piece], described: Manifest | None = None, work: int = 2 * MS, count: int = 12_000, **options: int
) -> Explanation:
    """A session in which request 40 has `spike` on top of 2 ms of running time."""
    response = np.full(count, 2 * MS) + np.arange(count) % 50
    response[40] = work + sum(ns for _, _, ns in spike)
    requests = request_table(response)
    return explain(run_of(requests, described), ledger_of(requests, {40: spike}), **options)


def test_the_slowest_request_comes_first_and_adds_up() -> None:
    explanation = _explain([(Cause.PREEMPTED, "hog/7", 7 * MS), (Cause.SOFTIRQ, "NET_RX", MS)], top=3)
    spike = explanation.spikes[0]
    assert spike.seq == 40
    assert (spike.top_cause, spike.top_culprit, spike.confidence) == ("preempted", "hog/7", "high")
    assert sum(part.ns for part in spike.ledger) == spike.response_ns == 10 * MS
    assert spike.excess_ns == spike.response_ns - spike.baseline_ns
    assert [part.cause for part in spike.ledger] == ["preempted", "run", "softirq"]
    assert explanation.spike_count == len(explanation.spikes) == 1  # the others are equal to p99, not above it


def test_top_cause_is_the_sum_over_its_culprits() -> None:
    hogs = [(Cause.PREEMPTED, f"hog{number}/{number}", 2 * MS) for number in range(3)]
    spike = _explain([*hogs, (Cause.PREEMPTED, "big/9", 2 * MS + 1)], work=6 * MS).spikes[0]
    assert (spike.top_cause, spike.top_culprit) == ("preempted", "big/9")


def test_run_is_the_top_cause_of_extra_work() -> None:
    spike = _explain([(Cause.TIMER, "tick", 5000)], work=9 * MS).spikes[0]
    assert (spike.top_cause, spike.top_culprit) == ("run", "")


@pytest.mark.parametrize(
    ("pieces", "confidence"),
    [
        ([(Cause.PREEMPTED, "a/1", 8 * MS), (Cause.UNKNOWN, "lost", MS // 2)], "high"),
        ([(Cause.PREEMPTED, "a/1", 8 * MS), (Cause.UNKNOWN, "lost", 2 * MS)], "medium"),
        ([(Cause.PREEMPTED, "a/1", 8 * MS), (Cause.UNKNOWN, "lost", 6 * MS)], "low"),
        ([(Cause.UNKNOWN, "lost", 6 * MS)], "low"),
        ([(Cause(cause), "", MS) for cause in range(1, 12)], "low"),
    ],
)
def test_confidence(pieces: list[Piece], confidence: str) -> None:
    assert _explain(pieces).spikes[0].confidence == confidence


def test_one_request_can_be_asked_for() -> None:
    explanation = _explain([], request=41)
    assert [spike.seq for spike in explanation.spikes] == [41]
    with pytest.raises(SpecError, match="no measured request 99999") as caught:
        _explain([], request=99_999)
    assert "0 to 11999" in caught.value.hint


def test_slo_of_the_session_is_the_default() -> None:
    described = manifest(spec=RunSpec("m", slo_ns=5 * MS))
    assert _explain([(Cause.STOPPED, "", 9 * MS)], described).spike_count == 1
    assert _explain([(Cause.STOPPED, "", 9 * MS)], described, slo_ns=20 * MS).spike_count == 0


def test_an_empty_session_is_explained_as_empty() -> None:
    requests = request_table([])
    explanation = explain(run_of(requests), ledger_of(requests, {}))
    assert explanation.latency.count == 0
    assert explanation.spikes == ()
    assert "no measured request was completed" in explanation.health.loud


def test_fingerprint_of_the_kernel() -> None:
    described = manifest(environment={"kernel": {"release": "6.1.0", "hz": {"value": "1000", "how": "config"}}})
    session = _explain([], described).session
    assert (session.kernel, session.hz) == ("6.1.0", 1000)


def _caveats(health: Health, **changes: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    report = _explain([], manifest(health=health, **changes)).health
    return report.loud, report.caveats


def test_a_healthy_session_has_no_caveats() -> None:
    assert _caveats(Health()) == ((), ())


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (Health(cut=True), "was cut"),
        (Health(saturated=True, offered_rate=500, achieved_rate=312.4), "500 requests/s were offered and 312.4/s"),
        (Health(loss=Loss(ring_full=12)), "12 kernel events were lost"),
        (Health(floor=Quantiles(100, p99_9_ns=300_000)), "generator alone takes up to 300 us (p99.9), 15%"),
        (Health(dispatch_lag=Quantiles(100, p99_ns=400_000)), "started requests up to 400 us late"),
    ],
)
def test_what_puts_the_result_in_doubt_is_loud(health: Health, words: str) -> None:
    loud, _ = _caveats(health)
    assert len(loud) == 1
    assert words in loud[0]


def test_missing_probes_name_the_causes_they_hide() -> None:
    probes = (ProbeStatus("block", "missing", "no tracepoint block_rq_issue"), ProbeStatus("sched", "on"))
    _, caveats = _caveats(Health(), probes=probes)
    assert caveats == ("probe block is missing (no tracepoint block_rq_issue); not seen, and so unknown: block_io",)


def test_hidden_causes_are_those_of_the_catalogue() -> None:
    assert dict(HIDDEN_CAUSES) == {probe.name: probe.causes for probe in PROBES if probe.causes}


def test_too_few_requests_failures_and_unknown_time_are_said() -> None:
    requests = request_table([2 * MS] * 300)
    requests["status"][:3] = Status.ERROR
    ledger = ledger_of(requests, {row: [(Cause.UNKNOWN, "lost", MS)] for row in range(300)})
    loud = explain(run_of(requests, replace(manifest(), probe_mode="bpf")), ledger).health.loud
    assert any("50%" in line and "unknown" in line for line in loud)
    assert any("3 of 300 requests failed" in line for line in loud)
    assert any("297 requests are too few for a steady p99 and p99.9" in line for line in loud)


def test_the_observer_is_a_culprit_like_any_other() -> None:
    requests = request_table([2 * MS] * 12_000)
    pieces = {row: [(Cause.PREEMPTED, "jitterprof/3", MS // 10)] for row in range(12_000)}
    health = explain(run_of(requests), ledger_of(requests, pieces, ["jitterprof/3"])).health
    assert health.observer_share == pytest.approx(0.05)
    assert "jitterprof itself took 5.0% of the requests' time" in health.loud


def test_top_limits_the_spikes_but_not_their_count() -> None:
    requests = request_table(2 * MS + np.arange(5000))
    explanation = explain(run_of(requests), ledger_of(requests, {}), top=3)
    assert explanation.spike_count == 50
    assert [spike.seq for spike in explanation.spikes] == [4999, 4998, 4997]
