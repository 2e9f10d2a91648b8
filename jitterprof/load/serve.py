"""The hot loops, the only ones of the program: take the next request, wait for its time, run it, write it down.

Between `start` and `end` there is the request and nothing else: no system call, no lock, no allocation of ours.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jitterprof.load.cpu import CPU
from jitterprof.load.worker import Worker
from jitterprof.model.request import Phase, Status
from jitterprof.units import NS_PER_MS

#: The longest sleep without a look at the stop cell, and the slack that is worth some housekeeping.
_NAP_NS = 100 * NS_PER_MS
_SLACK_NS = NS_PER_MS
_MARGIN_OF_ROWS = 2


@dataclass(frozen=True, slots=True)
class Paced:
    """Offsets of an open loop, ns after `base_ns`; the first `warm` of them are warm-up. `take`: next position."""

    offsets: memoryview
    count: int
    warm: int
    base_ns: int
    take: Iterator[int]
    first: Phase


@dataclass(frozen=True, slots=True)
class Unpaced:
    """A closed loop: warm-up until `measure_ns`, then at most `limit` requests until the stop cell's deadline."""

    start_ns: int
    measure_ns: int
    duration_ns: int
    limit: int | None
    take_warm: Iterator[int]
    take: Iterator[int]


def serve_open(worker: Worker, plan: Paced, infer: Callable[..., Any], mark: Callable[[], None] | None) -> None:
    now, sleep_until, cells = worker.setting.clock.now, worker.sleep_until, worker.cpu.cells
    stop, margin, record = worker.setting.stop.cell, worker.margin_ns, worker.record
    before = worker.counters.before if worker.counters is not None else None
    begins, ends = worker.snapshots() or (None, None)
    take, offsets, count, warm, base = plan.take, plan.offsets, plan.count, plan.warm, plan.base_ns
    phase, ok, error_status = plan.first, int(Status.OK), int(Status.ERROR)
    while (index := next(take)) < count:
        target = base + offsets[index]
        wake = target - margin
        at = now()
        if at >= stop[0]:
            return
        if wake > at:
            if wake - at > _SLACK_NS:
                worker.idle()
            while wake - at > _NAP_NS:
                sleep_until(at + _NAP_NS)
                at = now()
                if at >= stop[0]:
                    return
            sleep_until(wake)
        if index >= warm:
            index -= warm
            phase = Phase.MEASURED if plan.first is Phase.WARMUP else plan.first
        if before is not None:
            before()
        while True:
            cpu = cells[CPU]
            start = now()
            if start >= target:
                break
        if begins is not None:
            begins()
            cpu = cells[CPU]
            start = now()
        try:
            if mark is None:
                infer(index)
            else:
                infer(index, mark)
            end = now()
            cpu_end = cells[CPU]
            status = ok
        except Exception as error:
            end = now()
            cpu_end = cells[CPU]
            status = error_status
            worker.failed(error, end)
        if ends is not None:
            ends()
        record(phase, index, target, start, end, cpu, cpu_end, status)


def serve_closed(worker: Worker, plan: Unpaced, infer: Callable[..., Any], mark: Callable[[], None] | None) -> None:
    now, cells = worker.setting.clock.now, worker.cpu.cells
    stop, record = worker.setting.stop.cell, worker.record
    before = worker.counters.before if worker.counters is not None else None
    begins, ends = worker.snapshots() or (None, None)
    take, phase, ok, error_status = plan.take_warm, Phase.WARMUP, int(Status.OK), int(Status.ERROR)
    limit = None
    # The files are sized inside the warm-up, which may be shortened by it; the measured window may not.
    size_ns: int | None = plan.start_ns + (plan.measure_ns - plan.start_ns) * 3 // 4
    while (at := now()) < stop[0]:
        if size_ns is not None and at >= size_ns:
            _size_for_measured(worker, plan, at)
            size_ns = None
        if phase is Phase.WARMUP and at >= plan.measure_ns:
            take, phase, limit = plan.take, Phase.MEASURED, plan.limit
        index = next(take)
        if limit is not None and index >= limit:
            return
        if before is not None:
            before()
        if begins is not None:
            begins()
        cpu = cells[CPU]
        start = now()
        try:
            if mark is None:
                infer(index)
            else:
                infer(index, mark)
            end = now()
            cpu_end = cells[CPU]
            status = ok
        except Exception as error:
            end = now()
            cpu_end = cells[CPU]
            status = error_status
            worker.failed(error, end)
        if ends is not None:
            ends()
        record(phase, index, start, start, end, cpu, cpu_end, status)


def _size_for_measured(worker: Worker, plan: Unpaced, at: int) -> None:
    """Room for twice what the warm-up's rate promises. Should that not do, the file grows between two requests."""
    elapsed = at - plan.start_ns
    served = worker.rows.rows - worker.floor_rows
    rest = plan.measure_ns - at + plan.duration_ns
    expected = served * rest / elapsed if elapsed > 0 and served else 0.0
    worker.make_room(worker.rows.rows + max(1, plan.limit or 0, int(expected * _MARGIN_OF_ROWS)))
    worker.lock()
