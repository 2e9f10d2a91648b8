"""Garbage collections of the workload process, recorded so that the kernel is not blamed for them."""

import gc
import threading
import time
from pathlib import Path
from types import TracebackType

import numpy as np

from jitterprof.load.side_file import SideFile
from jitterprof.model.request import GC_DTYPE

_WORDS = 4
CAPACITY = 65536


class GcRecorder:
    """Appends every collection to `gc.stream`. Use as a context manager around the load.

    The callback only stores four words in a ring made beforehand; writing happens in `flush`, which the workers call
    between requests. `dropped` counts collections that found the ring full.
    """

    def __init__(self, path: Path) -> None:
        self._file = SideFile(path)
        self._ring = np.zeros((CAPACITY, _WORDS), dtype=np.int64)
        self._cells = self._ring.reshape(-1).data
        self._lock = threading.Lock()
        self._started = 0
        self._head = 0
        self._tail = 0
        self.dropped = 0

    def __enter__(self) -> "GcRecorder":
        gc.callbacks.append(self._seen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.callbacks.remove(self._seen)
        self.flush()
        self._file.close()

    def _seen(self, phase: str, info: dict[str, int]) -> None:
        # CPython never nests collections, so one start time is enough.
        if phase == "start":
            self._started = time.monotonic_ns()
            return
        if self._head - self._tail >= CAPACITY:
            self.dropped += 1
            return
        cell = self._head % CAPACITY * _WORDS
        cells = self._cells
        cells[cell + 2] = threading.get_native_id()
        cells[cell + 3] = info["generation"]
        cells[cell] = self._started
        cells[cell + 1] = time.monotonic_ns()
        self._head += 1

    @property
    def caveats(self) -> tuple[str, ...]:
        """What is missing from gc.stream, if anything."""
        lost = f"{self.dropped:,} garbage collections were not recorded" if self.dropped else ""
        return tuple(filter(None, (lost, self._file.error)))

    @property
    def pending(self) -> int:
        """Collections not yet written."""
        return self._head - self._tail

    def flush(self) -> None:
        """Writes what is pending, in batches of whole rows. Returns at once when another thread is at it."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            head = self._head
            if head == self._tail:
                return
            words = self._ring[np.arange(self._tail, head) % CAPACITY]
            rows = np.zeros(len(words), dtype=GC_DTYPE)
            rows["start_ns"], rows["end_ns"] = words[:, 0], words[:, 1]
            rows["tid"], rows["generation"] = words[:, 2], words[:, 3]
            self._file.append(rows.tobytes())
            self._tail = head
        finally:
            self._lock.release()
