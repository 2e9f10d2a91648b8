"""Follows the request rows of a measurement that is under way, without disturbing the workers that write them."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jitterprof.model.stream import (
    ROW_HEADER,
    ROW_MAGIC,
    ROW_PAGE,
    ROW_WORDS,
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
    def __init__(self, path: Path, worker: int) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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


class RowFollower:
    """The request rows of all workers in `folder` (model.stream), as they come."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder, self._missing = folder, list(range(workers))
        self._files: list[_File] = []

    def finished(self) -> npt.NDArray[np.void]:
        """FINISHED_DTYPE of the requests that ended since the last call, worker by worker in their order."""
        for worker in list(self._missing):
            try:
                self._files.append(_File(self._folder / f"requests.{worker}.stream", worker))
            except FileNotFoundError:
                continue
            self._missing.remove(worker)
        parts = [np.empty(0, FINISHED_DTYPE)]
        for file in self._files:
            while file.opened() and len(rows := file.read()):
                parts.append(self._described(file, rows))
        return np.concatenate(parts)

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
            os.close(file.descriptor)
        self._files.clear()
