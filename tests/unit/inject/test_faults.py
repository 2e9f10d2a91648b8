"""The registry of faults, and what keeps one from being injected."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from command import wait_until

from jitterprof.inject import burner, faults, storms
from jitterprof.inject.burner import ordinary, real_time_allowed
from jitterprof.inject.faults import FAULTS, VICTIM, fault_named, file_on_disk
from jitterprof.inject.guard import remove_cgroup
from jitterprof.inject.processes import throttled_allowed
from jitterprof.inject.site import Site
from jitterprof.inject.storms import cpu_mask
from jitterprof.inject.timetable import EPOCH, PID, TIMETABLE_ENV, Due, Timetable
from jitterprof.load.workload import resolve
from jitterprof.model.cause import CAUSE_IDS

HERE = Site(cpu=0, other=1)
#: The kernel grants a real-time loop 950 ms of each second.
RT_LIMIT_NS = 950_000_000


def test_every_fault_says_what_is_right() -> None:
    assert len({fault.kind.name for fault in FAULTS}) == len(FAULTS) >= 12
    for fault in FAULTS:
        kind = fault.kind
        assert kind.right and all(cause in CAUSE_IDS for cause, _ in kind.right)
        assert not kind.off_cpu or kind.off_cpu in {cause for cause, _ in kind.right}
        assert 0 < fault.length_ns < RT_LIMIT_NS
        assert fault_named(kind.name) is fault
        assert len(f"jp-{kind.name}") <= 15 or fault.enter is None, "the kernel cuts names of tasks"
    assert sum(fault.kind.control for fault in FAULTS) == 2


def test_a_culprit_counts_as_well_as_the_cause() -> None:
    kind = fault_named("fifo").kind
    assert kind.is_right("preempted", "jp-fifo/4711")
    assert not kind.is_right("preempted", "cc1/4711")
    assert not kind.is_right("run", "")


def test_a_single_cpu_allows_no_fault_from_another() -> None:
    alone = replace(HERE, other=-1)
    reasons = {fault.kind.name: fault.available(alone) for fault in FAULTS}
    assert reasons["packets"] == reasons["ipis"] == "needs a second CPU"
    assert reasons["nothing"] == reasons["sleep"] == ""


def test_no_steering_of_packets_without_rps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(storms, "_RPS", tmp_path / "rps_cpus")
    assert "CONFIG_RPS" in storms.packets_allowed(HERE)


def test_no_barriers_no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storms, "barriers_supported", lambda: False)
    assert "membarrier" in storms.calls_allowed(HERE)


def test_a_file_in_memory_waits_for_no_disk() -> None:
    assert "not on a disk" in file_on_disk(replace(HERE, folder="/dev/shm"))


def test_real_time_that_is_refused_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, policy: int, parameter: os.sched_param) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert real_time_allowed(HERE).startswith("SCHED_FIFO refused: Operation not permitted")


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        (HERE, "no cgroup with the cpu controller"),
        (replace(HERE, cpu_cgroup="{folder}/home", cgroup_version=2), "the cpu controller is not on"),
        (replace(HERE, cpu_cgroup="{folder}/missing", cgroup_version=1), "not writable"),
        (replace(HERE, cpu_cgroup="{folder}/home", cgroup_version=1), ""),
    ],
)
def test_a_quota_needs_a_controller(tmp_path: Path, site: Site, reason: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "home" / "cgroup.procs").touch()
    (tmp_path / "cgroup.subtree_control").write_text("memory pids")
    found = throttled_allowed(replace(site, cpu_cgroup=site.cpu_cgroup.format(folder=tmp_path)))
    assert (reason in found) if reason else found == ""


def test_the_root_of_cgroup_v2_has_its_own_children(tmp_path: Path) -> None:
    root = tmp_path / "mount"
    root.mkdir()
    (root / "cgroup.procs").touch()
    (root / "cgroup.subtree_control").write_text("cpu")
    assert throttled_allowed(replace(HERE, cpu_cgroup=str(root), cgroup_version=2)) == ""


@pytest.mark.parametrize(
    ("cpu", "mask"), [(0, "1"), (5, "20"), (31, "80000000"), (32, "1,00000000"), (70, "40,00000000,00000000")]
)
def test_masks_of_many_cpus(cpu: int, mask: str) -> None:
    assert cpu_mask(cpu) == mask


@pytest.fixture
def affinity() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("affinity")
def test_a_loop_lasts_until_it_is_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burner, "weigh_more", lambda: None)
    with ordinary(Site(min(os.sched_getaffinity(0)), -1), 0) as pulse:
        stop = time.monotonic_ns() + 3_000_000
        taken = pulse(stop)
        assert time.monotonic_ns() >= stop
        assert taken > 0


def test_the_victim_commits_its_own_faults_and_logs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = [fault for fault in FAULTS if fault.enter is None]
    planned = [Due(number, FAULTS.index(fault), number, fault.length_ns) for number, fault in enumerate(own)]
    table = Timetable.create(tmp_path / "table", planned)
    monkeypatch.setenv(TIMETABLE_ENV, str(tmp_path / "table"))
    from jitterprof.inject import victim

    # Its weight is that of its process and session: here those are the tests'.
    monkeypatch.setattr(victim, "weigh_more", lambda: None)
    request = victim.build()
    request()
    assert table.words[PID] == os.getpid() and not table.done(), "nothing before the measurement begins"
    table.words[EPOCH] = before = time.monotonic_ns()
    for _ in own:
        request()
    done = table.done()
    assert [each.fault for each in done] == [due.fault for due in planned]
    assert all(before < each.t0_ns < each.t1_ns for each in done)
    held = {FAULTS[each.fault].kind.name: each.t1_ns - each.t0_ns for each in done}
    assert held["sleep"] >= 5_000_000 and held["lock"] > 1_000_000


def test_the_victim_is_a_workload_like_any_other() -> None:
    assert resolve(VICTIM).function == "build"
    assert Path(VICTIM.rpartition(":")[0]).is_relative_to(Path(faults.__file__).parent)


def test_a_guard_acts_when_its_parent_goes(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").touch()
    code = (
        "import os, signal, sys\nfrom jitterprof.inject.processes import guarded\n"
        "with guarded('folder', sys.argv[1]):\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert done.returncode == -9
    wait_until(lambda: not folder.exists(), 10, lambda: "the folder is still there")


def test_a_cgroup_that_is_gone_already_is_no_error(tmp_path: Path) -> None:
    remove_cgroup(tmp_path / "gone", tmp_path)
