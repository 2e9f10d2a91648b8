"""Targets and recorders that come and go: nothing breaks, nothing stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel.bpf_ids import exists, held, perf_events
from kernel.lab import CPU, CPUS, Victim, kernel_config, open_lab, wait_until

from jitterprof.model.event import EventKind, Vector
from jitterprof.trace.session import TraceSession

ROOT = Path(__file__).resolve().parents[2]


def gone(objects: set[tuple[str, int]]) -> bool:
    return not any(exists(kind, number) for kind, number in objects)


def test_close_gives_everything_back(program: Path) -> None:
    before = held()
    with Victim(program) as victim:
        session = TraceSession(victim.pid, ring_bytes=1 << 16)
        made = held() - before
        assert {kind for kind, _ in made} == {"prog_id", "map_id", "link_id"}
        assert len([kind for kind, _ in made if kind == "link_id"]) > 20
        assert perf_events() == 2 * len(CPUS)
        assert not any(gone({one}) for one in made)
        session.close()
        assert perf_events() == 0
        assert not held() - before
        # Programs are freed a grace period later.
        wait_until(lambda: gone(made), "the kernel frees programs, maps and links")


def test_a_killed_recorder_leaves_nothing_attached(program: Path) -> None:
    code = "import sys, time\nfrom jitterprof.trace.session import TraceSession\n"
    code += "session = TraceSession(int(sys.argv[1]))\nprint('attached', flush=True)\ntime.sleep(600)"
    with Victim(program) as victim:
        recorder = subprocess.Popen(
            [sys.executable, "-c", code, str(victim.pid)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        try:
            assert recorder.stdout is not None and recorder.stdout.readline() == "attached\n"
            objects = held(recorder.pid)
            assert len(objects) > 40 and not any(gone({one}) for one in objects)
        finally:
            os.kill(recorder.pid, signal.SIGKILL)
            recorder.communicate()
        wait_until(lambda: gone(objects), "the kernel frees programs, maps and links")
        assert victim.do("sleep 3 500").end


def test_a_target_that_exits(program: Path) -> None:
    with open_lab(program, ring_bytes=1 << 20) as lab:
        lab.act("thread sleep 3 500")
        assert lab.slots()
        assert lab.victim.wait() == 0
        assert lab.slots() == {}
        assert lab.watched() == [0] * len(lab.watched())
        events = lab.drain()
        assert events["tid"][events["kind"] == EventKind.EXIT].tolist() == [lab.victim.pid]
        assert len(lab.session.read()) == 0


def test_a_target_that_is_killed_with_running_threads(program: Path) -> None:
    with open_lab(program, ring_bytes=1 << 20) as lab:
        lab.victim.ask(f"rivals {CPU} 20000")
        wait_until(lambda: len(lab.slots()) == 3, "both rivals run")
        os.kill(lab.victim.pid, signal.SIGKILL)
        wait_until(lambda: not lab.slots(), "every thread has given its slot back")
        assert lab.watched() == [0] * len(lab.watched())
        assert len(lab.drain())


def test_a_thread_that_execs(program: Path) -> None:
    """It takes over the thread id of its process, whose threads are all gone: so must their slots be."""
    with open_lab(program, ring_bytes=1 << 20) as lab:
        lab.victim.ask("exec")
        lab.victim.expect_ready()
        act = lab.act("sleep 5 300")
        assert act.tid == lab.victim.pid
        assert len(act.of(EventKind.SWITCH_OUT)) >= 5
        assert set(lab.slots()) == {lab.victim.pid}
        wait_until(lambda: lab.victim.state() == "S", "the victim sleeps")
        assert lab.watched() == [0] * len(lab.watched())


def test_a_thread_that_runs_already(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that spins while we attach is seen from then on, not from its first switch: on a CPU of its own that
    may never come."""
    attach = TraceSession._attach

    def undisturbed(*arguments: Any) -> Any:
        os.sched_setscheduler(victim.pid, os.SCHED_FIFO, os.sched_param(50))
        return attach(*arguments)

    monkeypatch.setattr(TraceSession, "_attach", staticmethod(undisturbed))
    with Victim(program) as victim:
        victim.do(f"pin {CPU}")
        victim.ask("spin 30000")
        session = TraceSession(victim.pid, ring_bytes=1 << 20)
        try:
            attached = time.monotonic_ns()
            wait_until(lambda: time.monotonic_ns() > attached + 200_000_000, "a fifth of a second passes")
            events = session.read()
        finally:
            os.sched_setscheduler(victim.pid, os.SCHED_OTHER, os.sched_param(0))
            session.close()
    events = events[np.argsort(events["ts"], kind="stable")]
    mine = events[(events["tid"] == victim.pid) & (events["ts"] > attached)]
    switches = mine["ts"][np.isin(mine["kind"], (EventKind.SWITCH_IN, EventKind.SWITCH_OUT))]
    until = int(switches.min(initial=attached + 200_000_000))
    assert until > attached + 50_000_000, "the victim was switched all the same: nothing was tested"
    ticks = mine[(mine["kind"] == EventKind.VECTOR) & (mine["flags"] == Vector.LOCAL_TIMER) & (mine["ts"] < until)]
    due = (until - attached) / 1e9 * int(kernel_config("CONFIG_HZ"))
    assert len(ticks) >= 0.9 * due - 2
