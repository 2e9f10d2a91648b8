"""One ledger from events where they were kept, and from state clocks where not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from jitterprof.analysis.evidence import FOREVER, Evidence
from jitterprof.analysis.explanation import explain
from jitterprof.analysis.flight import (
    detail_line,
    detailed_rows,
    merge_ledgers,
    mixed_ledger,
    run_evidence,
    sampled_rows,
)
from jitterprof.analysis.session_ledger import session_ledger
from jitterprof.analysis.spikes import MIN_BODY, select
from jitterprof.analysis.tokens import token_view
from jitterprof.analysis.unreported import unreported_switches
from jitterprof.model.cause import CAUSE_IDS, Cause
from jitterprof.model.event import GAP_DTYPE
from jitterprof.model.ledger import Ledger
from jitterprof.model.request import Kind, Phase
from jitterprof.model.run import Health, RunSpec
from jitterprof.model.stream import STATE_DTYPE, WINDOW_DTYPE, Why
from jitterprof.store import Run
from tests.fakes import MS, START_NS, WORKER_TID, ledger_of, manifest, request_table, run_of, switch_events

REQUESTS = request_table([1 * MS, 5 * MS, 1 * MS, 1 * MS, 4 * MS, 1 * MS])


def window(requests: npt.NDArray[np.void], row: int, why: Why, before: int = 0) -> tuple[int, ...]:
    at = requests[row]
    return (int(at["intended_ns"]) - before, int(at["end_ns"]), int(at["seq"]), WORKER_TID, int(at["phase"]), int(why))


def tail_run(requests: npt.NDArray[np.void], *windows: tuple[int, ...], **changes: object) -> Run:
    """A session with state clocks of all requests: 0.3 ms of each were spent waiting for a CPU."""
    states = np.zeros(len(requests), STATE_DTYPE)
    for name in ("seq", "tid", "phase"):
        states[name] = requests[name]
    states["wakeup"] = 300_000
    described = manifest(spec=RunSpec("mlp", keep="tail"), **changes)
    return replace(run_of(requests, described), windows=np.array(list(windows), WINDOW_DTYPE), states=states)


def causes(ledger: Ledger, row: int) -> dict[tuple[str, str], int]:
    mine = ledger.pieces[ledger.pieces["row"] == row]
    return {(CAUSE_IDS[piece["cause"]], ledger.culprits[piece["culprit"]]): int(piece["ns"]) for piece in mine}


def test_a_request_has_detail_when_one_window_or_several_cover_it() -> None:
    requests = REQUESTS
    half = (int(requests["intended_ns"][4]) - 10, int(requests["intended_ns"][4]) + 2 * MS, -1, 0, 0, int(Why.LONG))
    rest = (half[1] + 1, int(requests["end_ns"][4]) + 5, -1, 0, 0, int(Why.LONG))
    run = tail_run(requests, window(requests, 1, Why.TAIL), half, rest)
    assert np.flatnonzero(detailed_rows(run)).tolist() == [1, 4]
    assert not detailed_rows(tail_run(requests, half)).any()
    assert not detailed_rows(tail_run(requests)).any()
    assert detailed_rows(run_of(requests)).all()


def test_queueing_needs_no_events() -> None:
    requests = request_table([5 * MS, 5 * MS])
    requests["intended_ns"][1] = requests["end_ns"][0] - 4 * MS
    requests["start_ns"][1] = requests["end_ns"][0] + 10
    ready = int(requests["end_ns"][0])
    run = tail_run(requests, (ready, int(requests["end_ns"][1]), 1, WORKER_TID, Phase.MEASURED, int(Why.TAIL)))
    assert detailed_rows(run).tolist() == [False, True]


def test_the_sample_is_what_was_drawn_and_the_beginning() -> None:
    requests = REQUESTS
    start = (0, int(requests["end_ns"][0]) + 10, -1, 0, 0, int(Why.START))
    tail, drawn = window(requests, 1, Why.TAIL), window(requests, 3, Why.SAMPLE | Why.TAIL)
    assert sampled_rows(run_of(requests)) is None
    sampled = sampled_rows(tail_run(requests, start, tail, drawn))
    assert sampled is not None
    assert np.flatnonzero(sampled).tolist() == [0, 3]
    # Drawn, but some of it was let go before that was known.
    late = (drawn[0] + MS // 2, *drawn[1:])
    sampled = sampled_rows(tail_run(requests, start, tail, late))
    assert sampled is not None
    assert np.flatnonzero(sampled).tolist() == [0]


def test_each_request_has_the_ledger_of_the_better_evidence() -> None:
    requests = REQUESTS
    run = tail_run(requests, window(requests, 1, Why.TAIL))
    seen: list[list[int]] = []

    def from_events(given: Run, _: Evidence) -> Ledger:
        seen.append(np.flatnonzero(given.requests["phase"] == Phase.MEASURED).tolist())
        return ledger_of(requests, {row: [(Cause.PREEMPTED, "hog/9", MS // 4)] for row in range(6)}, ["hog/9"])

    ledger = mixed_ledger(run, from_events)
    assert seen == [[1]]
    assert causes(ledger, 1) == {("run", ""): 4_750_000, ("preempted", "hog/9"): 250_000}
    assert causes(ledger, 2) == {("run", ""): 700_000, ("wakeup", "unknown task"): 300_000}
    assert [name for name, ours in zip(ledger.culprits, ledger.observer, strict=True) if ours] == ["hog/9"]
    total = np.bincount(ledger.pieces["row"], ledger.pieces["ns"])
    assert total.tolist() == (requests["end_ns"] - requests["intended_ns"]).tolist()


def test_merged_ledgers_keep_the_names_of_both() -> None:
    requests = REQUESTS[:2]
    one = ledger_of(requests, {0: [(Cause.LOCK, "a/1", 5), (Cause.LOCK, "b/2", 6)]}, ["b/2"])
    other = ledger_of(requests, {1: [(Cause.NET, "b/2", 7), (Cause.NET, "c/3", 8)]}, ["c/3"])
    merged = merge_ledgers(one, other, np.array([True, False]))
    assert causes(merged, 0) == causes(one, 0)
    assert causes(merged, 1) == causes(other, 1)
    observer = dict(zip(merged.culprits, merged.observer.tolist(), strict=True))
    assert observer == {"": False, "a/1": False, "b/2": True, "c/3": True}


def test_what_was_thrown_away_is_no_gap_and_what_was_lost_is() -> None:
    events = switch_events(100)[[0, 1, 50, 99]]
    lost = np.array([(0, START_NS + 10, START_NS + 20, 3)], GAP_DTYPE)
    run = replace(tail_run(REQUESTS, cpu_seq={"0": 500}), events=events, losses=lost)
    assert run_evidence(run).gaps.tolist() == lost.tolist()
    everything = replace(run, manifest=replace(run.manifest, spec=RunSpec("mlp")))
    assert run_evidence(everything).gaps["end_ns"].max() == FOREVER


def test_a_cut_recording_is_known_to_its_last_window() -> None:
    requests = REQUESTS
    cut = tail_run(requests, window(requests, 1, Why.TAIL), health=Health(cut=True))
    cut = replace(cut, events=switch_events(3))
    assert run_evidence(cut).window == (START_NS, int(requests["end_ns"][1]))


def test_the_body_is_taken_from_the_sample() -> None:
    requests = request_table(np.full(2000, MS) + np.arange(2000))
    sampled = np.zeros(2000, bool)
    sampled[600:1200:50] = True
    population = select(requests, None, sampled)
    assert population.body[0].tolist() == list(range(600, 1200, 50))
    assert population.baseline_ns.tolist() == select(requests).baseline_ns.tolist()
    sampled[:] = False
    sampled[600 : 600 + MIN_BODY - 1] = True
    assert len(select(requests, None, sampled).body[0]) > 500


def test_culprits_of_the_tail_stand_beside_the_causes_of_its_baseline() -> None:
    """A baseline of clocks would have a wait for a CPU behind nobody, and so everybody's wait would be excess."""
    count = 2000
    requests = request_table(np.where(np.arange(count) % 100 == 50, 5 * MS, MS) + np.arange(count))
    slow = np.flatnonzero(np.arange(count) % 100 == 50)
    drawn = np.arange(0, count, 20)
    windows = [window(requests, row, Why.TAIL) for row in slow.tolist()]
    windows += [window(requests, row, Why.SAMPLE) for row in drawn.tolist()]
    run = tail_run(requests, *windows)
    waits = {row: [(Cause.WAKEUP, "hog/9", 3 * MS if row in slow else 300_000)] for row in range(count)}
    ledger = mixed_ledger(run, lambda _run, _evidence: ledger_of(requests, waits))
    table = {(row.cause, row.culprit): row for row in explain(run, ledger).causes}
    assert set(table) == {("wakeup", "hog/9"), ("run", "")}
    hog = table["wakeup", "hog/9"]
    assert hog.excess_ns == pytest.approx(2_700_000, rel=0.01)
    assert hog.null_share is not None


