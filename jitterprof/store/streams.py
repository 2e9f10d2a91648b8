"""The append-only files of a session that is being recorded: writer of events, readers of everything (model.stream)."""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from jitterprof.errors import RunFileError
from jitterprof.model.event import EVENT_DTYPE
from jitterprof.model.request import Kind
from jitterprof.model.stream import (
    BATCH_HEADER,
    BATCH_MAGIC,
    CLOCK_ROW,
    ROW_HEADER,
    ROW_MAGIC,
    ROW_PAGE,
    ROW_VERSION,
    ROW_WORDS,
    STATE_DTYPE,
    STATE_HEADER,
    STATE_MAGIC,
    WORD_END,
)

CANARY_STREAM = "canary.stream"
SAMPLE_STREAM = "samples.stream"
EVENT_STREAM = "events.stream"
GC_STREAM = "gc.stream"
PROCFS_STREAM = "procfs.stream"
WINDOW_STREAM = "windows.stream"
LOSS_STREAM = "losses.stream"
STATE_STREAM = "states.stream"


class _Appender:
    """Appends to `path`. After an error the file ends with what was written before."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._length = os.fstat(self._descriptor).st_size

    @property
    def length(self) -> int:
        """Bytes in the file."""
        return self._length

    def _append(self, *parts: memoryview) -> None:
        left = list(parts)
        try:
            while left:
                written = os.writev(self._descriptor, left)
                while left and written >= left[0].nbytes:
                    written -= left.pop(0).nbytes
                if left:
                    left[0] = left[0][written:]
        except OSError:
            os.ftruncate(self._descriptor, self._length)
            raise
        self._length += sum(part.nbytes for part in parts)

    def close(self) -> None:
        """Write back to the disk and close. Raises OSError."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class EventStream(_Appender):
    """Appends batches of events to `path`. After an error the file ends with the last full batch."""

    def write_batch(self, events: npt.NDArray[np.void]) -> None:
        """Append `events` (EVENT_DTYPE) as one batch. Raises OSError; the batch is then not in the file."""
        if not len(events):
            return
        payload = np.ascontiguousarray(events, EVENT_DTYPE).view(np.uint8).data
        self._append(memoryview(BATCH_HEADER.pack(BATCH_MAGIC, len(events), zlib.crc32(payload), 0)), payload)


class RecordStream(_Appender):
    """Appends rows as raw bytes, as `read_records` reads them."""

    def write(self, rows: npt.NDArray[np.void]) -> None:
        """Append `rows`. Raises OSError; they are then not in the file."""
        if len(rows):
            self._append(np.ascontiguousarray(rows).view(np.uint8).data)


class StateStream(_Appender):
    """Appends batches of STATE_DTYPE; most of it is zeros, so it is compressed."""

    def write(self, rows: npt.NDArray[np.void]) -> None:
        """Append `rows` as one batch. Raises OSError; the batch is then not in the file."""
        if len(rows):
            payload = zlib.compress(np.ascontiguousarray(rows, STATE_DTYPE).view(np.uint8).data, 1)
            header = STATE_HEADER.pack(STATE_MAGIC, len(rows), zlib.crc32(payload), len(payload))
            self._append(memoryview(header), memoryview(payload))


def read_states(path: Path) -> npt.NDArray[np.void]:
    """STATE_DTYPE of every full batch of `path`, up to the first that is torn; no file: none."""
    parts = [np.empty(0, STATE_DTYPE)]
    content = _bytes_of(path) if path.is_file() else np.empty(0, np.uint8)
    position = 0
    while position + STATE_HEADER.size <= len(content):
        magic, count, checksum, size = STATE_HEADER.unpack_from(content.data, position)
        payload = content[position + STATE_HEADER.size : position + STATE_HEADER.size + size]
        if magic != STATE_MAGIC or len(payload) < size or zlib.crc32(payload.data) != checksum:
            break
        parts.append(np.frombuffer(zlib.decompress(payload.data), STATE_DTYPE, count))
        position += STATE_HEADER.size + size
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class EventFile:
    """`events`: EVENT_DTYPE in file order. `dropped_bytes`: a torn or corrupt tail that was left out (0: none)."""

    events: npt.NDArray[np.void]
    dropped_bytes: int


