"""A victim whose faults are known: `jitterprof run tests/truth/victims.py:build`.

Each request does a fixed piece of arithmetic on one thread, about 1 to 2 ms. When the control file (its path is in
JITTERPROF_TRUTH_CONTROL) asks for an action, the next request does that too and answers with its exact start and end.
"""

import ctypes
import gc
import mmap
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "injectors"))

from control import ACTION, CONTROL_ENV, PID, PULSE, REQUESTS, TID, Action, Control

ANON_BYTES = 4 << 20
PAGE = mmap.PAGESIZE
COLD_BYTES = 16 << 20
COLD_READS = 64
LOCK_HELD_S = 0.005
SLEEP_S = 0.005
#: An action of `work` does this many times a request's own work, on top of it.
WORK_FACTOR = 3
_ELEMENTS = 1 << 17
_ROUNDS = 8
_PR_SET_NAME = 15
_REGISTER_GLOBAL_EXPEDITED = 4
_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283}

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Holder(threading.Thread):
    """Holds `mutex` for LOCK_HELD_S, asleep, each time it is asked to; its comm is `jp-holder`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mutex, self.asked, self.holds = threading.Lock(), threading.Semaphore(0), threading.Semaphore(0)

    def run(self) -> None:
        _LIBC.prctl(_PR_SET_NAME, b"jp-holder", 0, 0, 0)
        while True:
            self.asked.acquire()
            with self.mutex:
                self.holds.release()
                time.sleep(LOCK_HELD_S)


def _cold_file() -> int:
    """A descriptor of a file of COLD_BYTES on disk, already without a name."""
    descriptor, name = tempfile.mkstemp(dir="/var/tmp", prefix="jp-cold-")
    Path(name).unlink()
    os.write(descriptor, os.urandom(COLD_BYTES))
    os.fsync(descriptor)
    # Out of the cache now: the first pulse must not pay for dropping all of it.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    return descriptor


def build() -> Callable[[], None]:
    """The workload: a callable that is one request."""
    rng = np.random.default_rng(7)
    source = rng.random(_ELEMENTS, dtype=np.float32)
    result = np.empty_like(source)

    def work() -> None:
        # Element-wise on purpose: a matrix product would start BLAS threads of its own.
        for _ in range(_ROUNDS):
            np.sin(source, out=result)
            np.exp(result, out=result)
            np.sqrt(result, out=result)

    path = os.environ.get(CONTROL_ENV)
    if not path:
        return work

    # So that membarrier's IPIs reach this process (ipi_storm --how membarrier); the perf kind needs no consent.
    number = _SYS_MEMBARRIER.get(platform.machine())
    if number is not None and _LIBC.syscall(number, _REGISTER_GLOBAL_EXPEDITED, 0, 0):
        raise OSError(ctypes.get_errno(), "membarrier registration")
    control = Control(Path(path))
    words = control.words
    anonymous = mmap.mmap(-1, ANON_BYTES)
    anonymous.madvise(mmap.MADV_NOHUGEPAGE)
    pages = np.frombuffer(anonymous, dtype=np.uint8)[::PAGE]
    pages[:] = 1
    cold = _cold_file()
    offsets = rng.permutation(COLD_BYTES // PAGE) * PAGE
    holder = _Holder()
    holder.start()
    now = time.monotonic_ns

    def madvise(pulse: int) -> tuple[int, int]:
        t0 = now()
        anonymous.madvise(mmap.MADV_DONTNEED)
        pages[:] = 1
        return t0, now()

    def cold_file(pulse: int) -> tuple[int, int]:
        # Scattered small reads, each a wait of its own: one large read would cost more in copying than in waiting.
        chosen = [int(offsets[(pulse * COLD_READS + number) % len(offsets)]) for number in range(COLD_READS)]
        # All of it: a folio that reaches out of the advised range stays, and ext4's are large.
        os.posix_fadvise(cold, 0, 0, os.POSIX_FADV_DONTNEED)
        t0 = now()
        for offset in chosen:
            os.pread(cold, PAGE, offset)
        return t0, now()

    def lock(pulse: int) -> tuple[int, int]:
        holder.asked.release()
        holder.holds.acquire()
        t0 = now()
        holder.mutex.acquire()
        t1 = now()
        holder.mutex.release()
        return t0, t1

    def more(pulse: int) -> tuple[int, int]:
        t0 = now()
        for _ in range(WORK_FACTOR):
            work()
        return t0, now()

    def collect(pulse: int) -> tuple[int, int]:
        rings = [[] for _ in range(20_000)]
        for ring in rings:
            ring.append(ring)
        del rings, ring
        t0 = now()
        gc.collect()
        return t0, now()

    def sleep(pulse: int) -> tuple[int, int]:
        t0 = now()
        time.sleep(SLEEP_S)
        return t0, now()

    actions = (None, madvise, cold_file, lock, more, collect, sleep)
    assert len(actions) == len(Action)

    def request() -> None:
        work()
        asked = words[ACTION]
        if asked:
            pulse = words[PULSE]
            words[ACTION] = 0
            control.answer(pulse, *actions[asked](pulse))
        if not words[REQUESTS]:
            words[PID], words[TID] = os.getpid(), threading.get_native_id()
        words[REQUESTS] += 1

    return request