def test_health_says_what_was_kept(tmp_path: Path) -> None:
    requests = request_table(np.full(200, MS) + np.arange(200))
    run = tail_run(requests, window(requests, 199, Why.TAIL), window(requests, 3, Why.SAMPLE))
    (tmp_path / "events.parquet").write_bytes(bytes(1_000_000))
    run = replace(run, path=tmp_path, manifest=replace(run.manifest, window_ns=(0, 36 * 10**9)))
    line = (
        "--keep tail: 1 of 2 spikes and 2 of 200 requests have full detail, 100 MB per hour; of the others the causes"
        " are known, not the culprits"
    )
    assert detail_line(run, np.arange(200), np.array([198, 199])) == line
    answer = explain(run, session_ledger(run))
    assert line in answer.health.caveats
    assert line not in explain(run_of(requests), ledger_of(requests, {})).health.caveats


def test_a_switch_is_missing_only_within_a_window() -> None:
    events = switch_events(10)
    run = replace(tail_run(REQUESTS), events=events)
    assert unreported_switches(run) == 0
    inside = (int(events["ts"][3]), int(events["ts"][5]), -1, 0, 0, int(Why.LONG))
    assert unreported_switches(replace(run, windows=np.array([inside], WINDOW_DTYPE))) == 2


def test_tokens_are_explained_from_events_alone() -> None:
    requests = request_table(np.full(20, MS))
    tokens = request_table(np.full(40, MS // 2), gap_ns=0)
    tokens["intended_ns"] = tokens["start_ns"] = np.repeat(requests["start_ns"], 2) + np.tile([0, MS // 2], 20)
    tokens["end_ns"] = tokens["start_ns"] + MS // 2
    tokens["kind"], tokens["parent"] = Kind.TOKEN, np.repeat(requests["seq"], 2)
    run = tail_run(requests, window(requests, 3, Why.SAMPLE), window(requests, 5, Why.TAIL))
    view = token_view(replace(run, requests=np.concatenate([requests, tokens])))
    assert view.requests["parent"].tolist() == list(range(20))
    assert np.flatnonzero(detailed_rows(view)).tolist() == [3, 5]
    sampled = sampled_rows(view)
    assert sampled is not None
    assert np.flatnonzero(sampled).tolist() == [3]
    # The clocks of request 7 are not those of token 7.
    assert causes(session_ledger(view), 7) == {("unknown", "not observed"): MS // 2}
