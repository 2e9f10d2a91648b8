"""The kernel's own counters over one busy recording, against what the probes and the ledger make of it.

The victim shares its CPU with a hog, takes page faults and network interrupts, and spends a part of the time under a
CPU quota. Figures are printed (pytest -s).
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from injectors.control import CONTROL_ENV, PID, TID, Control
from injectors.injector import Injector

from jitterprof.analysis.evidence import evidence_of
from jitterprof.analysis.segments import Role
from jitterprof.analysis.timeline import Timeline, build_timeline
from jitterprof.experiment.session import record_session
from jitterprof.model.cause import Cause
from jitterprof.model.run import Manifest, RunSpec
from jitterprof.units import NS_PER_MS, NS_PER_S

VICTIM = Path(__file__).resolve().parents[1] / "truth" / "victims.py"
CPU = max(os.sched_getaffinity(0))
SECONDS = 9
#: The issue's bound.
WITHIN = 0.02


@dataclass(frozen=True)
class Busy:
    """The recording: the kernel's differences and the probes' between the same two moments, and the timeline."""

    manifest: Manifest
    timeline: Timeline
    quota: list[dict[str, Any]]
    tid: int
    readings: list[tuple[int, int, int, int, int]]

    @property
    def begin(self) -> int:
        return int(str(self.manifest.oracles["begin_ns"]))

    @property
    def end(self) -> int:
        return int(str(self.manifest.oracles["end_ns"]))

    @property
    def kernel(self) -> dict[str, Any]:
        kernel = self.manifest.oracles["kernel"]
        assert isinstance(kernel, dict)
        return kernel

    def probes(self, name: str) -> int:
        """A total of the probes over all CPUs."""
        rows = self.manifest.oracles["probes"]
        assert isinstance(rows, list)
        return sum(row[name] for row in rows)

    def time_in(self, *causes: Cause, since: int = 0, until: int = 0) -> int:
        """ns of the serving thread's timeline with one of these causes, [begin, end) unless told."""
        window = (np.array([since or self.begin]), np.array([until or self.end]))
        _, pieces = self.timeline.pieces(np.array([self.tid]), *window)
        chosen = pieces[np.isin(pieces["cause"], causes)]
        return int((chosen["end"] - chosen["start"]).sum())

    def roles(self, since: int, until: int) -> dict[str, int]:
        """ns of the serving thread by how it stood to its CPU, whatever interrupted that CPU meanwhile."""
        _, pieces = self.timeline.pieces(np.array([self.tid]), np.array([since]), np.array([until]))
        ns = pieces["end"] - pieces["start"]
        throttled = pieces["cause"] == Cause.THROTTLED
        return {
            "running": int(ns[pieces["role"] == Role.RUNNING].sum()),
            "stolen": int(ns[(pieces["role"] == Role.RUNNING) & (pieces["cause"] == Cause.STEAL)].sum()),
            "waiting": int(ns[(pieces["role"] == Role.WAITING) | throttled].sum()),
        }


