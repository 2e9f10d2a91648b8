"""What a victim does to itself when its control file asks for it, for as long as it is asked to."""

import ctypes
import gc
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from control import ACTION, DOSE, HELD, OTHER_CPU_ENV, PID, PULSE, REQUESTS, TID, Action, Control
from program import build

PAGE = mmap.PAGESIZE
ANON_BYTES = 32 << 20
#: Read once from end to end, page by page in a random order, before anything has to be dropped from the cache.
COLD_BYTES = 64 << 20
#: What an action takes that was asked for without a dose.
PAGES, READS, HELD_NS, SLEEP_NS, WORK_NS, GC_NS = 1024, 64, 5_000_000, 5_000_000, 4_000_000, 2_000_000
#: Objects that one collection looks at, and floats of a step of additional work.
_STOCK, _STEP = 8_000, 1 << 12
_SLEEPS, _PREEMPTED, _CHAIN = range(3)
_TRIES = 5

#: Begin and end on CLOCK_MONOTONIC, and this thread's CPU ns between them where the action is to wait (else 0). None:
#: not yet, ask again in the next request.
Span = tuple[int, int, int] | None


def cold_file() -> int:
    """A descriptor of a file of COLD_BYTES on disk, already without a name."""
    descriptor, name = tempfile.mkstemp(dir="/var/tmp", prefix="jp-cold-")
    Path(name).unlink()
    os.write(descriptor, os.urandom(COLD_BYTES))
    os.fsync(descriptor)
    # Out of the cache now: the first pulse must not pay for dropping all of it.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    return descriptor


class Locks:
    """The holders of waits.c, on the CPU that OTHER_CPU_ENV names, else on one that the victim is not bound to."""

    def __init__(self, control: Control) -> None:
        self._library = ctypes.CDLL(str(build("waits", "-shared", "-fPIC", "-pthread")))
        self._library.waits_arm.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_uint32)
        base = ctypes.addressof(ctypes.c_char.from_buffer(control.mapped))
        mine = os.sched_getaffinity(0)
        other = int(os.environ.get(OTHER_CPU_ENV, min(set(range(os.cpu_count() or 1)) - mine, default=min(mine))))
        error = self._library.waits_start(other, ctypes.c_void_p(base + 8 * HELD))
        if error:
            raise OSError(error, "the holders of locks cannot be started")
        self._armed = False

    def take(self, kind: int, pulse: int, dose_ns: int) -> Span:
        """In a first request the holders are asked; in the first one in which they hold their locks, wait for them."""
        if not self._armed:
            self._armed = True
            self._library.waits_arm(kind, dose_ns, pulse + 1)
        if not self._library.waits_ready():
            return None
        self._armed = False
        times = (ctypes.c_int64 * 2)()
        cpu = time.thread_time_ns()
        self._library.waits_take(times)
        return times[0], times[1], time.thread_time_ns() - cpu


@dataclass(slots=True)
class Costs:
    """ns that one page, one cold read, one step of work and one collection take here."""

    page: float = 0.0
    read: float = 0.0
    step: float = 0.0
    collection: float = 0.0


