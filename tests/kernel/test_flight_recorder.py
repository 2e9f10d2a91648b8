"""`--keep tail` on real probes: the same explanations from a part of the records."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from command import Command, Ended, finish, jitterprof, wait_for_phase, wait_until

from jitterprof.analysis.evidence import evidence_of
from jitterprof.analysis.flight import detailed_rows, run_evidence, sampled_rows
from jitterprof.analysis.ledger import build_ledger, previous_end
from jitterprof.experiment.flight import Batch, Flight
from jitterprof.experiment.row_follower import FINISHED_DTYPE
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import Ledger
from jitterprof.model.request import Phase
from jitterprof.model.stream import STATE_DTYPE
from jitterprof.store import Run, open_run

CPU = str(max(os.sched_getaffinity(0)))
RATE, SECONDS = 400, 10
LOAD = ("run", "mlp", "--arrival", f"poisson:{RATE}", "--warmup", "500ms", "--cpus", CPU, "--threads", "2")
Rows = npt.NDArray[np.void]


@dataclass(frozen=True)
class Recorded:
    run: Run
    ended: Ended


def _record(folder: Path, keep: str) -> Recorded:
    arguments = (*LOAD, "--duration", f"{SECONDS}s", "--keep", keep, "--out", "a.jprof", "--json")
    ended = jitterprof(*arguments, folder=folder)
    assert ended.code in (0, 4), ended.said
    return Recorded(open_run(folder / "a.jprof"), ended)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return _record(tmp_path_factory.mktemp("all"), "all")


@pytest.fixture(scope="module")
def tail(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return _record(tmp_path_factory.mktemp("tail"), "tail")


def _finished(run: Run) -> Rows:
    rows = np.zeros(len(run.requests), FINISHED_DTYPE)
    for name in ("intended_ns", "start_ns", "end_ns", "seq", "tid", "worker", "phase"):
        rows[name] = run.requests[name]
    rows["ready_ns"] = np.clip(previous_end(run.requests), rows["intended_ns"], rows["start_ns"])
    return rows[np.argsort(rows["end_ns"], kind="stable")]


def _seconds(run: Run) -> Iterator[tuple[Rows, Rows, int]]:
    """Events and requests of each second, as the recorder would have come to know of them."""
    events, rows = run.events, _finished(run)
    for now in range(int(events["ts"][0]) + 10**9, int(events["ts"][-1]) + 2 * 10**9, 10**9):
        ours = events[(events["ts"] < now) & (events["ts"] >= now - 10**9)]
        yield ours, rows[(rows["end_ns"] < now) & (rows["end_ns"] >= now - 10**9)], now


def _kept(run: Run) -> Run:
    """What the flight recorder would have made of a session that was kept as a whole."""
    flight, batches = Flight(1, None, 0), list[Batch]()
    for events, rows, now in _seconds(run):
        batches.append(flight.take(events, rows, now))
    batches.append(flight.finish(_finished(run)[:0], {int(cpu): seq for cpu, seq in run.manifest.cpu_seq.items()}))
    events, losses, windows = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("events", "losses", "windows")
    )
    spec = replace(run.manifest.spec, keep="tail")
    events = events[np.lexsort((events["seq"], events["ts"]))]
    return replace(run, events=events, losses=losses, windows=windows, manifest=replace(run.manifest, spec=spec))


def _pieces(ledger: Ledger, rows: npt.NDArray[np.bool_]) -> list[tuple[int, int, int, int, str]]:
    return [
        (row, start, ns, cause, ledger.culprits[culprit])
        for row, start, ns, cause, culprit in ledger.pieces[rows[ledger.pieces["row"]]][
            ["row", "start_ns", "ns", "cause", "culprit"]
        ].tolist()
    ]


def test_requests_with_full_detail_have_the_ledger_of_all_records(everything: Recorded) -> None:
    full = everything.run
    few = _kept(full)
    detailed = detailed_rows(few)
    measured = full.requests["phase"] == Phase.MEASURED
    response = full.requests["end_ns"] - full.requests["intended_ns"]
    tail = measured & (response > np.quantile(response[measured], 0.99))
    assert detailed[tail].mean() >= 0.9
    sampled = sampled_rows(few)
    assert sampled is not None
    assert sampled.sum() >= 200
    # In ten seconds the beginning and the first draws of the sample are much of the session; on a busy host more.
    assert len(few.events) < 0.9 * len(full.events)
    assert not len(few.losses)
    assert full.manifest.health.loss.total == 0
    wanted = _pieces(build_ledger(full.requests, evidence_of(full.manifest, full.events, full.gc)), detailed)
    assert len(wanted) > 1000
    assert _pieces(build_ledger(few.requests, run_evidence(few)), detailed) == wanted


def test_a_session_that_keeps_the_tail(everything: Recorded, tail: Recorded) -> None:
    run = tail.run
    assert run.manifest.health.loss.total == 0
    assert not len(run.losses)
    assert run.manifest.oracles["records"] > run.manifest.oracles["kept_records"] == len(run.events)
    assert len(run.events) < 0.8 * len(everything.run.events)
    measured = run.requests["phase"] == Phase.MEASURED
    # Every request has its state clocks.
    clocked = run.states[run.states["phase"] == Phase.MEASURED]
    assert sorted(clocked["seq"].tolist()) == sorted(run.requests["seq"][measured].tolist())
    document = tail.ended.document
    assert len(document["spikes"]) == 5
    for spike in document["spikes"]:
        assert sum(part["ns"] for part in spike["ledger"]) == spike["response_ns"]
    said = [line for line in document["health"]["caveats"] if line.startswith("--keep tail: ")]
    assert len(said) == 1
    assert document["health"]["unknown_share"] < 0.5


def test_state_clocks_agree_with_the_events_where_there_are_both(tail: Recorded) -> None:
    """Per request, the time that its thread did not run its own code."""
    run = tail.run
    both = detailed_rows(run) & (run.requests["phase"] == Phase.MEASURED)
    pieces = build_ledger(run.requests, run_evidence(run)).pieces
    pieces = pieces[pieces["start_ns"] >= run.requests["start_ns"][pieces["row"]]]
    by_events, lost = np.zeros(len(both), np.int64), np.zeros(len(both), np.int64)
    for cause in Cause:
        where = lost if cause == Cause.UNKNOWN else by_events
        if cause != Cause.RUN:
            np.add.at(where, pieces["row"][pieces["cause"] == cause], pieces["ns"][pieces["cause"] == cause])
    states = run.states[run.states["phase"] == Phase.MEASURED]
    by_clocks = np.zeros(len(both), np.int64)
    row_of = np.full(int(run.requests["seq"].max()) + 1, -1)
    row_of[run.requests["seq"][both]] = np.flatnonzero(both)
    rows = row_of[states["seq"]]
    classes = (STATE_DTYPE.names or ())[3:]
    by_clocks[rows[rows >= 0]] = sum(states[name][rows >= 0] for name in classes)
    seen = both & (lost == 0)
    # On a quiet host a few ticks.
    assert by_events[seen].sum() > 50_000
    # A clock is read just before and just after: now and then something happens in between.
    assert np.quantile(np.abs(by_events - by_clocks)[seen], 0.95) <= 20_000


def test_a_killed_recorder_leaves_whole_windows(tmp_path: Path) -> None:
    command = Command((*LOAD, "--duration", "2m", "--keep", "tail", "--out", "a.jprof"), tmp_path)
    process = command.start()
    wait_for_phase(command, process, "measuring")
    windows = tmp_path / "a.jprof" / "windows.stream"
    wait_until(lambda: windows.stat().st_size > 2000, 60, lambda: "no windows are written")
    os.kill(command.child("recorder_process"), signal.SIGKILL)
    ended = finish(command, process)
    assert ended.code == 4
    assert "Traceback" not in ended.said
    run = open_run(tmp_path / "a.jprof")
    assert run.manifest.health.cut
    detailed = detailed_rows(run)
    assert detailed.sum() > 50
    explained = jitterprof("explain", "a.jprof", "--json", folder=tmp_path)
    assert explained.code == 0, explained.said
    for spike in explained.document["spikes"]:
        assert sum(part["ns"] for part in spike["ledger"]) == spike["response_ns"]
