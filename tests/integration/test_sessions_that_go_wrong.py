"""Sessions that end too early, or start where little is allowed: what is on disk opens, and says what happened."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import (
    NOBODY,
    QUICK,
    Command,
    Ended,
    as_nobody,
    finish,
    in_private_mounts,
    jitterprof,
    wait_for_phase,
    wait_until,
)

#: Long enough that nobody waits for its end.
LONG = ("--duration", "2m", "--warmup", "200ms", "--probes", "none", "--out", "a.jprof")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount, or to become nobody")


def _explained(folder: Path, *arguments: str) -> Any:
    ended = jitterprof("explain", "a.jprof", "--json", *arguments, folder=folder)
    assert ended.code == 0, ended.said
    return ended.document


def _manifest(folder: Path) -> Any:
    return json.loads((folder / "a.jprof" / "manifest.json").read_text())


def _closes(document: Any) -> None:
    """The ledger of every spike adds up."""
    assert document["spikes"]
    for spike in document["spikes"]:
        assert sum(part["ns"] for part in spike["ledger"]) == spike["response_ns"]


def _caveats(document: Any) -> str:
    return "\n".join(document["health"]["caveats"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_session_is_valid_and_shorter(tmp_path: Path, number: signal.Signals) -> None:
    command = Command(("run", "mlp", *LONG), tmp_path)
    process = command.start()
    wait_for_phase(command, process, "measuring")
    process.send_signal(number)
    ended = finish(command, process)
    assert ended.code == 130, ended.said
    assert "Traceback" not in ended.said
    assert "jitterprof: interrupted: the session is shorter than asked for" in ended.said.splitlines()
    assert "requests in" in ended.out, "no explanation was printed"
    document = _explained(tmp_path)
    _closes(document)
    assert "interrupted: the session is shorter than asked for" in document["health"]["caveats"]
    assert document["session"]["duration_ns"] < 120 * 10**9
    manifest = _manifest(tmp_path)
    assert manifest["state"] == "complete"
    assert not manifest["health"]["cut"]
    assert manifest["health"]["floor"]["count"] > 0
    assert not list((tmp_path / "a.jprof").glob("*.stream"))
    assert not list((tmp_path / "a.jprof").glob("*.log"))


def test_an_interrupted_session_prints_one_json_document(tmp_path: Path) -> None:
    command = Command(("run", "mlp", "--json", *LONG), tmp_path)
    process = command.start()
    _until_measured(tmp_path / "a.jprof")
    process.send_signal(signal.SIGINT)
    ended = finish(command, process)
    assert ended.code == 130
    assert ended.document["latency"]["count"] > 0
    assert ended.said.startswith("jitterprof: interrupted")


def _until_measured(run: Path) -> None:
    from jitterprof.load.request_file import progress
    from jitterprof.model.request import Phase

    wait_until(
        lambda: progress(run / "requests.0.stream").phase == Phase.MEASURED, 60, lambda: str(list(run.iterdir()))
    )


def test_interrupted_before_anything_was_measured(tmp_path: Path) -> None:
    command = Command(("run", "mlp", *LONG), tmp_path)
    process = command.start()
    wait_for_phase(command, process, "loading mlp")
    process.send_signal(signal.SIGINT)
    finish(command, process).refused(130, "interrupted before anything was measured", "nothing was kept")
    assert not (tmp_path / "a.jprof").exists()


def test_a_second_interrupt_aborts(tmp_path: Path) -> None:
    """The workload is stopped, so that it cannot end in order; what it had written is there all the same."""
    command = Command(("run", "mlp", *LONG), tmp_path)
    process = command.start()
    wait_for_phase(command, process, "measuring")
    os.kill(command.child("workload_process"), signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    wait_for_phase(command, process, "stopping")
    process.send_signal(signal.SIGINT)
    finish(command, process).refused(130, "aborted", "jitterprof explain a.jprof")
    document = _explained(tmp_path)
    assert document["latency"]["count"] > 0
    assert "the recording was cut; this is what had reached the disk" in document["health"]["caveats"]


def test_a_killed_workload_leaves_its_last_complete_request(tmp_path: Path) -> None:
    command = Command(("run", "mlp", *LONG), tmp_path)
    process = command.start()
    wait_for_phase(command, process, "measuring")
    os.kill(command.child("workload_process"), signal.SIGKILL)
    ended = finish(command, process)
    assert ended.code == 4
    assert "Traceback" not in ended.said
    assert ended.said.splitlines()[-2:] == [
        "jitterprof: the workload's process died: ended by SIGKILL",
        "  what was recorded until then is in a.jprof",
    ]
    document = _explained(tmp_path)
    _closes(document)
    assert "the workload's process died: ended by SIGKILL" in _caveats(document)
    manifest = _manifest(tmp_path)
    assert manifest["health"]["cut"]
    assert manifest["window_ns"][0] < manifest["window_ns"][1]
    assert len(manifest["worker_tids"]) == 1


def test_a_workload_killed_before_it_served_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import os, signal\ndef build():\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    ended = jitterprof("run", "mine.py:build", "--probes", "none", folder=tmp_path)
    ended.refused(4, "ended by SIGKILL", "dmesg")
    assert not list(tmp_path.glob("*.jprof"))


def test_a_killed_coordinator_takes_its_children_along(tmp_path: Path) -> None:
    command = Command(("run", "mlp", *LONG), tmp_path)
    process = command.start()
    wait_for_phase(command, process, "measuring")
    process.kill()
    ended = finish(command, process)  # fails when a child stays
    assert ended.code == -signal.SIGKILL
    assert _manifest(tmp_path)["state"] == "recording"
    document = _explained(tmp_path)
    _closes(document)
    assert "the recording was cut; this is what had reached the disk" in document["health"]["caveats"]


def test_a_rate_beyond_capacity_is_called_saturated(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import time\n"
        "def build():\n"
        "    def infer(index=0):\n"
        "        until = time.monotonic_ns() + 10_000_000\n"
        "        while time.monotonic_ns() < until:\n"
        "            pass\n"
        "    return infer\n"
    )
    arguments = ("run", "mine.py:build", *QUICK, "--probes", "none", "--arrival", "constant:1000", "--out", "a.jprof")
    ended = jitterprof(*arguments, folder=tmp_path)
    assert ended.code == 4
    wrong, advice = ended.said.splitlines()[-2:]
    assert wrong.startswith("jitterprof: saturated: 1000 requests/s were offered, the workload serves at most ")
    most = float(wrong.split("at most ")[1].split("/s")[0])
    # A request takes 10 ms at least, so no more than 100 a second can be true.
    assert 1 < most <= 100
    assert "lower the rate" in advice
    document = _explained(tmp_path)
    assert document["latency"]["count"] > 0
    assert "saturated" in _caveats(document)
    assert _manifest(tmp_path)["health"]["saturated"]


@pytest.mark.parametrize("damage", ["requests.parquet", "events.parquet"])
def test_a_truncated_table_is_named(tmp_path: Path, session: Path, damage: str) -> None:
    shutil.copytree(session, tmp_path / "a.jprof")
    table = tmp_path / "a.jprof" / damage
    table.write_bytes(table.read_bytes()[:-20])
    jitterprof("explain", "a.jprof", folder=tmp_path).refused(1, damage, "record it again")
    table.unlink()
    if damage == "requests.parquet":
        jitterprof("explain", "a.jprof", folder=tmp_path).refused(1, damage, "record it again")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session that went well."""
    folder = tmp_path_factory.mktemp("session")
    ended = jitterprof("run", "mlp", *QUICK, "--probes", "none", "--out", "a.jprof", folder=folder)
    assert ended.code == 0, ended.said
    return folder / "a.jprof"


