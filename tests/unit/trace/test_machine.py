"""What a machine leaves out, from made-up trees of /sys."""

from pathlib import Path

import pytest

from jitterprof.model.event import Neighbour
from jitterprof.trace import machine
from jitterprof.trace.counters import Counter, why_not_counted
from jitterprof.trace.machine import MOST_NEIGHBOURS, Neighbours, frequencies, machine_limits, neighbours
from jitterprof.trace.perf_events import TYPE_HARDWARE

#: No kernel counts this.
NOTHING = Counter("unicorns", "pmu_cycles", TYPE_HARDWARE, 1 << 40)


def cpu(root: Path, number: int, siblings: str, **caches: str) -> Path:
    """One CPU: who shares its core, and who shares its caches by level ("l2", "l3")."""
    base = root / "sys/devices/system/cpu" / f"cpu{number}"
    (base / "topology").mkdir(parents=True)
    (base / "topology" / "thread_siblings_list").write_text(siblings + "\n")
    for index, (level, shared) in enumerate(caches.items()):
        place = base / "cache" / f"index{index}"
        place.mkdir(parents=True)
        (place / "level").write_text(level[1:] + "\n")
        (place / "shared_cpu_list").write_text(shared + "\n")
    return base


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """Four cores with two threads each, two last-level caches."""
    for number in range(8):
        core = f"{number % 4},{number % 4 + 4}"
        cpu(tmp_path, number, core, l1=core, l3="0-1,4-5" if number % 4 < 2 else "2-3,6-7")
    return tmp_path


def test_siblings_come_before_those_that_share_a_cache(server: Path) -> None:
    found = neighbours(8, server)
    assert found[1] == Neighbours((5,), (0, 4))
    assert found[6] == Neighbours((2,), (3, 7))
    assert found[1].words() == (5 | Neighbour.SMT << 16, 0 | Neighbour.CACHE << 16, 4 | Neighbour.CACHE << 16)


def test_a_cpu_that_shares_nothing_has_no_neighbours(tmp_path: Path) -> None:
    cpu(tmp_path, 0, "0", l2="0")
    cpu(tmp_path, 1, "1")
    assert neighbours(2, tmp_path) == {}
    limit = next(one for one in machine_limits(2, root=tmp_path) if one.name == "neighbour")
    assert limit.state == "missing" and "shares" in limit.reason


def test_cpus_without_files_are_passed_over(server: Path) -> None:
    assert neighbours(64, server).keys() == set(range(8))


def test_more_neighbours_than_fit_are_cut_off_at_the_far_end() -> None:
    words = Neighbours((1,), tuple(range(2, 600))).words()
    assert len(words) == MOST_NEIGHBOURS and words[0] == 1 | Neighbour.SMT << 16


def test_ticks_that_are_stopped_are_said(server: Path) -> None:
    (server / "sys/devices/system/cpu/nohz_full").write_text("2-7\n")
    limit = next(one for one in machine_limits(8, root=server) if one.name == "neighbour")
    assert limit.state == "partial" and "2-7" in limit.reason
    (server / "sys/devices/system/cpu/nohz_full").write_text("(null)\n")
    assert not [one for one in machine_limits(8, root=server) if one.name == "neighbour"]


def test_frequencies_are_read_where_the_kernel_sets_them(server: Path) -> None:
    assert frequencies(8, server) == {}
    assert "cpufreq" in next(one for one in machine_limits(8, root=server) if one.name == "frequency").reason
    for number, khz in ((0, "2400000\n"), (3, "<unknown>\n")):
        policy = server / f"sys/devices/system/cpu/cpu{number}/cpufreq"
        policy.mkdir()
        (policy / "scaling_cur_freq").write_text(khz)
    assert frequencies(8, server) == {0: 2_400_000}
    assert not [one for one in machine_limits(8, root=server) if one.name == "frequency"]


def test_a_counter_that_is_not_there_takes_the_probe(server: Path) -> None:
    assert "unicorns" in why_not_counted((NOTHING,))
    limit = next(one for one in machine_limits(8, (NOTHING,), server) if one.name == "pmu")
    assert limit.state == "missing" and limit.reason == why_not_counted((NOTHING,))


def test_a_counter_that_counts_does_not(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "why_not_counted", lambda counters: "")
    assert not [one for one in machine_limits(8, root=server) if one.name == "pmu"]
    assert why_not_counted((Counter("luxury", "pmu_misses", TYPE_HARDWARE, 1 << 40, required=False),)) == ""