class Schedstat(threading.Thread):
    """Reads the schedstat of the victim's serving thread all the time: (before, after, on CPU, run delay, slices)."""

    def __init__(self, control: Path) -> None:
        super().__init__(daemon=True)
        self.words = Control(control).words
        self.readings: list[tuple[int, int, int, int, int]] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.02):
            pid, tid = self.words[PID], self.words[TID]
            if not tid:
                continue
            try:
                begin = time.monotonic_ns()
                text = Path(f"/proc/{pid}/task/{tid}/schedstat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                return
            on_cpu, delay, slices = map(int, text.split())
            self.readings.append((begin, time.monotonic_ns(), on_cpu, delay, slices))


@pytest.fixture(scope="module")
def busy() -> Iterator[Busy]:
    with tempfile.TemporaryDirectory(prefix="jp-oracles-") as folder, ExitStack() as stack:
        control = Path(folder) / "control"
        os.environ[CONTROL_ENV] = str(control)
        stack.callback(os.environ.pop, CONTROL_ENV)
        schedule = {"control": control, "delay_ms": 500}
        injectors = [
            Injector("hog", CPU, pulses=12, pulse_ms=150, gap_ms=250, seed=1, **schedule),
            Injector("net_rx", CPU, pulses=12, pulse_ms=60, gap_ms=300, seed=2, every_us=40, **schedule),
            Injector("madvise", CPU, pulses=25, pulse_ms=5, gap_ms=150, seed=3, **schedule),
            Injector("quota", CPU, pulses=3, pulse_ms=480, gap_ms=1200, seed=4, quota_ms=30, **schedule),
        ]
        for injector in injectors:
            stack.enter_context(injector)
        spec = RunSpec(
            f"{VICTIM}:build", "auto", cpus=(CPU,), duration_ns=SECONDS * NS_PER_S, warmup_ns=NS_PER_S, probes="bpf"
        )
        schedstat = Schedstat(control)
        schedstat.start()
        run = record_session(spec, Path(folder) / "session.jprof").run
        schedstat.stopped.set()
        schedstat.join()
        timeline = build_timeline(run.requests, evidence_of(run.manifest, run.events))
        assert run.manifest.health.loss.total == 0
        for injector in injectors:
            injector.__exit__(None, None, None)
        stack.pop_all()
        del os.environ[CONTROL_ENV]
        yield Busy(run.manifest, timeline, injectors[3].rows, run.manifest.worker_tids[0], schedstat.readings)


def agree(what: str, kernel: float, ours: float, allowance: float) -> None:
    """Within the issue's bound, or within what the kernel's figure cannot resolve. Prints both."""
    share = (ours - kernel) / kernel if kernel else 0.0
    print(f"{what:28} kernel {kernel:>14,.0f}  ours {ours:>14,.0f}  {share:+.2%}")
    assert abs(ours - kernel) <= max(WITHIN * kernel, allowance), what


def between_readings(busy: Busy) -> tuple[int, int, int, int, int]:
    """The first and the last reading that found the thread running: (from, to, on CPU, run delay, slices).

    A wait that is still going on is not in the kernel's sum yet, so readings during one would not compare.
    """
    inside = [r for r in busy.readings if busy.begin < r[0] and r[1] < busy.end]
    edges = np.array([r[:2] for r in inside])
    owner, pieces = busy.timeline.pieces(np.full(len(edges), busy.tid), edges[:, 0], edges[:, 1])
    waited = set(owner[pieces["role"] != Role.RUNNING].tolist())
    good = [reading for number, reading in enumerate(inside) if number not in waited]
    assert len(good) > 20
    first, last = good[0], good[-1]
    at = (first[0] + first[1]) // 2, (last[0] + last[1]) // 2
    assert at[1] - at[0] > 0.6 * SECONDS * NS_PER_S
    return (*at, last[2] - first[2], last[3] - first[3], last[4] - first[4])


def test_run_delay(busy: Busy) -> None:
    """schedstat counts from the run queue, we from the waking: some microseconds per wake-up (see test_state_clocks).
    A throttled thread is runnable, so for schedstat it waits."""
    since, until, _, delay, slices = between_readings(busy)
    agree("schedstat run delay, ns", delay, busy.roles(since, until)["waiting"], 5_000 * slices)


def test_time_on_cpu(busy: Busy) -> None:
    """schedstat leaves out what the hypervisor took; /proc's figure is as of the thread's last tick (4 ms here)."""
    since, until, on_cpu, _, _ = between_readings(busy)
    roles = busy.roles(since, until)
    agree("schedstat time on CPU, ns", on_cpu, roles["running"] - roles["stolen"], 4_000_000)


def _interrupts(busy: Busy, *rows: str) -> int:
    return sum(sum(busy.kernel["interrupts"].get(row, ())) for row in rows)


#: The two sides are read one after the other, some milliseconds apart: as many events as come in that time.
READ_APART_S = 0.02


def _apart(busy: Busy, count: int) -> float:
    return 1 + count / ((busy.end - busy.begin) / NS_PER_S) * READ_APART_S


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="rows of /proc/interrupts as x86 names them")
def test_interrupts(busy: Busy) -> None:
    timer = _interrupts(busy, "LOC")
    agree("/proc/interrupts LOC", timer, busy.probes("timers"), _apart(busy, timer))
    # TLB shootdowns come by the call-function vectors, so CAL has them already (82ba4faca1bf, 4.9).
    sent = _interrupts(busy, "RES", "CAL", "IWI", "PLT", "TRM", "THR", "DFR")
    agree("RES + CAL + IWI ...", sent, busy.probes("ipis"), _apart(busy, sent))


def test_device_interrupts(busy: Busy) -> None:
    count = _interrupts(busy, *(row for row in busy.kernel["interrupts"] if row.isdigit()))
    agree("device interrupts", count, busy.probes("hardirqs"), _apart(busy, count))


def test_softirqs(busy: Busy) -> None:
    count = sum(sum(row) for row in busy.kernel["softirqs"].values())
    assert count > 1000
    agree("/proc/softirqs", count, busy.probes("softirqs"), _apart(busy, count))


def test_throttled_time(busy: Busy) -> None:
    inside = [row for row in busy.quota if busy.begin < row["t0_ns"] and row["t1_ns"] + 100 * NS_PER_MS < busy.end]
    assert len(inside) >= 2
    kernel = sum(row["throttled_ns"] for row in inside)
    ours = sum(
        busy.time_in(Cause.THROTTLED, since=row["t0_ns"], until=row["t1_ns"] + 100 * NS_PER_MS) for row in inside
    )
    assert kernel > 200 * NS_PER_MS
    # No tracepoint says when the quota is back: what the victim then waits for the hog, a slice of up to a tick each
    # time, is still billed to the quota.
    stretches = sum((row["t1_ns"] - row["t0_ns"]) // (100 * NS_PER_MS) + 1 for row in inside)
    agree("cpu.stat throttled time, ns", kernel, ours, stretches * 4 * NS_PER_MS)


def test_steal(busy: Busy) -> None:
    """On the victim's CPU: the probes look at steal where a victim runs or waits. /proc/stat counts in clock ticks of
    10 ms, and leaves out one that is not full yet at either end."""
    steal = busy.manifest.oracles["steal_ns"]
    assert isinstance(steal, list)
    at = list(busy.kernel["cpus"]).index(CPU)
    tick = NS_PER_S // os.sysconf("SC_CLK_TCK")
    agree("/proc/stat steal, ns", busy.kernel["steal_ns"][at], steal[CPU], tick)
