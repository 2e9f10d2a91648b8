"""Follows the request rows of a measurement that is under way, without disturbing the workers that write them."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jitterprof.load.request_file import progress
from jitterprof.model.event import CLOCK_CLASSES, CLOCK_NS, CLOCK_VERSION
from jitterprof.model.stream import (
    CLOCK_RING,
    CLOCK_ROW,
    ROW_HEADER,
    ROW_MAGIC,
    ROW_PAGE,
    ROW_WORDS,
    STATE_DTYPE,
    WORD_END,
    WORD_INTENDED,
    WORD_SEQ,
    WORD_START,
    WORD_STATE,
)

#: A finished request: `seq` and `phase` as in its row. `ready_ns`: when its worker had finished the one before it, at
#: least `intended_ns` and at most `start_ns`.
FINISHED_DTYPE = np.dtype(
    [
        ("intended_ns", "<i8"),
        ("ready_ns", "<i8"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("seq", "<i8"),
        ("tid", "<i4"),
        ("worker", "<i2"),
        ("phase", "u1"),
    ]
)
_ROW_BYTES = 8 * ROW_WORDS
_READ_ROWS = 4096


class _File:
    def __init__(self, folder: Path, worker: int) -> None:
        self._path = folder / f"requests.{worker}.stream"
        self.descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._clocks = folder / f"clocks.{worker}.stream"
        self._clock_descriptor = -1
        self.worker, self.tid, self.rows, self.last_end = worker, 0, 0, 0

    def opened(self) -> bool:
        """Whether its worker has written the header."""
        if not self.tid:
            header = os.pread(self.descriptor, ROW_HEADER.size, 0)
            if len(header) == ROW_HEADER.size and header[:4] == ROW_MAGIC:
                self.tid = ROW_HEADER.unpack(header)[3]
        return self.tid != 0

    def read(self) -> npt.NDArray[np.int64]:
        """The next complete rows, some thousand at most."""
        at, size = ROW_PAGE + self.rows * _ROW_BYTES, _READ_ROWS * _ROW_BYTES
        whole = len(seen := os.pread(self.descriptor, size, at)) // _ROW_BYTES
        ends = np.frombuffer(seen, "<i8", whole * ROW_WORDS).reshape(whole, ROW_WORDS)[:, WORD_END]
        complete = int(np.append(ends == 0, True).argmax())
        # END is written last. Only what is read after it was seen is certainly whole.
        again = os.pread(self.descriptor, complete * _ROW_BYTES, at)
        rows = np.frombuffer(again, "<i8").reshape(complete, ROW_WORDS)
        self.rows += complete
        return rows

    def grown(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
        """STATE_DTYPE of the rows that were read last, as far as their clocks are there still and whole."""
        if self._clock_descriptor < 0:
            if not self._clocks.exists():
                return np.empty(0, STATE_DTYPE)
            self._clock_descriptor = os.open(self._clocks, os.O_RDONLY | os.O_CLOEXEC)
        first = (self.rows - len(rows)) % CLOCK_RING
        until_wrap = min(len(rows), CLOCK_RING - first)
        clocks = np.concatenate([self._read_clocks(first, until_wrap), self._read_clocks(0, len(rows) - until_wrap)])
        # The worker may have come round meanwhile: of what it has written since, the places are gone.
        lost = max(0, progress(self._path).rows + 1 - CLOCK_RING - (self.rows - len(rows)))
        rows, clocks = rows[lost : len(clocks)], clocks[lost:]
        begin, end = clocks["begin"], clocks["end"]
        torn = (begin[:, CLOCK_VERSION] | end[:, CLOCK_VERSION]) & np.uint64(1) != 0
        # A slot that was never written has no thread.
        whole = ~torn & end.any(axis=1)
        states = np.zeros(int(whole.sum()), STATE_DTYPE)
        states["seq"], states["phase"] = rows[whole, WORD_SEQ], rows[whole, WORD_STATE] >> 8 & 0xFF
        states["tid"] = self.tid
        for word, name in enumerate(CLOCK_CLASSES, CLOCK_NS):
            if name in (STATE_DTYPE.names or ()):
                states[name] = (end[whole, word] - begin[whole, word]).astype(np.int64)
        return states

    def _read_clocks(self, first: int, count: int) -> npt.NDArray[np.void]:
        data = os.pread(self._clock_descriptor, count * CLOCK_ROW.itemsize, first * CLOCK_ROW.itemsize)
        return np.frombuffer(data, CLOCK_ROW, len(data) // CLOCK_ROW.itemsize)

    def close(self) -> None:
        for descriptor in (self.descriptor, self._clock_descriptor):
            if descriptor >= 0:
                os.close(descriptor)


class RowFollower:
    """The request rows of all workers in `folder` (model.stream), as they come, and their state clocks."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder, self._missing = folder, list(range(workers))
        self._files: list[_File] = []
        self._states: list[npt.NDArray[np.void]] = []

    def finished(self) -> npt.NDArray[np.void]:
        """FINISHED_DTYPE of the requests that ended since the last call, worker by worker in their order."""
        for worker in list(self._missing):
            try:
                self._files.append(_File(self._folder, worker))
            except FileNotFoundError:
                continue
            self._missing.remove(worker)
        parts = [np.empty(0, FINISHED_DTYPE)]
        for file in self._files:
            while file.opened() and len(rows := file.read()):
                parts.append(self._described(file, rows))
                self._states.append(file.grown(rows))
        return np.concatenate(parts)

    def states(self) -> npt.NDArray[np.void]:
        """STATE_DTYPE of the requests that `finished` has told of since the last call."""
        parts, self._states = self._states, []
        return np.concatenate([np.empty(0, STATE_DTYPE), *parts])

    @staticmethod
    def _described(file: _File, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
        part = np.zeros(len(rows), FINISHED_DTYPE)
        intended, start, end = rows[:, WORD_INTENDED], rows[:, WORD_START], rows[:, WORD_END]
        previous = np.maximum.accumulate(np.append(file.last_end, end))
        file.last_end = int(previous[-1])
        part["intended_ns"], part["start_ns"], part["end_ns"] = intended, start, end
        part["ready_ns"] = np.minimum(np.maximum(previous[:-1], intended), start)
        part["seq"], part["phase"] = rows[:, WORD_SEQ], rows[:, WORD_STATE] >> 8 & 0xFF
        part["tid"], part["worker"] = file.tid, file.worker
        return part

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        self._files.clear()
