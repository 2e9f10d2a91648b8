"""The clock of the generator: CLOCK_MONOTONIC, and sleeping to a point on it. Tests put a virtual one in its place."""

import ctypes
import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_CLOCK_MONOTONIC = 1
_TIMER_ABSTIME = 1
_NS_PER_S = 1_000_000_000

#: Wake-up margin for a thread that may spin: it must cover late wakes, and must not burn a CPU for milliseconds.
MARGIN_MIN_NS, MARGIN_MAX_NS = 50_000, 300_000
#: With siblings in the process a spinning thread keeps the interpreter lock from them, so only the part of the
#: wake-up latency that every wake has is spun away.
SHARED_MARGIN_MAX_NS = 5_000
_SPIN_SHARE = 0.2
_CALIBRATION_NS = 600_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def monotonic_sleeper() -> Callable[[int], None]:
    """A function for the calling thread alone that sleeps until a CLOCK_MONOTONIC time in ns."""
    nanosleep = ctypes.CDLL(None).clock_nanosleep
    nanosleep.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    until = _Timespec()
    address = ctypes.addressof(until)

    def sleep_until(deadline: int) -> None:
        until.seconds, until.nanoseconds = divmod(deadline, _NS_PER_S)
        while code := nanosleep(_CLOCK_MONOTONIC, _TIMER_ABSTIME, address, None):
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))

    return sleep_until


@dataclass(frozen=True, slots=True)
class Clock:
    """`now()` in ns; `sleeper()` gives the calling thread its own function to sleep until a time."""

    now: Callable[[], int]
    sleeper: Callable[[], Callable[[int], None]]


MONOTONIC = Clock(time.monotonic_ns, monotonic_sleeper)


def wake_overshoot(clock: Clock, sleep_until: Callable[[int], None], gap_ns: int) -> npt.NDArray[np.int64]:
    """How late, in ns, this thread wakes from sleeps like those to come. Takes about 0.6 s.

    The longer a CPU idles, the deeper and the later it wakes, so the sleeps are as long as `gap_ns` (0.2 to 5 ms).
    """
    sleep_ns = min(max(gap_ns, 200_000), 5_000_000)
    late = np.empty(_CALIBRATION_NS // sleep_ns, dtype=np.int64)
    for shot in range(len(late)):
        deadline = clock.now() + sleep_ns
        sleep_until(deadline)
        late[shot] = clock.now() - deadline
    return late


def wake_margin_ns(late: npt.NDArray[np.int64], gap_ns: int, alone: bool) -> int:
    """How long before its target a worker wakes up to spin. `alone`: no sibling needs the interpreter meanwhile.

    The 95th percentile, not a rarer one: a thread that spins can be preempted for a whole slice where one that sleeps
    would be sent to an idle CPU. Seen at 500/s beside other work on two CPUs, medians of 25 runs: p99 2.6 ms with a
    margin of 300 us, 0.6 ms with 120 us, 1.4 ms with none. For the same reason at most a fifth of the gap is spun.
    """
    if alone:
        most = max(MARGIN_MIN_NS, min(MARGIN_MAX_NS, int(gap_ns * _SPIN_SHARE)))
        return int(np.clip(np.quantile(late, 0.95), MARGIN_MIN_NS, most))
    return int(np.clip(np.quantile(late, 0.05), 0, SHARED_MARGIN_MAX_NS))
