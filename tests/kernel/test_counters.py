"""Counters, frequencies and neighbours of a victim. Where the machine has none, something that counts stands in."""

import ctypes
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from kernel.lab import CPU, CPUS, Lab, Rows, comm_of, open_lab, wait_until

from jitterprof.model.event import CountersFlag, EventKind, Neighbour
from jitterprof.model.run import ProbeStatus
from jitterprof.trace import session as session_module
from jitterprof.trace.counters import Counter
from jitterprof.trace.machine import Neighbours, machine_limits, neighbours
from jitterprof.trace.perf_events import SW_CPU_CLOCK, SW_PAGE_FAULTS_MIN, TYPE_SOFTWARE

N = 17
#: In place of cycles the CPU's clock in ns, in place of instructions minor faults: both are known otherwise.
DOUBLES = (
    Counter("ns", "pmu_cycles", TYPE_SOFTWARE, SW_CPU_CLOCK),
    Counter("faults", "pmu_instructions", TYPE_SOFTWARE, SW_PAGE_FAULTS_MIN),
    Counter("nothing", "pmu_misses", TYPE_SOFTWARE, 1 << 40, required=False),
)

two_cpus = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")


@pytest.fixture(scope="module")
def counted(program: Path) -> Iterator[Lab]:
    with open_lab(program, counters=DOUBLES) as lab:
        yield lab


def low(counters: Rows) -> np.ndarray:
    return (counters["b"] & np.uint64(0xFFFFFFFF)).astype(np.int64)


def high(counters: Rows) -> np.ndarray:
    return (counters["b"] >> np.uint64(32)).astype(np.int64)


def test_counts_cover_a_victims_time_on_the_cpu(counted: Lab) -> None:
    act = counted.act(f"sleep {N} 300")
    counters = act.of(EventKind.COUNTERS)
    outs, ins = act.outs(), act.of(EventKind.SWITCH_IN)
    assert set(counters["flags"]) == {0} and set(counters["other"]) == {0}
    # One ends where it leaves the CPU, the next begins where it comes back; ticks cut in between.
    assert np.isin(outs["ts"], counters["ts"]).all()
    assert np.isin(ins["ts"][ins["ts"] < counters["ts"][-1]], counters["a"]).all()
    starts, before = counters["a"][1:], counters["ts"][:-1]
    assert ((starts == before) | np.isin(starts, ins["ts"])).all()
    # The clock is read some 100 ns after the time of the record, at both ends.
    length = (counters["ts"] - counters["a"]).astype(np.int64)
    assert np.median(np.abs(low(counters) - length)) < 2_000
    assert low(counters).sum() == pytest.approx(length.sum(), rel=0.05, abs=20_000)


def test_counts_are_of_what_the_victim_did(counted: Lab) -> None:
    act = counted.act(f"fault {N * 40}")
    since = act.all_since_asked()
    counters = since.of(EventKind.COUNTERS)
    assert high(counters).sum() >= N * 40
    faults = since.of(EventKind.FAULT)
    inside = (counters["a"] <= act.begin) | (counters["ts"] >= act.end)
    assert high(counters[~inside]).sum() <= len(faults)


def test_ticks_cut_a_long_stretch(counted: Lab) -> None:
    counted.act(f"pin {CPU}")
    try:
        act = counted.act("spin 200")
    finally:
        counted.act("pin -1")
    counters = act.of(EventKind.COUNTERS)
    ticks = act.events[(act.events["kind"] == EventKind.VECTOR) & (act.events["tid"] == act.tid)]
    assert len(counters) >= 5
    assert np.isin(counters["ts"], np.concatenate([ticks["ts"], act.outs()["ts"]])).all()


