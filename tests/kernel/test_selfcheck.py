"""The self-check for real: faults are injected, the matrix is filled, and nothing stays behind, whoever is killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Command, finish, wait_for_phase, wait_until

from jitterprof.analysis.selfcheck import NOT_SEEN, judge
from jitterprof.analysis.session_ledger import session_ledger
from jitterprof.experiment.selfcheck import recorded_faults

RPS = Path("/sys/class/net/lo/queues/rx-0/rps_cpus")


def _groups() -> list[Path]:
    return list(Path("/sys/fs/cgroup").rglob("jitterprof-quota-*"))


def _networks() -> set[str]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(str(entry.readlink()))
        except OSError:
            continue
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cgroup, network, setting or file. Processes: `finish` looks for those."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    networks, settings = _networks(), RPS.read_text()
    yield
    assert not _groups()
    assert _networks() <= networks
    assert RPS.read_text() == settings
    assert not list(tmp_path.glob("jitterprof-selfcheck-*"))


def _words(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _injector(command: Command, name: str) -> int:
    for pid in command.processes():
        words = _words(pid)
        if b"jitterprof.inject.injector" in words and name.encode() in words:
            return pid
    raise AssertionError(f"no injector of {name}: {command.said}")


def _in_quota() -> bool:
    return any((group / "cgroup.procs").read_text().strip() for group in _groups())


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_injected_faults_are_found_and_counted() -> None:
    names = ("fifo", "packets", "quota", "sleep", "nothing")
    phases: list[str] = []
    with recorded_faults(3, lambda phase, _done: phases.append(phase), names) as recorded:
        run = recorded.recording.run
        check = judge(run, session_ledger(run), recorded.log)
    assert "injecting faults" in phases
    assert not recorded.log.absent
    assert {fault.name for fault in check.faults} == set(names)
    # A pulse that comes late on a busy machine does not take place.
    assert len(check.pulses) >= 3 * len(names) - 3
    kept = [pulse for pulse in check.pulses if not pulse.left_out]
    assert sum(map(sum, check.matrix)) == len(kept) > 0
    seen = [pulse for pulse in kept if pulse.cause != NOT_SEEN and pulse.fault != "nothing"]
    assert seen and check.judged == len(seen)
    assert check.right >= 0.6 * check.judged, [(pulse.fault, pulse.cause, pulse.culprit) for pulse in seen]
    for pulse in seen:
        if pulse.taken_ns is not None and pulse.right:
            assert pulse.billed_ns == pytest.approx(pulse.taken_ns, rel=0.1, abs=500_000), pulse


def test_a_killed_coordinator_leaves_no_quota_and_no_process(tmp_path: Path) -> None:
    command = Command(("doctor", "--calibrate", "--pulses", "3"), tmp_path)
    process = command.start()
    wait_for_phase(command, process, "injecting faults")
    wait_until(_in_quota, 60, lambda: f"the victim never came under a quota: {command.said}")
    process.kill()
    assert finish(command, process).code == -signal.SIGKILL


def test_killed_injectors_leave_the_victim_as_it_was(tmp_path: Path) -> None:
    command = Command(("doctor", "--calibrate", "--pulses", "3"), tmp_path)
    process = command.start()
    wait_until(lambda: _groups() or process.poll() is not None, 60, lambda: command.said)
    quota, stopper, victim = (
        _injector(command, "quota"),
        _injector(command, "sigstop"),
        command.child("workload_process"),
    )
    waiting = {"quota", "sigstop"}

    def strike() -> bool:
        """Kill each where it hurts most: in its pulse."""
        if "quota" in waiting and _in_quota():
            os.kill(quota, signal.SIGKILL)
            waiting.discard("quota")
        if "sigstop" in waiting and _state(victim) == "T":
            os.kill(stopper, signal.SIGKILL)
            waiting.discard("sigstop")
        return not waiting

    # Between looks a pulse of 5 ms would be missed.
    while not strike():
        assert process.poll() is None, f"ended before {waiting} struck: {command.said}"
    wait_until(lambda: not _groups(), 10, lambda: "the quota stays")
    ended = finish(command, process)
    assert ended.code == 0, ended.said
    first, *rest = ended.out.splitlines()
    assert "faults are named right on this host" in first
    assert {"- quota: exit code -9", "- sigstop: exit code -9"} <= set(rest)
    assert any(line.startswith("injected") for line in rest)


def test_a_killed_guard_is_not_missed(tmp_path: Path) -> None:
    names = ("quota", "sigstop")
    guards: list[int] = []

    def kill_guards(phase: str, _done: float | None) -> None:
        if phase == "injecting faults" and not guards:
            for injector in _children(os.getpid()):
                guards.extend(pid for pid in _children(injector) if b"jitterprof.inject.guard" in _words(pid))
            for pid in guards:
                os.kill(pid, signal.SIGKILL)

    with recorded_faults(3, kill_guards, names) as recorded:
        assert len(guards) == 2
        assert not recorded.log.absent
        assert len(recorded.log.pulses) >= 4


def test_ctrl_c_ends_it_in_order(tmp_path: Path) -> None:
    command = Command(("doctor", "--calibrate"), tmp_path)
    process = command.start()
    wait_for_phase(command, process, "injecting faults")
    process.send_signal(signal.SIGINT)
    ended = finish(command, process)
    ended_lines = ended.said.splitlines()
    assert ended.code == 130 and ended.out == ""
    assert ended_lines[-2:] == ["jitterprof: interrupted", "  nothing was kept, and nothing is left behind"]
