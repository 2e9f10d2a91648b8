"""Run directories: created, finished, cut, damaged."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import (
    PID,
    START_NS,
    WORKER_TID,
    ledger_of,
    manifest,
    recording,
    request_table,
    switch_events,
    task_event,
    words_of,
    write_row_stream,
)

from jitterprof.errors import RunFileError, SpecError
from jitterprof.model.cause import Cause
from jitterprof.model.event import EVENT_DTYPE, GAP_DTYPE, EventKind
from jitterprof.model.request import GC_DTYPE, Kind, Phase
from jitterprof.model.run import RunSpec
from jitterprof.model.stream import CLOCK_ROW, PROCFS_ROW, ROW_WORDS, STATE_DTYPE, WINDOW_DTYPE
from jitterprof.store import create_run, finish_run, open_run, write_ledger
from jitterprof.store.histogram_log import read_histogram_log
from jitterprof.store.streams import LOSS_STREAM, STATE_STREAM, WINDOW_STREAM, RecordStream, StateStream
from jitterprof.store.tables import read_array, write_array


def test_finished_run_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "a.jprof"
    requests, events = request_table([1000, 2000, 3000]), switch_events(2500)
    described = recording(path, requests, events)
    finished = finish_run(path, described)
    run = open_run(path)
    assert np.array_equal(run.requests, requests)
    assert np.array_equal(run.events, events)
    assert run.manifest == finished.manifest
    assert run.manifest.state == "complete"
    assert not run.manifest.health.cut
    assert not list(path.glob("*.stream"))
    assert sorted(file.name for file in path.iterdir()) == [
        "events.parquet",
        "latency.hlog",
        "manifest.json",
        "requests.parquet",
        "threads.parquet",
    ]


def test_events_are_sorted_by_time(tmp_path: Path) -> None:
    events = switch_events(100)
    recording(tmp_path / "a", request_table([1000]), events[::-1].copy())
    assert np.array_equal(finish_run(tmp_path / "a", manifest()).events, events)


def test_create_refuses_what_is_there(tmp_path: Path) -> None:
    create_run(tmp_path / "a.jprof", manifest())
    with pytest.raises(SpecError, match="already holds a run") as caught:
        create_run(tmp_path / "a.jprof", manifest())
    assert "--out" in caught.value.hint
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes").touch()
    with pytest.raises(SpecError, match="not empty"):
        create_run(tmp_path / "b", manifest())
    with pytest.raises(SpecError, match="not a directory"):
        create_run(tmp_path / "b" / "notes", manifest())


def test_a_cut_recording_opens_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jprof"
    requests = request_table([1000, 2000])
    requests["shape"] = [0, 2]
    events = np.concatenate([task_event(WORKER_TID, PID, "python3"), switch_events(10)])
    recording(path, requests, events, manifest(pids=(), worker_tids=(), shapes=("1x8",)))
    before = {file: file.read_bytes() for file in path.iterdir()}
    run = open_run(path)
    assert run.manifest.health.cut
    assert any("cut" in line for line in run.manifest.health.caveats)
    assert run.manifest.window_ns == (START_NS, int(requests["end_ns"][-1]))
    assert run.manifest.worker_tids == (WORKER_TID,)
    assert run.manifest.pids == (PID,)
    assert run.manifest.shapes == ("1x8", "shape 1", "shape 2")
    assert np.array_equal(run.requests, requests)
    assert before == {file: file.read_bytes() for file in path.iterdir()}


def test_a_torn_event_stream_is_mentioned(tmp_path: Path) -> None:
    recording(tmp_path / "a", request_table([1000]), switch_events(5))
    with (tmp_path / "a" / "events.stream").open("ab") as file:
        file.write(b"JPEV")
    run = finish_run(tmp_path / "a", manifest())
    assert any("4 bytes" in line for line in run.manifest.health.caveats)


def test_crash_while_finishing_leaves_a_run_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    requests = request_table([1000, 2000])
    recording(path, requests, switch_events(5))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jitterprof.store.tables.write_columns", full)
    with pytest.raises(RunFileError, match="No space left"):
        finish_run(path, manifest())
    monkeypatch.undo()
    assert np.array_equal(open_run(path).requests, requests)
    assert len(finish_run(path, manifest()).events) == 5


def test_closed_loops_of_two_workers_are_numbered_by_intended_start(tmp_path: Path) -> None:
    create_run(tmp_path / "a", manifest())
    first, second = request_table([1000] * 3, gap_ns=9000), request_table([5000] * 3, gap_ns=5000)
    second["intended_ns"] += 500
    for number, part in enumerate((first, second)):
        part["seq"] = np.arange(3) * 2 + number
        part["seq"][0] += 100  # not the order of the intended starts
        write_row_stream(tmp_path / "a" / f"requests.{number}.stream", number, 10 + number, words_of(part))
    run = finish_run(tmp_path / "a", manifest())
    assert run.requests["seq"].tolist() == [0, 1, 2, 3, 4, 5]
    assert (np.diff(run.requests["intended_ns"]) > 0).all()
    assert run.requests["tid"].tolist() == [10, 11, 10, 11, 10, 11]


def test_schedule_positions_are_kept_where_they_are_in_order(tmp_path: Path) -> None:
    create_run(tmp_path / "a", manifest())
    part = request_table([1000] * 3)
    part["seq"] = [0, 2, 5]
    write_row_stream(tmp_path / "a" / "requests.0.stream", 0, 10, words_of(part))
    assert finish_run(tmp_path / "a", manifest()).requests["seq"].tolist() == [0, 2, 5]


def test_other_streams_follow_the_requests(tmp_path: Path) -> None:
    path = tmp_path / "a"
    create_run(path, manifest())
    part = request_table([10_000] * 4)
    part["phase"] = [Phase.WARMUP, Phase.MEASURED, Phase.MEASURED, Phase.MEASURED]
    part["seq"] = [0, 70, 60, 80]  # out of order: renumbered 0, 1, 2
    write_row_stream(path / "requests.0.stream", 0, WORKER_TID, words_of(part))
    tokens = np.zeros((3, ROW_WORDS), np.int64)
    # intended, start, end, cpus, state, shape, seq (index in the request), parent
    tokens[:, 0] = tokens[:, 1] = part["start_ns"][2] + np.array([0, 10, 20])
    tokens[:, 2] = tokens[:, 0] + 10
    tokens[:, 4] = Phase.MEASURED << 8
    tokens[:, 6] = [0, 1, 2]
    tokens[:, 7] = [60, 60, 999]
    write_row_stream(path / "tokens.0.stream", 0, WORKER_TID, tokens, Kind.TOKEN)
    clocks = np.zeros(3, CLOCK_ROW)
    clocks["begin"][:, 4] = [1, 2, 3]
    (path / "clocks.0.stream").write_bytes(clocks.tobytes() + b"torn")
    procfs = np.zeros(2, PROCFS_ROW)
    procfs["seq"], procfs["phase"], procfs["cpu_ns"] = [80, 1234], Phase.MEASURED, [7, 8]
    (path / "procfs.stream").write_bytes(procfs.tobytes())
    (path / "gc.stream").write_bytes(np.zeros(2, GC_DTYPE).tobytes())

    finished = finish_run(path, manifest())
    for run in (finished, open_run(path)):
        token = run.requests[run.requests["kind"] == Kind.TOKEN]
        assert token["parent"].tolist() == [1, 1]  # the token of an unfinished request is left out
        assert token["seq"].tolist() == [0, 1]
        assert run.clocks["seq"].tolist() == [0, 0, 1]
        assert run.clocks["phase"].tolist() == [Phase.WARMUP, Phase.MEASURED, Phase.MEASURED]
        assert run.clocks["begin"][:, 4].tolist() == [1, 2, 3]
        assert run.procfs["seq"].tolist() == [2]
        assert run.procfs["cpu_ns"].tolist() == [7]
        assert len(run.gc) == 2


def test_threads_are_named(tmp_path: Path) -> None:
    cgroup = np.zeros(1, EVENT_DTYPE)
    cgroup["ts"], cgroup["kind"], cgroup["tid"], cgroup["a"] = START_NS, EventKind.TASK_CGROUP, 9, 55
    events = np.concatenate(
        [
            task_event(9, 8, "old name", ts=START_NS),
            task_event(9, 8, "stress-ng-cpu-12", ts=START_NS + 5),
            task_event(2, 2, "ksoftirqd/0", kernel=True),
            task_event(WORKER_TID, PID, "python3"),
            cgroup,
        ]
    )
    recording(tmp_path / "a", request_table([1000]), events, manifest(cgroups={"55": "/noisy"}))
    finish_run(tmp_path / "a", manifest(cgroups={"55": "/noisy"}))
    rows = pq.read_table(tmp_path / "a" / "threads.parquet").to_pylist()
    assert rows == [
        {"tid": 2, "tgid": 2, "comm": "ksoftirqd/0", "kernel": True, "cgroup": "", "victim": False},
        {"tid": 9, "tgid": 8, "comm": "stress-ng-cpu-12", "kernel": False, "cgroup": "/noisy", "victim": False},
        {"tid": WORKER_TID, "tgid": PID, "comm": "python3", "kernel": False, "cgroup": "", "victim": True},
    ]


def test_latency_log_has_every_series(tmp_path: Path) -> None:
    requests = request_table(np.full(3000, 1_000_000), wait_ns=200_000)
    requests["phase"][:1000] = Phase.FLOOR
    recording(tmp_path / "a", requests, switch_events(1))
    finish_run(tmp_path / "a", manifest())
    totals = read_histogram_log(tmp_path / "a" / "latency.hlog")
    assert {tag: total.get_total_count() for tag, total in totals.items()} == {
        "response": 2000,
        "service": 2000,
        "dispatch_lag": 2000,
        "floor": 1000,
    }
    assert totals["response"].get_value_at_percentile(50) == pytest.approx(1_000_000, rel=1e-3)
    assert totals["service"].get_value_at_percentile(50) == pytest.approx(800_000, rel=1e-3)
    assert totals["dispatch_lag"].get_value_at_percentile(50) == pytest.approx(200_000, rel=1e-3)
    stamps = [
        float(line.split(",")[1])
        for line in (tmp_path / "a" / "latency.hlog").read_text().splitlines()
        if line.startswith("Tag=response")
    ]
    assert stamps == sorted(stamps)
    assert stamps[0] == 2.0  # after a thousand floor requests, 2 ms apart


def test_ledger_table_is_readable_by_anyone(tmp_path: Path) -> None:
    requests = request_table([1000, 2000])
    ledger = ledger_of(
        requests, {1: [(Cause.PREEMPTED, "hog/7", 600), (Cause.TIMER, "jitterprof", 100)]}, ["jitterprof"]
    )
    write_ledger(tmp_path, ledger, requests)
    rows = pq.read_table(tmp_path / "ledger.parquet").to_pylist()
    assert [(row["seq"], row["cause"], row["culprit"], row["ns"], row["observer"]) for row in rows] == [
        (0, "run", "", 1000, False),
        (1, "run", "", 1300, False),
        (1, "preempted", "hog/7", 600, False),
        (1, "timer", "jitterprof", 100, True),
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "manifest.json").unlink(), "not a jitterprof run"),
        (lambda path: (path / "manifest.json").write_text("{ torn"), "damaged"),
        (lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe\x00"), "damaged"),
        (lambda path: (path / "manifest.json").write_text('{"name": "package"}'), "not written by jitterprof"),
        (lambda path: (path / "manifest.json").write_text("[1]"), "not written by jitterprof"),
        (lambda path: _edit(path, schema=2), "schema 2"),
        (lambda path: _edit(path, spec=7), "damaged"),
        (lambda path: _edit(path, window_ns=[1]), "damaged"),
        (lambda path: (path / "requests.parquet").unlink(), "no requests.parquet"),
        (lambda path: (path / "requests.parquet").write_bytes(b"PAR1 no"), "requests.parquet is damaged"),
        (lambda path: _truncate(path / "events.parquet"), "events.parquet is damaged"),
        (lambda path: (path / "requests.parquet").write_bytes((path / "threads.parquet").read_bytes()), "no column"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(tmp_path: Path, damage: object, message: str) -> None:
    path = tmp_path / "a"
    recording(path, request_table([1000] * 100), switch_events(100))
    finish_run(path, manifest())
    damage(path)  # type: ignore[operator]
    with pytest.raises(RunFileError, match=message) as caught:
        open_run(path)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_missing_path_and_a_file_are_not_runs(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="there is no run"):
        open_run(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(RunFileError, match="not a jitterprof run"):
        open_run(tmp_path / "file")


def test_unknown_keys_of_a_newer_minor_version_are_ignored(tmp_path: Path) -> None:
    recording(tmp_path / "a", request_table([1000]), switch_events(1))
    finish_run(tmp_path / "a", manifest())
    _edit(tmp_path / "a", flavour="new", health={"loss": {"ring_full": 3, "new": 1}, "more": []})
    run = open_run(tmp_path / "a")
    assert run.manifest.health.loss.ring_full == 3


def test_manifest_keeps_everything(tmp_path: Path) -> None:
    from jitterprof.model.run import ProbeStatus, RunSpec
    from jitterprof.store import read_manifest

    full = replace(
        manifest(),
        spec=RunSpec("m", cpus=(1, 2), slo_ns=5, requests=9, dims=(("batch", 4),), settings=(("a", "b"),)),
        probes=(ProbeStatus("sched", "partial", "why"),),
        maps=((1, 2, "libc"),),
        cpu_seq={"0": 4},
        oracles={"steal": [1, 2]},
        irq_names={"24": "nvme0q1"},
    )
    create_run(tmp_path / "a", full)
    assert read_manifest(tmp_path / "a") == full


def _edit(path: Path, **changes: object) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def test_what_the_flight_recorder_kept_reads_back_under_the_numbers_of_the_request_table(tmp_path: Path) -> None:
    # Two workers of a closed loop: a request's number is its rank, not the position that the streams have.
    first, second = request_table([1000] * 5), request_table([1000] * 5, tid=WORKER_TID + 1)
    second["intended_ns"] += 500
    second["start_ns"] += 500
    second["end_ns"] += 500
    second["worker"], second["seq"] = 1, np.arange(5) + 5
    events = switch_events(20)
    described = manifest(spec=RunSpec("mlp", keep="tail"))
    path = tmp_path / "a.jprof"
    recording(path, np.concatenate([first, second]), events[::-1].copy(), described)
    windows, states = np.zeros(3, WINDOW_DTYPE), np.zeros(3, STATE_DTYPE)
    windows["seq"], windows["phase"] = [-1, 0, 5], [0, Phase.MEASURED, Phase.MEASURED]
    states["seq"], states["phase"], states["wakeup"] = [5, 6, 99], Phase.MEASURED, [50, 60, 990]
    losses = np.array([(0, 5, 9, 2)], GAP_DTYPE)
    for name, rows in ((WINDOW_STREAM, windows), (LOSS_STREAM, losses)):
        with RecordStream(path / name) as stream:
            stream.write(rows)
    with StateStream(path / STATE_STREAM) as stream:
        stream.write(states)
    cut = open_run(path)
    finish_run(path, described)
    for run in (cut, open_run(path)):
        assert run.windows["seq"].tolist() == [-1, 0, 1]
        # Of a request that did not end there is no row.
        assert run.states[["seq", "wakeup"]].tolist() == [(1, 50), (3, 60)]
        assert run.losses.tolist() == losses.tolist()
        assert np.array_equal(run.events, events)
        assert not len(run.clocks)
        assert run.manifest.spec.keep == "tail"
    assert not list(path.glob("*.stream"))


def test_growing_columns_take_few_bytes(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    events = switch_events(100_000)
    events["ts"] += random.integers(0, 1000, len(events)).astype(np.uint64)
    events["cpu"] = random.integers(0, 8, len(events))
    write_array(tmp_path / "events.parquet", events)
    assert (tmp_path / "events.parquet").stat().st_size < 4 * len(events)
    assert np.array_equal(read_array(tmp_path / "events.parquet", EVENT_DTYPE), events)