def test_a_count_too_large_for_its_field_says_so(program: Path) -> None:
    """Cycles of 4 GHz fill 32 bits in a second; a stretch without ticks may be longer."""
    with open_lab(program, counters=DOUBLES) as lab:
        table = lab.table("counts")
        lab.act(f"pin {CPU}")
        # Once it has its CPU it keeps it: to be switched in again would start the count anew.
        lab.act("fifo-priority 10")
        row = table[CPU]
        row.since, row.value[0] = 1, (1 << 64) - (1 << 33)
        lab.victim.ask("spin 800")
        wait_until(lambda: lab.victim.state() == "R", "the victim spins")
        for _ in range(40):
            table[CPU] = row
            time.sleep(0.005)
        lab.victim.answer()
        counters = lab.drain()
        counters = counters[counters["kind"] == EventKind.COUNTERS]
        long = counters[counters["flags"] & CountersFlag.LONG != 0]
        assert len(long) and set(low(long)) == {0xFFFFFFFF}


def test_without_a_pmu_the_probe_is_missing_and_costs_nothing(lab: Lab) -> None:
    status = next(status for status in lab.session.statuses if status.name == "pmu")
    if status.state == "on":
        act = lab.act(f"sleep {N} 300")
        assert (high(act.of(EventKind.COUNTERS)) > 0).all()
        return
    assert status.state == "missing" and "counter" in status.reason
    with pytest.raises(KeyError):
        lab.table("pmu_cycles")
    act = lab.act(f"sleep {N} 300")
    assert not np.any(act.events["kind"] == EventKind.COUNTERS)


def _allow(monkeypatch: pytest.MonkeyPatch, probe: str) -> None:
    """Whatever this machine lacks, that probe is loaded."""

    def limits(cpus: int, counters: tuple[Counter, ...]) -> tuple[ProbeStatus, ...]:
        return tuple(status for status in machine_limits(cpus, counters) if status.name != probe)

    monkeypatch.setattr(session_module, "machine_limits", limits)


@contextmanager
def hog_on(cpu: int) -> Iterator[int]:
    code = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nprint(flush=True)\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@contextmanager
def beside(monkeypatch: pytest.MonkeyPatch, program: Path, kind: Neighbour, theirs: int) -> Iterator[Lab]:
    """A session that takes two CPUs for neighbours of a kind, whatever the machine says. The victim keeps its own."""
    ours = CPU
    found = {ours: Neighbours((theirs,), ()) if kind == Neighbour.SMT else Neighbours((), (theirs,))}
    monkeypatch.setattr(session_module, "neighbours", lambda cpus: found)
    _allow(monkeypatch, "neighbour")
    with open_lab(program, ring_bytes=1 << 22) as lab:
        lab.act(f"pin {ours}")
        lab.act("fifo-priority 10")
        yield lab


@two_cpus
@pytest.mark.parametrize("kind", [Neighbour.SMT, Neighbour.CACHE])
def test_a_busy_neighbour_is_named(monkeypatch: pytest.MonkeyPatch, program: Path, kind: Neighbour) -> None:
    with beside(monkeypatch, program, kind, CPUS[-2]) as lab, hog_on(CPUS[-2]) as hog:
        act = lab.act("spin 300")
        looks = act.events[act.events["kind"] == EventKind.NEIGHBOUR]
        mine = looks[looks["tid"] == hog]
        assert len(mine) >= 3
        assert len(np.unique(looks["ts"])) >= 10
        assert set(mine["flags"]) == {kind} and set(mine["other"]) == {CPUS[-2]}
        assert set(mine["cpu"]) == {CPU} and set(mine["a"]) == {act.tid}
        # At a tick each, and no more often than every 3 ms.
        ticks = act.events[(act.events["kind"] == EventKind.VECTOR) & (act.events["cpu"] == CPU)]
        assert np.isin(looks["ts"], ticks["ts"]).all()
        assert (np.diff(np.unique(looks["ts"])) >= 3_000_000).all()
        named = lab.tasks()
        assert "python" in {comm_of(task) for task in named[named["tid"] == hog]}.pop()