def test_a_request_that_is_not_there(tmp_path: Path, session: Path) -> None:
    ended = jitterprof("explain", session, "--request", "99999999", folder=tmp_path)
    ended.refused(2, "99999999", "this session has requests 0 to ")


@pytest.mark.parametrize("form", ["", "--json"])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, session: Path, form: str) -> None:
    command = Command(["explain", str(session), "--top", "1000", *filter(None, [form])], tmp_path)
    process = command.start()
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert command.said == ""


def test_a_result_that_finds_no_space(tmp_path: Path, session: Path) -> None:
    command = Command(["explain", str(session)], tmp_path, ("sh", "-c", 'exec "$@" >/dev/full', "sh"))
    finish(command, command.start()).refused(1, "cannot write the result", "No space left on device")


# Where little is allowed or there.


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that nobody may write; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="jitterprof-test-"))
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


def _fell_back(ended: Ended, folder: Path, *words: str) -> None:
    assert ended.code == 0, ended.said
    document = _explained(folder)
    _closes(document)
    text = _caveats(document)
    for word in ("/proc counters", *words):
        assert word in text
    for cause in ("hardirq", "softirq", "page_fault", "steal", "throttled", "block_io", "lock"):
        assert cause in text.replace("`", " "), f"{cause} cannot be seen, and nobody says so"
    manifest = _manifest(folder)
    assert manifest["probe_mode"] == "procfs"
    assert {probe["state"] for probe in manifest["probes"]} == {"off"}


