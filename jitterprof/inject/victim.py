"""The workload that faults are injected into: `jitterprof run .../victim.py:build`.

Each request does a fixed piece of arithmetic on one thread, about a millisecond. Where the timetable says that a fault
of the victim's own is due, the next request commits it and logs its exact start and end.
"""

import gc
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jitterprof.inject.faults import FAULTS
from jitterprof.inject.linux import register_for_barriers, set_name, weigh_more
from jitterprof.inject.timetable import EPOCH, PID, TIMETABLE_ENV, Timetable
from jitterprof.units import NS_PER_MS

ANON_BYTES = 4 << 20
PAGE = mmap.PAGESIZE
COLD_BYTES = 16 << 20
#: Small reads, each a wait of its own: one large read would cost more in copying than in waiting. The time bounds it
#: where a disk is slow.
COLD_READS, COLD_NS = 64, 5 * NS_PER_MS
LOCK_HELD_S = SLEEP_S = 0.005
#: "more work" does this many times a request's own work, on top of it.
WORK_FACTOR = 3
RINGS = 20_000
_ELEMENTS = 1 << 17
_ROUNDS = 8
_NEVER = 1 << 62

#: (t0, t1) of what was done, CLOCK_MONOTONIC ns.
Action = Callable[[], tuple[int, int]]
now = time.monotonic_ns


class _Holder(threading.Thread):
    """Holds `mutex` for LOCK_HELD_S, asleep, each time it is asked to."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mutex, self.asked, self.holds = threading.Lock(), threading.Semaphore(0), threading.Semaphore(0)

    def run(self) -> None:
        set_name("jp-holder")
        while True:
            self.asked.acquire()
            with self.mutex:
                self.holds.release()
                time.sleep(LOCK_HELD_S)


def _refault() -> Action:
    anonymous = mmap.mmap(-1, ANON_BYTES)
    anonymous.madvise(mmap.MADV_NOHUGEPAGE)
    pages = np.frombuffer(anonymous, dtype=np.uint8)[::PAGE]
    pages[:] = 1

    def act() -> tuple[int, int]:
        t0 = now()
        anonymous.madvise(mmap.MADV_DONTNEED)
        pages[:] = 1
        return t0, now()

    return act


def _cold_file() -> Action:
    descriptor, name = tempfile.mkstemp(dir="/var/tmp", prefix="jitterprof-cold-")
    Path(name).unlink()
    os.write(descriptor, os.urandom(COLD_BYTES))
    os.fsync(descriptor)
    # Out of the cache now: the first pulse must not pay for dropping all of it.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    offsets = (np.random.default_rng(7).permutation(COLD_BYTES // PAGE) * PAGE).tolist()
    turn = 0

    def act() -> tuple[int, int]:
        nonlocal turn
        chosen = [offsets[(turn + number) % len(offsets)] for number in range(COLD_READS)]
        turn += COLD_READS
        # All of it: a folio that reaches out of the advised range stays, and ext4's are large.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        t0 = now()
        for offset in chosen:
            os.pread(descriptor, PAGE, offset)
            if now() - t0 > COLD_NS:
                break
        return t0, now()

    return act


def _lock() -> Action:
    holder = _Holder()
    holder.start()

    def act() -> tuple[int, int]:
        holder.asked.release()
        holder.holds.acquire()
        t0 = now()
        holder.mutex.acquire()
        t1 = now()
        holder.mutex.release()
        return t0, t1

    return act


def _sleep() -> tuple[int, int]:
    t0 = now()
    time.sleep(SLEEP_S)
    return t0, now()


def _collect() -> tuple[int, int]:
    rings: list[list[object]] = [[] for _ in range(RINGS)]
    for ring in rings:
        ring.append(ring)
    del rings, ring
    t0 = now()
    gc.collect()
    return t0, now()


def build() -> Callable[[], None]:
    """The workload: a callable that is one request."""
    source = np.random.default_rng(7).random(_ELEMENTS, dtype=np.float32)
    result = np.empty_like(source)

    def work() -> None:
        # Element-wise on purpose: a matrix product would start BLAS threads of its own.
        for _ in range(_ROUNDS):
            np.sin(source, out=result)
            np.exp(result, out=result)
            np.sqrt(result, out=result)

    def more() -> tuple[int, int]:
        t0 = now()
        for _ in range(WORK_FACTOR):
            work()
        return t0, now()

    path = os.environ.get(TIMETABLE_ENV)
    if not path:
        return work
    weigh_more()
    timetable = Timetable(Path(path))
    due = timetable.due()
    planned = {FAULTS[each.fault].kind.name for each in due}
    if "ipis" in planned:
        register_for_barriers()
    makers: tuple[tuple[str, Callable[[], Action]], ...] = (
        ("refault", _refault),
        ("cold-file", _cold_file),
        ("lock", _lock),
        ("sleep", lambda: _sleep),
        ("gc", lambda: _collect),
        ("more work", lambda: more),
    )
    actions = {name: make() for name, make in makers if name in planned}
    todo = iter([each for each in due if FAULTS[each.fault].enter is None])
    words = timetable.words
    pending = next(todo, None)
    at = _NEVER if pending is None else pending.start_ns

    def request() -> None:
        nonlocal pending, at
        work()
        epoch = words[EPOCH]
        if epoch and now() - epoch >= at and pending is not None:
            # From `actions`, so that what they work on (a mapping that the ledger will name) lasts to the end.
            act = actions[FAULTS[pending.fault].kind.name]
            timetable.log(pending.number, *act(), 0)
            pending = next(todo, None)
            at = _NEVER if pending is None else pending.start_ns
        if not words[PID]:
            words[PID] = os.getpid()

    return request
