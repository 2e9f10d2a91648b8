"""The load generator: serves a schedule on worker threads and writes down when everything happened.

This module agrees on phases and times; the loops themselves are in `serve.py`.
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jitterprof.errors import JitterprofError, SpecError
from jitterprof.load.arrival import Arrival, Closed, Constant, Offsets, Replay, schedule, warmup_schedule
from jitterprof.load.clock import MONOTONIC, Clock
from jitterprof.load.collector import GcRecorder
from jitterprof.load.hygiene import release_gc, settle_gc
from jitterprof.load.outcome import GeneratorResult, summarise
from jitterprof.load.serve import Paced, Unpaced, serve_closed, serve_open
from jitterprof.load.side_file import SideFile
from jitterprof.load.stop import StopCell
from jitterprof.load.worker import Setting, StateClocks, Worker
from jitterprof.model.request import Phase
from jitterprof.units import NS_PER_MS, NS_PER_S

FLOOR_NS = 2 * NS_PER_S
#: Floor of a closed loop: what a wake-up and a dispatch cost when the process is asked a thousand times a second.
CLOSED_FLOOR = Constant(1000.0)
_FLOOR_MIN = 100
#: Time between "all workers are ready" and the first intended start.
_LEAD_NS = 5 * NS_PER_MS
#: An open loop that is this late at the end of its window (or 10 % of the window) is not served to the end.
_OVERRUN_NS = 2 * NS_PER_S
_FIRST_ROWS = 65_536


class Stream(Protocol):
    """See docs/ARCHITECTURE.md: `infer(index)`, or `infer(index, mark)` where tokens are emitted."""

    @property
    def infer(self) -> Callable[..., Any]: ...


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to serve. `requests`, where given, replaces `duration_ns`. `margin_ns` None: calibrated.

    `max_tokens`: marks per request at most (0: unknown), used to size the token file only.
    """

    arrival: Arrival
    duration_ns: int = 30 * NS_PER_S
    requests: int | None = None
    warmup_ns: int = 2 * NS_PER_S
    floor_ns: int = FLOOR_NS
    seed: int = 0
    gc: str = "frozen"
    emits_tokens: bool = False
    max_tokens: int = 0
    procfs: bool = False
    margin_ns: int | None = None
    abort_after: int = 10
    timer_slack_ns: int = 1


def _null(index: int) -> None:
    """The floor's request."""


def _floor_offsets(plan: LoadPlan, seed: np.random.SeedSequence) -> Offsets:
    if plan.floor_ns <= 0:
        return np.empty(0, dtype=np.int64)
    match plan.arrival:
        case Closed():
            return schedule(CLOSED_FLOOR, plan.floor_ns, None)
        case Replay(offsets=offsets) if int((offsets < plan.floor_ns).sum()) < _FLOOR_MIN:
            return schedule(CLOSED_FLOOR, plan.floor_ns, None)
        case arrival:
            try:
                return schedule(arrival, plan.floor_ns, None, seed)
            except SpecError:  # so slow that none falls into the floor
                return schedule(CLOSED_FLOOR, plan.floor_ns, None)


@dataclass(frozen=True, slots=True)
class _Schedules:
    """Offsets of the floor, and of warm-up and measurement together (empty for a closed loop)."""

    floor: Offsets
    paced: Offsets
    warm: int
    measured_ns: int


def _schedules(plan: LoadPlan) -> _Schedules:
    # One seed per random dimension: a longer warm-up must not change the measured schedule.
    floor_seed, warm_seed, seed = np.random.SeedSequence(plan.seed).spawn(3)
    floor = _floor_offsets(plan, floor_seed)
    if isinstance(plan.arrival, Closed):
        return _Schedules(floor, np.empty(0, dtype=np.int64), 0, 0)
    warm, seam = warmup_schedule(plan.arrival, plan.warmup_ns, warm_seed)
    measured = schedule(plan.arrival, plan.duration_ns, plan.requests, seed)
    return _Schedules(floor, np.concatenate([warm, measured + seam]), len(warm), seam)