@needs_root
def test_without_rights_there_is_the_fallback(open_folder: Path) -> None:
    ended = jitterprof("run", "mlp", *QUICK, "--out", "a.jprof", folder=open_folder, wrap=as_nobody())
    _fell_back(ended, open_folder, "no right to load BPF", "run as root")


@needs_root
@pytest.mark.parametrize("mode", ["bpf", "clocks"])
def test_without_rights_probes_are_refused(open_folder: Path, mode: str) -> None:
    ended = jitterprof("run", "mlp", *QUICK, "--probes", mode, "--out", "a.jprof", folder=open_folder, wrap=as_nobody())
    ended.refused(3, "no right to load BPF", "run as root")
    assert not (open_folder / "a.jprof").exists()


@needs_root
def test_without_rights_other_things_are_refused_too(open_folder: Path) -> None:
    (open_folder / "secret.onnx").write_bytes(b"x")
    (open_folder / "secret.onnx").chmod(0)
    for arguments, code, words in (
        (("run", "secret.onnx"), 2, ("secret.onnx", "Permission denied")),
        (("run", "mlp", "--probes", "none", "--set", "policy=FIFO:1"), 3, ("policy=FIFO:1", "CAP_SYS_NICE")),
        (("run", "mlp", "--probes", "none", "--out", "/proc/a.jprof"), 2, ("/proc/a.jprof", "--out")),
    ):
        jitterprof(*arguments, folder=open_folder, wrap=as_nobody()).refused(code, *words)
    assert not list(open_folder.glob("*.jprof"))


_BCC = next(
    (str(path) for pattern in ("usr/lib/python3/dist-packages/bcc", "usr/lib/python3*/site-packages/bcc")
     for path in Path("/").glob(pattern)),
    "",
)  # fmt: skip
_BTF = "/sys/kernel/btf"


@needs_root
@pytest.mark.parametrize(
    ("hidden", "words"),
    [
        pytest.param(_BCC, ("bcc is not installed", "python3-bpfcc"), id="bcc",
                     marks=pytest.mark.skipif(not _BCC, reason="bcc is not installed anyway")),
        pytest.param(_BTF, ("BTF", "CONFIG_DEBUG_INFO_BTF"), id="btf",
                     marks=pytest.mark.skipif(not Path(_BTF).exists(), reason="no BTF here anyway")),
    ],
)  # fmt: skip
def test_without_what_the_probes_need(tmp_path: Path, hidden: str, words: tuple[str, ...]) -> None:
    (tmp_path / "nothing").mkdir()
    without = in_private_mounts(f"mount --bind {tmp_path}/nothing {hidden}")
    _fell_back(jitterprof("run", "mlp", *QUICK, "--out", "a.jprof", folder=tmp_path, wrap=without), tmp_path, *words)
    ended = jitterprof("run", "mlp", *QUICK, "--probes", "bpf", "--out", "b.jprof", folder=tmp_path, wrap=without)
    ended.refused(3, *words)
    assert not (tmp_path / "b.jprof").exists()


