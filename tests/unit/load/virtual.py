"""Virtual time for the generator's threads: nobody waits for real, and every figure comes out exact."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jitterprof.load.clock import Clock
from jitterprof.load.generator import LoadPlan, run_load
from jitterprof.load.outcome import GeneratorResult
from jitterprof.load.request_file import read_rows
from jitterprof.model.request import Phase

MS = 1_000_000
S = 1000 * MS


class VirtualTime:
    """Time moves on, to the earliest waiter, once every living worker thread waits for it."""

    def __init__(self) -> None:
        self.time = 1000 * S
        self._changed = threading.Condition()
        self._waiting: dict[int, int] = {}
        self.clock = Clock(lambda: self.time, lambda: self.sleep_until)

    @staticmethod
    def _workers() -> int:
        return sum(thread.name.startswith("jp-worker-") for thread in threading.enumerate())

    def sleep_until(self, deadline: int) -> None:
        me = threading.get_ident()
        with self._changed:
            self._waiting[me] = deadline
            while self.time < deadline:
                if len(self._waiting) >= self._workers():
                    self.time = max(self.time, min(self._waiting.values()))
                    self._changed.notify_all()
                if self.time < deadline:
                    self._changed.wait(0.001)  # a worker that ends tells nobody
            del self._waiting[me]

    def work(self, ns: int) -> None:
        self.sleep_until(self.time + ns)


class Server:
    """A stream whose request `index` takes `service(index)` ns, or raises what `service` raises."""

    def __init__(self, time: VirtualTime, service: Callable[[int], int]) -> None:
        self.time, self.service = time, service
        self.seen: list[int] = []

    def infer(self, index: int, mark: Callable[[], None] | None = None) -> None:
        self.seen.append(index)
        self.time.work(self.service(index))


def serve(
    plan: LoadPlan, out: Path, service: Callable[[int], int], workers: int = 1, **options: Any
) -> tuple[GeneratorResult, npt.NDArray[np.void]]:
    """Runs `plan` in virtual time; the measured rows by seq."""
    time = VirtualTime()
    return run(plan, out, time, [Server(time, service) for _ in range(workers)], **options)


def run(
    plan: LoadPlan, out: Path, time: VirtualTime, streams: Sequence[Any], **options: Any
) -> tuple[GeneratorResult, npt.NDArray[np.void]]:
    """Runs `plan` on `streams` in virtual time; the measured rows by seq."""
    result = run_load(plan, streams, out, clock=time.clock, **options)
    rows = np.concatenate([read_rows(out / f"requests.{worker}.stream") for worker in range(len(streams))])
    rows = rows[rows["state"] >> 8 == Phase.MEASURED]
    return result, rows[np.argsort(rows["seq"])]


def virtual(arrival: Any, **changes: Any) -> LoadPlan:
    """A plan for virtual time: nothing to calibrate, no floor, no warm-up unless asked for."""
    return LoadPlan(arrival, **{"floor_ns": 0, "warmup_ns": 0, "margin_ns": 0, **changes})