class _Load:
    """One run of the generator: the threads and what they agree on at the barriers."""

    def __init__(self, plan: LoadPlan, streams: Sequence[Stream], setting: Setting, schedules: _Schedules) -> None:
        self.plan, self.streams, self.setting, self.schedules = plan, streams, setting, schedules
        self.workers: list[Worker | None] = [None] * len(streams)
        self.errors: list[BaseException] = []
        self.floor: Paced | None = None
        self.main: Paced | Unpaced | None = None
        self.measure_ns = 0
        self._done = [threading.Event() for _ in streams]
        self._ready = threading.Barrier(len(streams), self._begin_floor)
        self._warm = threading.Barrier(len(streams), self._begin_main)

    def _begin_floor(self) -> None:
        offsets = self.schedules.floor
        base = self.setting.clock.now() + _LEAD_NS
        self.floor = Paced(_cells(offsets), len(offsets), 0, base, itertools.count(), Phase.FLOOR)

    def _begin_main(self) -> None:
        plan, schedules = self.plan, self.schedules
        base = self.setting.clock.now() + _LEAD_NS
        if isinstance(plan.arrival, Closed):
            duration = plan.duration_ns if plan.requests is None else 0
            base -= _LEAD_NS
            self.measure_ns = base + plan.warmup_ns
            self.main = Unpaced(base, self.measure_ns, duration, plan.requests, itertools.count(), itertools.count())
            if plan.requests is None:
                self.setting.stop.arm(self.measure_ns + duration)
            return
        self.measure_ns = base + schedules.measured_ns
        last = int(schedules.paced[-1]) - schedules.measured_ns
        window = plan.duration_ns if plan.requests is None else last
        self.setting.stop.arm(self.measure_ns + window + max(_OVERRUN_NS, window // 10))
        self.main = Paced(
            _cells(schedules.paced), len(schedules.paced), schedules.warm, base, itertools.count(), Phase.WARMUP
        )

    def _work(self, number: int) -> None:
        worker = None
        try:
            worker = self.workers[number] = Worker(number, self.setting)
            self._ready.wait()
            assert self.floor is not None
            serve_open(worker, self.floor, _null, None)
            worker.floor_rows = worker.rows.rows
            self._warm.wait()
            infer, mark = self.streams[number].infer, worker.mark()
            match self.main:
                case Paced() as paced:
                    serve_open(worker, paced, infer, mark)
                case Unpaced() as unpaced:
                    serve_closed(worker, unpaced, infer, mark)
        except BaseException as error:
            # A sibling's broken barrier is the echo of an error already kept.
            if not isinstance(error, threading.BrokenBarrierError):
                self.errors.append(error)
            self.setting.stop.request("a worker thread died")
            self._ready.abort()
            self._warm.abort()
        finally:
            try:
                if worker is not None:
                    worker.close()
            except BaseException as error:
                self.errors.append(error)
            finally:
                self._done[number].set()

    def serve(self) -> None:
        """Returns when all workers are done; raises what killed one."""
        threads = [
            threading.Thread(target=self._work, args=(number,), name=f"jp-worker-{number}")
            for number in range(len(self.streams))
        ]
        for thread in threads:
            thread.start()
        # Not thread.join: an interrupt there makes Python 3.11 take a running thread for a finished one (bpo-45274).
        for done in self._done:
            while not done.is_set():
                try:
                    done.wait()
                except KeyboardInterrupt:
                    self.setting.stop.request("interrupted")
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


def _cells(offsets: Offsets) -> memoryview:
    """Reading a plain memoryview gives an int; reading a numpy array would make an object that is slow to add."""
    return np.ascontiguousarray(offsets, dtype=np.int64).data


def _first_rows(plan: LoadPlan, schedules: _Schedules) -> int:
    if not isinstance(plan.arrival, Closed):
        return len(schedules.floor) + len(schedules.paced)
    return len(schedules.floor) + (plan.requests or 0) + _FIRST_ROWS


def run_load(
    plan: LoadPlan,
    streams: Sequence[Stream],
    out_dir: Path,
    *,
    shape_of: Callable[[int], int] | None = None,
    clocks: StateClocks | None = None,
    stop: StopCell | None = None,
    clock: Clock = MONOTONIC,
) -> GeneratorResult:
    """Floor, warm-up and measurement on one thread per stream; rows go to `out_dir` (layouts: model/stream.py).

    `shape_of(index)` is the input shape of a request. `stop` ends the session early, as does KeyboardInterrupt in the
    calling thread; either way the files are valid. Requests that raise are rows with Status.ERROR. Raises SpecError
    for a plan that makes no sense, JitterprofError when the files cannot be made, and whatever kills a worker.
    """
    if not streams:
        raise SpecError("a measurement needs at least one worker", "use --workers 1 or more")
    if plan.seed < 0:
        raise SpecError(f"seed {plan.seed} is negative", "use 0 or more")
    schedules = _schedules(plan)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JitterprofError(f"cannot make {out_dir}: {error.strerror}", "choose another --out directory") from None
    stop = stop or StopCell()
    rows = _first_rows(plan, schedules)
    procfs = SideFile(out_dir / "procfs.stream") if plan.procfs else None
    span = int(schedules.paced[-1]) if len(schedules.paced) else 0
    caveats: list[str] = []
    with GcRecorder(out_dir / "gc.stream") as collections:
        setting = Setting(
            out_dir=out_dir,
            clock=clock,
            stop=stop,
            gc=collections,
            rows=rows,
            tokens=rows * max(plan.max_tokens, 1) if plan.emits_tokens else 0,
            alone=len(streams) == 1,
            mean_gap_ns=span // len(schedules.paced) if span else round(NS_PER_S / CLOSED_FLOOR.rate),
            margin_ns=plan.margin_ns,
            shape_of=shape_of,
            clocks=clocks,
            procfs=procfs,
            abort_after=plan.abort_after,
            timer_slack_ns=plan.timer_slack_ns,
        )
        load = _Load(plan, streams, setting, schedules)
        settle_gc(plan.gc)
        try:
            load.serve()
        finally:
            caveats.append(release_gc(plan.gc))
            if procfs is not None:
                procfs.close()
                caveats.append(procfs.error)
    caveats.extend(collections.caveats)
    workers = [worker for worker in load.workers if worker is not None]
    return summarise(
        None if plan.requests is not None else plan.duration_ns,
        schedules.paced[schedules.warm :],
        load.measure_ns,
        workers,
        stop,
        out_dir,
        plan.gc,
        tuple(filter(None, caveats)),
    )