def read_events(path: Path) -> EventFile:
    """Every full batch of `path` up to the first that is torn or fails its checksum; no file: no events.

    Raises RunFileError where the file is not an event stream at all.
    """
    if not path.is_file():
        return EventFile(np.empty(0, EVENT_DTYPE), 0)
    content = _bytes_of(path)
    batches: list[npt.NDArray[np.void]] = []
    position = 0
    while position + BATCH_HEADER.size <= len(content):
        magic, count, checksum, _ = BATCH_HEADER.unpack_from(content.data, position)
        end = position + BATCH_HEADER.size + count * EVENT_DTYPE.itemsize
        if magic != BATCH_MAGIC or end > len(content):
            break
        payload = content[position + BATCH_HEADER.size : end]
        if zlib.crc32(payload.data) != checksum:
            break
        batches.append(payload.view(EVENT_DTYPE))
        position = end
    if position == 0 and len(content) >= 4 and content[:4].any() and content[:4].tobytes() != BATCH_MAGIC:
        raise RunFileError(f"{path} is not an event stream", "the file was overwritten by something else")
    events = np.concatenate(batches) if batches else np.empty(0, EVENT_DTYPE)
    return EventFile(events, len(content) - position)


@dataclass(frozen=True, slots=True)
class RowFile:
    """One worker's `requests.N.stream` or `tokens.N.stream`: the complete rows, int64[n, ROW_WORDS]."""

    worker: int
    tid: int
    kind: Kind
    rows: npt.NDArray[np.int64]


def read_rows(path: Path) -> RowFile | None:
    """The rows of `path` up to the first whose END word is 0; None when its worker died before writing the header.

    Raises RunFileError where the header is foreign or of another layout.
    """
    content = _bytes_of(path)
    if len(content) < ROW_HEADER.size or not content[: ROW_HEADER.size].any():
        return None
    magic, version, worker, tid, kind, capacity = ROW_HEADER.unpack_from(content.data, 0)
    if magic != ROW_MAGIC:
        raise RunFileError(f"{path} is not a request stream", "the file was overwritten by something else")
    if version != ROW_VERSION or kind not in tuple(Kind):
        raise RunFileError(
            f"{path} has layout {version} and kind {kind}; this version reads layout {ROW_VERSION}",
            "upgrade jitterprof",
        )
    room = min(capacity, max(0, len(content) - ROW_PAGE) // (8 * ROW_WORDS))
    rows = content[ROW_PAGE : ROW_PAGE + room * 8 * ROW_WORDS].view("<i8").reshape(room, ROW_WORDS)
    open_rows = np.flatnonzero(rows[:, WORD_END] == 0)
    return RowFile(worker, tid, Kind(kind), np.array(rows[: open_rows[0] if len(open_rows) else room]))


def read_records(path: Path, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """The complete records of a file of raw `dtype` rows (gc, procfs, clocks); no file: none."""
    if not path.is_file():
        return np.empty(0, dtype)
    content = _bytes_of(path)
    whole = len(content) // dtype.itemsize * dtype.itemsize
    return np.array(content[:whole].view(dtype))


def read_clocks(path: Path, rows: int) -> npt.NDArray[np.void]:
    """CLOCK_ROW of the first `rows` requests of a worker (fewer where the file is shorter)."""
    return read_records(path, CLOCK_ROW)[:rows]


def _bytes_of(path: Path) -> npt.NDArray[np.uint8]:
    try:
        return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    except OSError as error:
        raise RunFileError(f"cannot read {path}: {error.strerror}", "check the rights on the run directory") from error