def test_a_look_that_finds_nobody_leaves_a_record(monkeypatch: pytest.MonkeyPatch, program: Path) -> None:
    """Beside a CPU that is not there: nobody can run on it, however busy this machine is."""
    with beside(monkeypatch, program, Neighbour.CACHE, max(CPUS) + 1) as lab:
        act = lab.act("spin 300")
        looks = act.events[act.events["kind"] == EventKind.NEIGHBOUR]
        assert len(looks) >= 10
        assert set(looks["flags"]) == {Neighbour.NONE} and set(looks["tid"]) == {0}
        assert set(looks["a"]) == {act.tid}
        assert len(np.unique(looks["ts"])) == len(looks)


@two_cpus
def test_the_targets_own_are_no_neighbours(monkeypatch: pytest.MonkeyPatch, program: Path) -> None:
    with hog_on(CPUS[-2]) as hog, beside(monkeypatch, program, Neighbour.SMT, CPUS[-2]) as lab:
        assert hog in lab.act("spin 200").events["tid"]
        lab.session._processes.follow((hog,))
        events = lab.act("spin 200").events
        looks = events[events["kind"] == EventKind.NEIGHBOUR]
        assert len(looks) and hog not in looks["tid"]


def test_the_neighbours_of_this_machine_are_in_the_map(lab: Lab) -> None:
    found = neighbours(max(CPUS) + 1)
    status = next(status for status in lab.session.statuses if status.name == "neighbour")
    if not found:
        assert status.state == "missing"
        return
    for cpu, expected in found.items():
        row = lab.table("neighbours")[cpu]
        assert tuple(row.list[: row.count]) == expected.words()
        assert row.siblings == len(expected.siblings)


def run_raw(fd: int, cpu: int, *arguments: int) -> None:
    """BPF_PROG_TEST_RUN: the program as if its tracepoint had been hit on that CPU with these arguments."""
    context = (ctypes.c_uint64 * len(arguments))(*arguments)
    attr = (ctypes.c_uint64 * 10)()
    words = ctypes.cast(attr, ctypes.POINTER(ctypes.c_uint32))
    # prog_fd, retval, data sizes (2), data pointers (2), repeat, duration, ctx sizes (2), ctx pointers (2), flags, cpu
    words[0] = fd
    words[10] = ctypes.sizeof(context)
    attr[6] = ctypes.addressof(context)
    words[16], words[17] = 1, cpu  # BPF_F_TEST_RUN_ON_CPU
    libc = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
    if libc.syscall(number, 10, attr, ctypes.sizeof(attr)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def test_frequencies(monkeypatch: pytest.MonkeyPatch, program: Path) -> None:
    """No cpufreq in a guest: the tracepoint's program is run by hand, with what it would be given."""
    _allow(monkeypatch, "frequency")
    monkeypatch.setattr(session_module, "frequencies", lambda cpus: {CPU: 1_800_000})
    with open_lab(program) as lab:
        assert {s.state for s in lab.session.statuses if s.name == "frequency"} == {"on"}
        program_fd = lab.session._loaded.bpf.funcs[b"on_cpu_frequency"].fd

        def told(act: str, meanwhile: int = 0) -> list[tuple[int, int]]:
            done = lab.act(act, (lambda: run_raw(program_fd, CPUS[0], meanwhile, CPU)) if meanwhile else None)
            rows = done.since_asked[done.since_asked["kind"] == EventKind.FREQUENCY]
            return rows[["other", "a"]].tolist()

        # The first visit says how fast the CPU ran to begin with; later ones say nothing new.
        lab.act(f"pin {CPU}")
        first = np.concatenate([*lab.before, lab.drain()])
        first = first[first["kind"] == EventKind.FREQUENCY]
        assert first[["other", "a"]].tolist() == [(CPU, 1_800_000)]
        assert told(f"sleep {N} 300") == []
        # A change under a running victim is told at once, one while it is away when it comes back.
        assert told("spin 100", 3_400_000) == [(CPU, 3_400_000)]
        run_raw(program_fd, CPUS[0], 2_000_000, CPU)
        assert told("sleep 2 300") == [(CPU, 2_000_000)]
