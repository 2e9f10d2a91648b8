"""Reads the BPF ring buffer in bulk: one memory copy per drain, no Python call per record.

The protocol is that of Documentation/bpf/ringbuf.rst: a producer position, a consumer position, and records with an
8-byte header whose length word carries a busy and a discard bit.
"""

import mmap
import platform
import threading

import numpy as np
import numpy.typing as npt

from jitterprof.model.event import EVENT_DTYPE

# A record as words: a header (its length with two flags, in the low half) and the event. Words, because numpy copies
# rows of them ten times as fast as it copies structures.
_BUSY = np.uint64(1 << 31)
_DISCARD = np.uint64(1 << 30)
_EVENT_WORDS = EVENT_DTYPE.itemsize // 8
_RECORD_WORDS = 1 + _EVENT_WORDS
_RECORD_BYTES = 8 * _RECORD_WORDS


class _Fence:
    """A full memory barrier: between reading a position or a header and what it covers, and before giving space back.

    x86 keeps loads in order and stores in order, so there it is nothing. arm64 does not; a lock's release followed by
    an acquire is a full barrier there (STLR then LDAR are ordered, Arm ARM B2.3.7), and needs no C of our own.
    """

    def __init__(self, machine: str) -> None:
        self._lock = None if machine == "x86_64" else threading.Lock()
        if self._lock is not None:
            self._lock.acquire()

    def __call__(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock.acquire()


class Ring:
    """A mapped ring of `size` bytes (a power of two) that holds EVENT_DTYPE records only."""

    def __init__(self, map_fd: int, size: int, machine: str = platform.machine()) -> None:
        page = mmap.PAGESIZE
        self.size = size
        self._consumer_map = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # The kernel maps the data twice in a row, so that a record that wraps around is contiguous.
        self._producer_map = mmap.mmap(map_fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = np.frombuffer(self._consumer_map, np.uint64, 1)
        self._producer = np.frombuffer(self._producer_map, np.uint64, 1)
        self._data = np.frombuffer(self._producer_map, np.uint8, 2 * size, page)
        self._fence = _Fence(machine)

    def filled(self) -> float:
        """Share of the ring that waits to be read."""
        return (int(self._producer[0]) - int(self._consumer[0])) / self.size

    def read(self) -> npt.NDArray[np.void]:
        """A copy of all committed records (EVENT_DTYPE), up to one still being written; gives their space back."""
        start = int(self._consumer[0])
        count = (int(self._producer[0]) - start) // _RECORD_BYTES
        self._fence()
        if count <= 0:
            return np.empty(0, EVENT_DTYPE)
        offset = start & (self.size - 1)
        records = self._data[offset : offset + count * _RECORD_BYTES].view(np.uint64).reshape(count, _RECORD_WORDS)
        headers = records[:, 0].copy()
        self._fence()
        busy = np.flatnonzero(headers & _BUSY)
        if busy.size:
            records, headers = records[: busy[0]], headers[: busy[0]]
        discarded = (headers & _DISCARD) != 0
        words = records[~discarded, 1:] if discarded.any() else records[:, 1:].copy()
        self._fence()
        self._consumer[0] = start + len(records) * _RECORD_BYTES
        return np.ascontiguousarray(words).view(EVENT_DTYPE).reshape(len(words))

    def close(self) -> None:
        """Unmap. The arrays over the maps must go first."""
        del self._consumer, self._producer, self._data
        self._consumer_map.close()
        self._producer_map.close()
