"""The ring reader on a memfd laid out as the kernel lays out a BPF ring buffer (kernel/bpf/ringbuf.c)."""

import mmap
import os
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from jitterprof.model.event import EVENT_DTYPE
from jitterprof.trace.ring import Ring

PAGE = mmap.PAGESIZE
SIZE = PAGE
BUSY, DISCARD = 1 << 31, 1 << 30
RECORD = 8 + EVENT_DTYPE.itemsize


class Kernel:
    """The producer: page 0 holds the consumer position, page 1 the producer position, then the data, twice."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self.map = mmap.mmap(self.fd, 2 * PAGE + 2 * SIZE)
        self.next_seq = 0

    @property
    def consumer(self) -> int:
        return struct.unpack_from("<Q", self.map, 0)[0]

    @property
    def producer(self) -> int:
        return struct.unpack_from("<Q", self.map, PAGE)[0]

    def start_at(self, position: int) -> None:
        struct.pack_into("<Q", self.map, 0, position)
        struct.pack_into("<Q", self.map, PAGE, position)

    def _store(self, position: int, data: bytes) -> None:
        for index, byte in enumerate(data):
            at = 2 * PAGE + (position + index) % SIZE
            self.map[at] = self.map[at + SIZE] = byte

    def reserve(self, flags: int = BUSY) -> int:
        """Returns the record's position."""
        position = self.producer
        assert position + RECORD - self.consumer <= SIZE, "the test overfills the ring"
        event = np.zeros(1, EVENT_DTYPE)
        event["seq"], event["ts"], event["b"] = self.next_seq, 1000 + self.next_seq, ~np.uint64(self.next_seq)
        self.next_seq += 1
        self._store(position, struct.pack("<II", EVENT_DTYPE.itemsize | flags, 0) + event.tobytes())
        struct.pack_into("<Q", self.map, PAGE, position + RECORD)
        return position

    def commit(self, position: int, discard: bool = False) -> None:
        self._store(position, struct.pack("<I", EVENT_DTYPE.itemsize | (DISCARD if discard else 0)))

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            self.reserve(0)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    os.close(kernel.fd)


@pytest.fixture(params=["x86_64", "aarch64"])
def ring(kernel: Kernel, request: pytest.FixtureRequest) -> Ring:
    return Ring(kernel.fd, SIZE, request.param)


def seqs(ring: Ring) -> list[int]:
    events = ring.read()
    assert events.dtype == EVENT_DTYPE and events.flags["C_CONTIGUOUS"]
    assert events["ts"].tolist() == [1000 + seq for seq in events["seq"].tolist()]
    assert events["b"].tolist() == [2**64 - 1 - seq for seq in events["seq"].tolist()]
    return events["seq"].tolist()


def test_an_empty_ring_gives_nothing(ring: Ring, kernel: Kernel) -> None:
    assert seqs(ring) == []
    assert ring.filled() == 0
    assert kernel.consumer == 0


def test_records_come_once_and_their_space_goes_back(ring: Ring, kernel: Kernel) -> None:
    kernel.write(3)
    assert ring.filled() == 3 * RECORD / SIZE
    assert seqs(ring) == [0, 1, 2]
    assert kernel.consumer == kernel.producer
    assert seqs(ring) == []
    kernel.write(2)
    assert seqs(ring) == [3, 4]


def test_what_was_read_stays_when_the_kernel_writes_over_it(ring: Ring, kernel: Kernel) -> None:
    kernel.write(SIZE // RECORD)
    first = ring.read()
    kernel.write(SIZE // RECORD)
    assert first["seq"].tolist() == list(range(SIZE // RECORD))


def test_records_that_wrap_around(ring: Ring, kernel: Kernel) -> None:
    """A page is no multiple of a record, so over these rounds the edge falls into every part of a record."""
    assert SIZE % RECORD
    read = []
    for _ in range(3 * SIZE // RECORD):
        kernel.write(7)
        read += seqs(ring)
    assert read == list(range(kernel.next_seq))
    assert kernel.producer > 15 * SIZE


def test_a_full_ring(ring: Ring, kernel: Kernel) -> None:
    kernel.start_at(5 * SIZE - 2 * RECORD)
    kernel.write(SIZE // RECORD)
    assert ring.filled() > 0.95
    assert seqs(ring) == list(range(SIZE // RECORD))


def test_positions_beyond_32_bits(ring: Ring, kernel: Kernel) -> None:
    kernel.start_at((1 << 40) - 3 * RECORD // 8 * 8)
    kernel.write(6)
    assert seqs(ring) == list(range(6))
    assert kernel.consumer == kernel.producer > 1 << 40


def test_a_record_being_written_stops_the_drain_and_comes_with_the_next(ring: Ring, kernel: Kernel) -> None:
    kernel.write(2)
    busy = kernel.reserve()
    kernel.write(2)
    assert seqs(ring) == [0, 1]
    assert kernel.consumer == busy
    assert seqs(ring) == []
    assert ring.filled() == 3 * RECORD / SIZE
    kernel.commit(busy)
    assert seqs(ring) == [2, 3, 4]
    assert ring.filled() == 0


def test_a_busy_record_at_the_front(ring: Ring, kernel: Kernel) -> None:
    busy = kernel.reserve()
    kernel.write()
    assert seqs(ring) == []
    kernel.commit(busy)
    assert seqs(ring) == [0, 1]


def test_discarded_records_are_dropped_and_their_space_goes_back(ring: Ring, kernel: Kernel) -> None:
    kernel.write()
    kernel.commit(kernel.reserve(), discard=True)
    kernel.write()
    kernel.commit(kernel.reserve(), discard=True)
    assert seqs(ring) == [0, 2]
    assert kernel.consumer == kernel.producer


def test_close_gives_the_map_back(ring: Ring, kernel: Kernel) -> None:
    kernel.write()
    ring.read()
    before = _mappings(kernel.fd)
    ring.close()
    assert _mappings(kernel.fd) == before - 2


def _mappings(fd: int) -> int:
    inode = str(os.fstat(fd).st_ino)
    with open("/proc/self/maps") as maps:  # noqa: PTH123
        return sum(line.split()[4] == inode for line in maps)
