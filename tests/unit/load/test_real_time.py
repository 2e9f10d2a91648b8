"""The generator on the real clock: what holds however busy the machine is."""

import gc
import mmap
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from jitterprof.load.arrival import Closed, Constant, Poisson, schedule
from jitterprof.load.collector import CAPACITY, GcRecorder
from jitterprof.load.generator import LoadPlan, run_load
from jitterprof.load.request_file import read_rows
from jitterprof.model.request import GC_DTYPE, Phase
from jitterprof.model.stream import PROCFS_ROW


class Null:
    def infer(self, index: int) -> None:
        pass


class Burn:
    """Three milliseconds of CPU time, measured as such."""

    def infer(self, index: int) -> None:
        until = time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID) + 3_000_000
        while time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID) < until:
            pass


@pytest.mark.parametrize("workers", [1, 2])
def test_an_open_loop_keeps_its_schedule(tmp_path: Path, workers: int) -> None:
    plan = LoadPlan(Poisson(500.0), requests=300, warmup_ns=200_000_000, floor_ns=200_000_000, seed=9)
    result = run_load(plan, [Null()] * workers, tmp_path)
    files = [read_rows(tmp_path / f"requests.{worker}.stream") for worker in range(workers)]
    for rows in files:
        assert (rows["start"] >= rows["intended"]).all()
        assert (rows["end"] >= rows["start"]).all()
        assert (rows["start"][1:] >= rows["end"][:-1]).all()
    everything = np.concatenate(files)
    measured = everything[everything["state"] >> 8 == Phase.MEASURED]
    measured = measured[np.argsort(measured["seq"])]
    assert measured["seq"].tolist() == list(range(300))
    seed = np.random.SeedSequence(9).spawn(3)[2]
    expected = schedule(Poisson(500.0), 0, 300, seed)
    assert (measured["intended"] - result.window_ns[0] == expected).all()
    assert result.served == 300
    assert result.floor.count == (everything["state"] >> 8 == Phase.FLOOR).sum() > 50
    assert result.floor.p50_ns > 0
    assert result.dispatch_lag.count == 300
    assert result.hygiene.timer_slack_ns == 1
    assert set(measured["cpus"] & 0xFFFF) <= set(result.hygiene.cpus)
    assert set(result.tids) == {thread for thread in result.tids if thread != threading.get_native_id()}
    assert not any(thread.name.startswith("jp-worker") for thread in threading.enumerate())


def test_the_measured_schedule_does_not_depend_on_the_warm_up(tmp_path: Path) -> None:
    gaps = []
    for warmup in (0, 60_000_000):
        plan = LoadPlan(Poisson(2000.0), requests=50, warmup_ns=warmup, floor_ns=0, margin_ns=50_000)
        run_load(plan, [Null()], tmp_path / str(warmup))
        rows = read_rows(tmp_path / str(warmup) / "requests.0.stream")
        gaps.append(np.diff(rows["intended"][rows["state"] >> 8 == Phase.MEASURED]).tolist())
    assert gaps[0] == gaps[1]


def test_keyboard_interrupt_gives_a_valid_shorter_session(tmp_path: Path) -> None:
    class Interrupting:
        def infer(self, index: int) -> None:
            if index == 20:
                os.kill(os.getpid(), signal.SIGINT)

    plan = LoadPlan(Constant(1000.0), requests=5_000, warmup_ns=0, floor_ns=0, margin_ns=50_000)
    result = run_load(plan, [Interrupting()], tmp_path)
    assert result.stopped == "interrupted"
    assert 20 < result.served < 5_000
    assert len(read_rows(tmp_path / "requests.0.stream")) == result.served
    assert not result.saturated


@pytest.mark.parametrize("arrival", [Closed(), Constant(100.0)])
def test_procfs_counters_are_those_of_the_request(tmp_path: Path, arrival: Closed | Constant) -> None:
    """3 ms of CPU in each request, and 64 first touches in every other one."""
    size = 64 * mmap.PAGESIZE

    class Busy(Burn):
        def infer(self, index: int) -> None:
            super().infer(index)
            if index % 2:
                with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
                    memory.madvise(mmap.MADV_NOHUGEPAGE)
                    for page in range(0, size, mmap.PAGESIZE):
                        memory[page] = 1

    plan = LoadPlan(arrival, requests=20, warmup_ns=0, floor_ns=0, margin_ns=50_000, procfs=True)
    result = run_load(plan, [Busy()], tmp_path)
    counters = np.fromfile(tmp_path / "procfs.stream", dtype=PROCFS_ROW)
    rows = read_rows(tmp_path / "requests.0.stream")
    assert counters["seq"].tolist() == rows["seq"].tolist() == list(range(20))
    assert set(counters["tid"]) == set(result.tids)
    assert (counters["phase"] == Phase.MEASURED).all()
    assert (counters["minflt"][1::2] >= 64).all()
    assert np.median(counters["minflt"][::2]) < 16
    # A few preemptions in the gap around a request may be taken off wrongly; the bulk may not.
    assert 2_900_000 <= np.median(counters["cpu_ns"]) <= 6_000_000
    assert (counters["run_delay_ns"] >= 0).all()
    service = rows["end"] - rows["start"]
    assert (counters["cpu_ns"] <= service + 200_000).mean() > 0.8


def test_the_wait_before_a_request_is_not_its_cpu_time(tmp_path: Path) -> None:
    plan = LoadPlan(Constant(50.0), requests=20, warmup_ns=0, floor_ns=0, margin_ns=5_000_000, procfs=True)
    run_load(plan, [Null()], tmp_path)
    counters = np.fromfile(tmp_path / "procfs.stream", dtype=PROCFS_ROW)
    assert np.median(counters["cpu_ns"]) < 1_000_000


def test_collections_are_recorded_inside_the_requests_that_caused_them(tmp_path: Path) -> None:
    class Collecting:
        def infer(self, index: int) -> None:
            if index % 4 == 0:
                gc.collect(1)

    plan = LoadPlan(Constant(500.0), requests=20, warmup_ns=0, floor_ns=0, margin_ns=50_000)
    result = run_load(plan, [Collecting()], tmp_path)
    seen = np.fromfile(tmp_path / "gc.stream", dtype=GC_DTYPE)
    seen = seen[seen["generation"] == 1]
    rows = read_rows(tmp_path / "requests.0.stream")
    hit = rows[rows["seq"] % 4 == 0]
    assert len(seen) == len(hit) == 5
    assert (seen["start_ns"] >= hit["start"]).all()
    assert (seen["end_ns"] <= hit["end"]).all()
    assert set(seen["tid"]) == set(result.tids)


def test_more_collections_than_fit_are_counted_as_lost(tmp_path: Path) -> None:
    with GcRecorder(tmp_path / "gc.stream") as recorder:
        for _ in range(CAPACITY + 7):
            gc.collect(0)
        assert recorder.pending == CAPACITY
        recorder.flush()
        assert recorder.pending == 0
        gc.collect(0)
    assert recorder.dropped >= 7
    assert f"{recorder.dropped:,} garbage collections were not recorded" in recorder.caveats
    seen = np.fromfile(tmp_path / "gc.stream", dtype=GC_DTYPE)
    assert len(seen) >= CAPACITY + 1
    assert (np.diff(seen["start_ns"]) > 0).all()
    assert recorder._seen not in gc.callbacks
