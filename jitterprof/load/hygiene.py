"""Keep the generator itself out of the latencies: timer slack, locked memory, garbage collection, affinity.

Nothing here is fatal: what a host or a container refuses is said in a caveat, and what is in force is returned.
"""

import ctypes
import errno
import gc
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass

from jitterprof.errors import SpecError

_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
_MCL_CURRENT, _MCL_ONFAULT = 1, 4
_GC_BACKLOG = 200_000
GC_MODES = ("frozen", "on")


@dataclass(frozen=True, slots=True)
class Hygiene:
    """What was in force while requests were served.

    `timer_slack_ns`: largest of the worker threads (-1: unknown). `locked`: the generator's own buffers stay in memory.
    `gc`: frozen or on. `cpus`: where the process may run. `cpu_source`: rseq, sched_getcpu or none.
    """

    timer_slack_ns: int = -1
    locked: bool = False
    gc: str = "on"
    cpus: tuple[int, ...] = ()
    cpu_source: str = "none"


def set_timer_slack(slack_ns: int = 1) -> int:
    """Timer slack of the calling thread set to `slack_ns`; returns what is in force, in ns (0 under FIFO and RR)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns), 0, 0, 0)
    return int(libc.prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0))


def lock_process() -> str:
    """Keeps what the process has mapped so far in memory from its first touch on; "" or a caveat.

    Call it before the model is loaded. The interpreter and the generator must not fault on our account, but the model
    under test has to keep its own faults: locked memory refuses MADV_DONTNEED and cannot be reclaimed, and a locked
    model would be another model than the one in production. Hence neither MCL_FUTURE nor pages brought in ahead.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_ONFAULT) == 0:
        return ""
    return f"the interpreter's memory is not locked ({_why_not_locked(ctypes.get_errno())})"


def lock_buffers(buffers: Iterable[mmap.mmap]) -> str:
    """mlock of the generator's mapped files; "" or a caveat."""
    libc = ctypes.CDLL(None, use_errno=True)
    for buffer in buffers:
        pin = ctypes.c_char.from_buffer(buffer)
        code = libc.mlock(ctypes.c_void_p(ctypes.addressof(pin)), ctypes.c_size_t(len(buffer)))
        error = ctypes.get_errno()
        del pin  # an exported pointer would keep the file from being remapped
        if code:
            return f"the generator's buffers are not locked ({_why_not_locked(error)})"
    return ""


def _why_not_locked(error: int) -> str:
    if error in (errno.ENOMEM, errno.EPERM, errno.EAGAIN):
        return f"{os.strerror(error)}; raise RLIMIT_MEMLOCK or grant CAP_IPC_LOCK"
    return os.strerror(error)


def pin(cpus: Iterable[int]) -> tuple[int, ...]:
    """Restricts the calling thread, and threads it starts later, to `cpus`. SpecError for one that is not there."""
    wanted, before = set(cpus), os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, wanted)
        in_force = os.sched_getaffinity(0)
    except (OSError, ValueError, OverflowError):
        in_force = before
    if in_force != wanted:  # the kernel drops, without a word, what is offline or outside the cpuset
        os.sched_setaffinity(0, before)
        missing = ",".join(map(str, sorted(wanted - in_force))) or "(none)"
        raise SpecError(f"cannot run on CPU {missing}", f"this process runs on: {','.join(map(str, sorted(before)))}")
    return tuple(sorted(in_force))


def settle_gc(mode: str) -> None:
    """`frozen`: collect, move survivors out of the collector's sight and switch it off. `on`: leave it alone."""
    if mode not in GC_MODES:
        raise SpecError(f"unknown gc mode '{mode}'", f"known: {', '.join(GC_MODES)}")
    if mode == "frozen":
        gc.collect()
        gc.freeze()
        gc.disable()


def release_gc(mode: str) -> str:
    """Undoes `settle_gc`; a caveat when garbage piled up that a collector would have had to deal with."""
    if mode != "frozen":
        return ""
    backlog = gc.get_count()[0]
    gc.enable()
    gc.unfreeze()
    if backlog < _GC_BACKLOG:
        return ""
    return f"{backlog:,} objects piled up with the garbage collector off: measure with gc=on too"
