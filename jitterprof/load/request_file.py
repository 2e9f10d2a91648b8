"""requests.N.stream, tokens.N.stream and clocks.N.stream: preallocated, mapped, and cheap to append to.

Layouts: model/stream.py. Disk space is taken when a file is made or grown, so a full disk shows before it could
become a bus error in the middle of a measurement.
"""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jitterprof.errors import JitterprofError
from jitterprof.model.event import CLOCK_WORDS
from jitterprof.model.request import Kind, Phase
from jitterprof.model.stream import (
    CLOCK_ROW,
    ROW_HEADER,
    ROW_MAGIC,
    ROW_PAGE,
    ROW_VERSION,
    ROW_WORDS,
    WORD_END,
    WORD_STATE,
)

WORD = 8
ROW_BYTES = ROW_WORDS * WORD
ROW_DTYPE = np.dtype(
    [(name, "<i8") for name in ("intended", "start", "end", "cpus", "state", "shape", "seq", "parent")]
)
#: Touching brings pages in and dirties them (about 3 ms a MB); a million rows is where it stops to pay.
TOUCH_BYTES = 64 << 20


def _allocate(file: int, path: Path, size: int) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        raise JitterprofError(
            f"cannot reserve {size / (1 << 20):,.1f} MB for {path}: {error.strerror}",
            "free some space, choose another --out directory, or shorten the session",
        ) from None


class MappedFile:
    """A file of fixed-size records, `offset` bytes in, with room for `capacity` of them, all of it on disk already."""

    def __init__(self, path: Path, offset: int, record: int, capacity: int) -> None:
        self.path = path
        self._offset, self._record = offset, record
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise JitterprofError(f"cannot write {path}: {error.strerror}", "choose another --out directory") from None
        self.capacity = 0
        self.map: mmap.mmap
        self.bytes: memoryview
        try:
            self._reserve(max(capacity, 1))
        except JitterprofError:
            os.close(self._file)
            raise

    def _reserve(self, capacity: int) -> None:
        size = self._offset + capacity * self._record
        _allocate(self._file, self.path, size)
        fresh = mmap.mmap(self._file, size)
        old = self._offset + self.capacity * self._record if self.capacity else 0
        if old:
            self.bytes.release()
            self.map.close()
        self.map, self.bytes, self.capacity = fresh, memoryview(fresh), capacity
        # Write to each new page once: the first store to a page of a file costs a fault and a filesystem call.
        pages = np.frombuffer(fresh, dtype=np.uint8)[old : old + TOUCH_BYTES : mmap.PAGESIZE]
        pages[:] = 0
        del pages

    def grow(self, capacity: int) -> None:
        """Room for `capacity` records. Views handed out before are no longer valid. Raises JitterprofError."""
        if capacity > self.capacity:
            self._reserve(capacity)

    def close(self, records: int) -> None:
        """Gives back what was not used and unmaps."""
        self.bytes.release()
        self.map.close()
        os.ftruncate(self._file, self._offset + records * self._record)
        os.close(self._file)


class RowFile(MappedFile):
    """Rows of ROW_WORDS int64 written by one worker. `rows`: how many are complete."""

    def __init__(self, path: Path, kind: Kind, worker: int, tid: int, capacity: int) -> None:
        super().__init__(path, ROW_PAGE, ROW_BYTES, capacity)
        self._kind, self._worker, self._tid = kind, worker, tid
        self.rows = 0
        self._header(self.capacity)

    def _header(self, capacity: int) -> None:
        ROW_HEADER.pack_into(self.bytes, 0, ROW_MAGIC, ROW_VERSION, self._worker, self._tid, int(self._kind), capacity)

    def grow(self, capacity: int) -> None:
        """Room for `capacity` rows. Raises JitterprofError when the disk is full; the file stays usable."""
        super().grow(capacity)
        self._header(self.capacity)

    def finish(self) -> None:
        """Cuts the file to its rows and closes it."""
        self._header(self.rows)
        self.close(self.rows)


class ClockFile(MappedFile):
    """Two snapshots of a thread's state clock per row of the request file."""

    def __init__(self, path: Path, capacity: int) -> None:
        super().__init__(path, 0, CLOCK_ROW.itemsize, capacity)

    def snapshots(self) -> memoryview:
        """The file as u64 words: begin of row r at r * 48, end at r * 48 + 24."""
        return self.bytes.cast("Q")


CLOCK_ROW_WORDS = 2 * CLOCK_WORDS


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a worker is: complete rows, and phase and end time of the last one."""

    rows: int = 0
    phase: Phase = Phase.FLOOR
    last_end_ns: int = 0


def progress(path: Path) -> Progress:
    """Reads a file that may still be written, without disturbing its writer: a few reads, by bisection.

    Rows fill up in order, so the first whose END is zero ends the file. A missing or unfinished file has no rows.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Progress()
    try:

        def row(index: int) -> npt.NDArray[np.int64]:
            data = os.pread(file, ROW_BYTES, ROW_PAGE + index * ROW_BYTES)
            return np.frombuffer(data if len(data) == ROW_BYTES else bytes(ROW_BYTES), dtype="<i8")

        low, high = 0, max(0, (os.fstat(file).st_size - ROW_PAGE) // ROW_BYTES)
        while low < high:
            middle = (low + high) // 2
            if row(middle)[WORD_END]:
                low = middle + 1
            else:
                high = middle
        if not low:
            return Progress()
        last = row(low - 1)
        return Progress(low, Phase(int(last[WORD_STATE]) >> 8 & 0xFF), int(last[WORD_END]))
    finally:
        os.close(file)


def read_rows(path: Path) -> npt.NDArray[np.void]:
    """The complete rows of a row file as ROW_DTYPE, for the generator's own summary; the store has its reader."""
    data: npt.NDArray[np.void] = np.fromfile(path, dtype=ROW_DTYPE, offset=ROW_PAGE)
    return np.compress(data["end"] != 0, data)
