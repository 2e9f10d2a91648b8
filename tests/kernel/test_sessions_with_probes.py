"""The recorder's own faults, on real probes: it, or all of it, is killed; its disk fills up; nothing stays attached."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import QUICK, Command, finish, jitterprof, wait_for_phase, wait_until

LONG = ("--duration", "2m", "--warmup", "200ms", "--cpus", str(max(os.sched_getaffinity(0))), "--out", "a.jprof")


def _explained(folder: Path) -> Any:
    ended = jitterprof("explain", "a.jprof", "--json", folder=folder)
    assert ended.code == 0, ended.said
    return ended.document


def _closes(document: Any) -> None:
    assert document["spikes"]
    for spike in document["spikes"]:
        assert sum(part["ns"] for part in spike["ledger"]) == spike["response_ns"]


def _recording(folder: Path, *more: str) -> tuple[Command, "subprocess.Popen[str]"]:
    """A session that measures, and has events on disk."""
    command = Command(("run", "mlp", *LONG, *more), folder)
    process = command.start()
    wait_for_phase(command, process, "measuring")
    return command, process


def _until_events(stream: Path) -> None:
    before = stream.stat().st_size
    wait_until(lambda: stream.stat().st_size > before, 60, lambda: "the recorder writes nothing")


def _programs() -> list[str]:
    """Processes that hold a BPF program or link."""
    holders = []
    for entry in Path("/proc").glob("[0-9]*/fd"):
        try:
            kinds = {str(link.readlink()) for link in entry.iterdir()}
        except OSError:
            continue
        if "anon_inode:bpf-prog" in kinds or "anon_inode:bpf_link" in kinds:
            holders.append(entry.parent.name)
    return holders


def test_a_killed_recorder_leaves_its_last_batch(tmp_path: Path) -> None:
    command, process = _recording(tmp_path)
    _until_events(tmp_path / "a.jprof" / "events.stream")
    os.kill(command.child("recorder_process"), signal.SIGKILL)
    ended = finish(command, process)
    assert ended.code == 4
    assert "Traceback" not in ended.said
    assert ended.said.splitlines()[-2] == (
        "jitterprof: the recorder died: ended by SIGKILL; what came after its last batch is unknown"
    )
    document = _explained(tmp_path)
    _closes(document)
    assert any("the recorder died" in line for line in document["health"]["caveats"])
    assert document["health"]["unknown_share"] > 0
    import pyarrow.parquet as pq

    events = pq.read_table(tmp_path / "a.jprof" / "events.parquet", columns=["ts"])
    assert events.num_rows > 0
    last = max(events.column("ts").to_pylist())
    manifest = json.loads((tmp_path / "a.jprof" / "manifest.json").read_text())
    assert manifest["health"]["cut"]
    # Nothing but the generator's own times is claimed of what came after the last record.
    pieces = _pieces_after(tmp_path / "a.jprof", last)
    assert pieces
    assert set(pieces) <= {"unknown", "queue", "dispatch", "gc"}


def _pieces_after(run: Path, moment: int) -> dict[str, int]:
    """ns by cause of the requests that started after `moment`."""
    from jitterprof.analysis.session_ledger import session_ledger
    from jitterprof.model.cause import CAUSE_IDS
    from jitterprof.store import open_run

    opened = open_run(run)
    pieces = session_ledger(opened).pieces
    late = pieces[opened.requests["intended_ns"][pieces["row"]] > moment]
    found: dict[str, int] = {}
    for cause, ns in zip(late["cause"].tolist(), late["ns"].tolist(), strict=True):
        if ns:
            found[CAUSE_IDS[cause]] = found.get(CAUSE_IDS[cause], 0) + ns
    return found


def test_a_killed_coordinator_leaves_nothing_attached(tmp_path: Path) -> None:
    command, process = _recording(tmp_path)
    _until_events(tmp_path / "a.jprof" / "events.stream")
    recorder = command.child("recorder_process")
    assert str(recorder) in _programs(), "the check for programs sees none"
    process.kill()
    assert finish(command, process).code == -signal.SIGKILL
    assert str(recorder) not in _programs()
    document = _explained(tmp_path)
    _closes(document)
    assert "the recording was cut; this is what had reached the disk" in document["health"]["caveats"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "jitterprof-test", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_events_that_find_the_disk_full_end_the_session(tmp_path: Path, small_disk: Path) -> None:
    command, process = _recording(tmp_path, "--out", "disk/a.jprof")
    _until_events(small_disk / "a.jprof" / "events.stream")
    with (small_disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    ended = finish(command, process)  # two minutes were asked for: it ends by itself
    assert ended.code == 4
    assert "Traceback" not in ended.said
    assert "jitterprof: events could not be written any more: No space left on device" in ended.said.splitlines()
    (small_disk / "filler").unlink()
    document = _explained(small_disk)
    _closes(document)
    assert document["session"]["duration_ns"] < 120 * 10**9


def test_interrupted_with_probes_the_events_reach_to_the_end(tmp_path: Path) -> None:
    command, process = _recording(tmp_path)
    process.send_signal(signal.SIGINT)
    ended = finish(command, process)
    assert ended.code == 130, ended.said
    document = _explained(tmp_path)
    _closes(document)
    assert document["health"]["lost_events"] == 0
    assert document["health"]["unknown_share"] < 0.05


def test_clocks_alone_blame_no_culprit(tmp_path: Path) -> None:
    ended = jitterprof("run", "mlp", *QUICK, "--probes", "clocks", "--out", "a.jprof", folder=tmp_path)
    assert ended.code == 0, ended.said
    document = _explained(tmp_path)
    _closes(document)
    text = "\n".join(document["health"]["caveats"])
    assert "state clocks alone: how long each cause took, not who caused it" in text
    assert "lock, net and sleep" in text
    assert document["health"]["unknown_share"] < 0.5
    import pyarrow.parquet as pq

    assert pq.read_metadata(tmp_path / "a.jprof" / "clocks.parquet").num_rows > 0
    assert pq.read_metadata(tmp_path / "a.jprof" / "events.parquet").num_rows == 0


def test_clocks_that_stopped_with_their_recorder_say_nothing(tmp_path: Path) -> None:
    """A clock that nobody winds any more would call all that follows `run`."""
    command, process = _recording(tmp_path, "--probes", "clocks")
    os.kill(command.child("workload_process"), signal.SIGSTOP)
    os.kill(command.child("recorder_process"), signal.SIGKILL)
    wait_for_phase(command, process, "measuring")
    os.kill(command.child("workload_process"), signal.SIGCONT)
    ended = finish(command, process)
    assert ended.code == 4
    document = _explained(tmp_path)
    assert any("the recorder died" in line for line in document["health"]["caveats"])
    from jitterprof.store import open_run

    run = open_run(tmp_path / "a.jprof")
    assert len(run.clocks) > 0
    last = run.clocks["end"][-1]
    still = (run.clocks["begin"] == last).all(axis=1) & (run.clocks["end"] == last).all(axis=1)
    assert not still.any()