# Full disks.


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A tmpfs of `request.param` bytes."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={request.param}", "jitterprof-test", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path) -> Path:
    """Take all the space that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    return filler


@needs_root
@pytest.mark.parametrize("small_disk", [1 << 20], indirect=True)
def test_a_disk_that_is_full_at_the_start(small_disk: Path) -> None:
    folder = small_disk.parent
    arguments = ("run", "mlp", *QUICK, "--probes", "none", "--out", "disk/a.jprof")
    ended = jitterprof(*arguments, folder=folder)
    ended.refused(1, "cannot reserve", "No space left on device", "free some space")
    assert not list(small_disk.iterdir())
    fill(small_disk)
    jitterprof(*arguments, folder=folder).refused(1, "a.jprof", "No space left on device", "free some space")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


@needs_root
@pytest.mark.parametrize("small_disk", ["8m"], indirect=True)
def test_a_disk_too_small_for_what_was_asked(small_disk: Path) -> None:
    """The generator finds out in the warm-up, when it sizes its files."""
    arguments = ("run", "mlp", "--duration", "10m", "--warmup", "200ms", "--probes", "none", "--out", "disk/a.jprof")
    ended = jitterprof(*arguments, folder=small_disk.parent)
    ended.refused(4, "ended early: cannot reserve", "No space left on device", "free some space")
    assert not list(small_disk.iterdir())


@needs_root
@pytest.mark.parametrize("small_disk", ["512m,nr_inodes=64"], indirect=True)
def test_a_disk_that_fills_up_keeps_the_recording(small_disk: Path) -> None:
    """Out of inodes: streams that are there can be written, tables can no longer be made."""
    folder = small_disk.parent
    arguments = ("run", "mlp", *LONG[:-1], "disk/a.jprof")
    command = Command(arguments, folder)
    process = command.start()
    wait_for_phase(command, process, "measuring")
    with pytest.raises(OSError, match="No space"):
        for number in range(100):
            (small_disk / f"filler{number}").touch()
    process.send_signal(signal.SIGINT)
    ended = finish(command, process)
    assert ended.code == 4, ended.said
    assert "Traceback" not in ended.said
    assert "No space left on device" in ended.said.splitlines()[-2]
    assert "requests in" in ended.out
    for filler in small_disk.glob("filler*"):
        filler.unlink()
    document = _explained(small_disk)
    _closes(document)
    assert "the recording was cut; this is what had reached the disk" in document["health"]["caveats"]


@pytest.mark.parametrize(
    ("mode", "tables", "words"),
    [
        ("none", (), "no kernel events were recorded"),
        ("procfs", ("procfs", "samples"), "/proc counters give waiting time and counts, not who caused them"),
    ],
)
def test_sessions_without_probes_say_what_they_cannot_see(
    tmp_path: Path, mode: str, tables: tuple[str, ...], words: str
) -> None:
    import pyarrow.parquet as pq

    ended = jitterprof("run", "mlp", *QUICK, "--probes", mode, "--out", "a.jprof", folder=tmp_path)
    assert ended.code == 0, ended.said
    assert words in " ".join(ended.out.split())
    for name in tables:
        assert pq.read_metadata(tmp_path / "a.jprof" / f"{name}.parquet").num_rows > 0
    document = _explained(tmp_path)
    _closes(document)
    causes = {row["cause"] for row in document["causes"]}
    if mode == "none":
        assert causes <= {"run", "unknown", "dispatch", "queue", "gc"}, "blame without evidence"
    else:
        assert causes <= {"run", "preempted", "unknown", "dispatch", "queue", "gc"}, "blame without evidence"
        oracles = _manifest(tmp_path)["oracles"]
        assert isinstance(oracles["quota_paths"], list)
        samples = pq.read_table(tmp_path / "a.jprof" / "samples.parquet")
        threads = samples.filter(pq_equal(samples, "kind", 1))
        assert set(_manifest(tmp_path)["worker_tids"]) <= set(threads.column("key").to_pylist())


def pq_equal(table: Any, column: str, value: int) -> Any:
    import pyarrow.compute as pc

    return pc.equal(table.column(column), value)