class Actions:
    """All actions of one victim. Expensive parts are made when they are first needed, outside of any timed span."""

    def __init__(self, control: Control) -> None:
        self._control = control
        anonymous = mmap.mmap(-1, ANON_BYTES)
        anonymous.madvise(mmap.MADV_NOHUGEPAGE)
        self._anonymous = anonymous
        self._pages = np.frombuffer(anonymous, dtype=np.uint8)[::PAGE]
        self._pages[:] = 1
        self._cold = cold_file()
        self._offsets = (np.random.default_rng(7).permutation(COLD_BYTES // PAGE) * PAGE).tolist()
        self._read = 0
        self._source = np.random.default_rng(8).random(_STEP, dtype=np.float32)
        self._target = np.empty_like(self._source)
        self._stock: list[list[int]] = []
        self._locks: Locks | None = None
        self._actions: dict[int, Callable[[int, int], Span]] = {
            Action.MADVISE: self._madvise,
            Action.COLD_FILE: self._cold_file,
            Action.LOCK: self._lock(_SLEEPS),
            Action.WORK: self._work,
            Action.GC: self._collect,
            Action.SLEEP: self._sleep,
            Action.HELD_LOCK: self._lock(_PREEMPTED),
            Action.CHAIN: self._lock(_CHAIN),
        }
        self._costs = Costs()
        self._costs = Costs(
            self._cost(self._madvise, PAGES),
            self._cost(self._cold_file, READS),
            self._cost(self._work, 200),
            0.0,
        )

    @staticmethod
    def _cost(action: Callable[[int, int], Span], count: int) -> float:
        """Best of a few tries; without known costs a dose is a count."""
        spans = [action(0, count) for _ in range(_TRIES)]
        return min(span[1] - span[0] for span in spans if span) / count

    def requested(self) -> None:
        """At the end of a request: do what was asked for, and count the request."""
        words = self._control.words
        asked = words[ACTION]
        if asked:
            pulse = words[PULSE]
            span = self._actions[asked](pulse, words[DOSE])
            if span is not None:
                words[ACTION] = 0
                self._control.answer(pulse, *span)
        if not words[REQUESTS]:
            words[PID], words[TID] = os.getpid(), threading.get_native_id()
            self._fill_stock()
        words[REQUESTS] += 1

    def _madvise(self, pulse: int, dose_ns: int) -> Span:
        pages = _count(dose_ns, self._costs.page, PAGES, len(self._pages))
        self._anonymous.madvise(mmap.MADV_DONTNEED, 0, pages * PAGE)
        touched = self._pages[:pages]
        t0 = time.monotonic_ns()
        touched[:] = 1
        return t0, time.monotonic_ns(), 0

    def _cold_file(self, pulse: int, dose_ns: int) -> Span:
        # Scattered small reads, each a wait of its own: one large read would cost more in copying than in waiting.
        reads = _count(dose_ns, self._costs.read, READS, len(self._offsets))
        if self._read + reads > len(self._offsets):
            # All of it: a folio that reaches out of the advised range stays, and ext4's are large.
            os.posix_fadvise(self._cold, 0, 0, os.POSIX_FADV_DONTNEED)
            self._read = 0
        chosen = self._offsets[self._read : self._read + reads]
        self._read += reads
        t0, cpu = time.monotonic_ns(), time.thread_time_ns()
        for offset in chosen:
            os.pread(self._cold, PAGE, offset)
        cpu = time.thread_time_ns() - cpu
        return t0, time.monotonic_ns(), cpu

    def _work(self, pulse: int, dose_ns: int) -> Span:
        steps = _count(dose_ns or WORK_NS, self._costs.step, 1, 1 << 20)
        t0 = time.monotonic_ns()
        for _ in range(steps):
            np.sin(self._source, out=self._target)
        return t0, time.monotonic_ns(), 0

    def _collect(self, pulse: int, dose_ns: int) -> Span:
        return self._collect_times(_count(dose_ns or GC_NS, self._costs.collection, 1, 1000))

    def _fill_stock(self) -> None:
        """What collections have to look at: nothing that is older than this."""
        gc.collect()
        gc.freeze()
        self._stock = [[number] for number in range(_STOCK)]
        self._costs.collection = self._cost(lambda pulse, count: self._collect_times(count), 3)

    @staticmethod
    def _collect_times(count: int) -> Span:
        t0 = time.monotonic_ns()
        for _ in range(count):
            gc.collect()
        return t0, time.monotonic_ns(), 0

    @staticmethod
    def _sleep(pulse: int, dose_ns: int) -> Span:
        t0, cpu = time.monotonic_ns(), time.thread_time_ns()
        time.sleep((dose_ns or SLEEP_NS) / 1e9)
        cpu = time.thread_time_ns() - cpu
        return t0, time.monotonic_ns(), cpu

    def _lock(self, kind: int) -> Callable[[int, int], Span]:
        def take(pulse: int, dose_ns: int) -> Span:
            if self._locks is None:
                # Starting threads takes a while: that is not the request in which the victim waits.
                self._locks = Locks(self._control)
                return None
            return self._locks.take(kind, pulse, dose_ns or HELD_NS)

        return take


def _count(dose_ns: int, cost: float, usual: int, most: int) -> int:
    """How many of what costs `cost` ns make up a dose. Before costs are known (0) the dose is the count itself."""
    if not dose_ns:
        return usual
    return max(1, min(most, round(dose_ns / cost) if cost else dose_ns))
