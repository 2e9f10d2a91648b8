"""System calls that Python does not wrap: scheduling attributes, timer slack, mlockall, capabilities."""

import ctypes
import errno
import os
import platform
from dataclasses import dataclass

from jitterprof.errors import UnsupportedError

#: Linux numbers by machine. (sched_setattr, sched_getattr, bpf, perf_event_open)
_NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": {"sched_setattr": 314, "sched_getattr": 315, "bpf": 321, "perf_event_open": 298},
    "aarch64": {"sched_setattr": 274, "sched_getattr": 275, "bpf": 280, "perf_event_open": 241},
}

PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 29, 30
MCL_CURRENT, MCL_FUTURE = 1, 2
SCHED_RESET_ON_FORK = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.restype = ctypes.c_int


class _SchedAttr(ctypes.Structure):
    # SCHED_ATTR_SIZE_VER0, which every kernel since 3.14 takes; utilisation clamps (VER1) are not ours to touch.
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True)
class SchedulingAttributes:
    """What sched_getattr says. `runtime_ns` is the slice for the fair policies (0 before Linux 6.12)."""

    policy: int
    flags: int
    nice: int
    priority: int
    runtime_ns: int
    deadline_ns: int = 0
    period_ns: int = 0


def system_call(name: str, *arguments: object) -> int:
    """Result of a system call; raises OSError with its errno, UnsupportedError on a machine we have no number for."""
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise UnsupportedError(f"no system call numbers for {machine}", "jitterprof supports x86_64 and aarch64")
    # Variadic C: an int would be passed as 32 bits, so widen it.
    widened = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = _libc.syscall(ctypes.c_long(_NUMBERS[machine][name]), *widened)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def get_scheduling(tid: int = 0) -> SchedulingAttributes:
    """Scheduling attributes of a thread (0: the caller)."""
    attr = _SchedAttr()
    system_call("sched_getattr", tid, ctypes.byref(attr), ctypes.sizeof(attr), 0)
    return SchedulingAttributes(
        attr.policy, attr.flags, attr.nice, attr.priority, attr.runtime, attr.deadline, attr.period
    )


def set_scheduling(tid: int, attributes: SchedulingAttributes) -> None:
    """Set all scheduling attributes of a thread at once (0: the caller). Raises OSError."""
    attr = _SchedAttr(
        ctypes.sizeof(_SchedAttr),
        attributes.policy,
        attributes.flags,
        attributes.nice,
        attributes.priority,
        attributes.runtime_ns,
        attributes.deadline_ns,
        attributes.period_ns,
    )
    system_call("sched_setattr", tid, ctypes.byref(attr), 0)


def timer_slack_ns() -> int:
    """Timer slack of the calling thread."""
    return int(_libc.prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0))


def set_timer_slack_ns(slack_ns: int) -> None:
    """Timer slack of the calling thread; 0 restores the default it inherited."""
    if _libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl(PR_SET_TIMERSLACK)")


def lock_memory(lock: bool) -> None:
    """mlockall(MCL_CURRENT | MCL_FUTURE) or munlockall() for this process. Raises OSError."""
    if (_libc.mlockall(MCL_CURRENT | MCL_FUTURE) if lock else _libc.munlockall()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "mlockall" if lock else "munlockall")


def try_bpf() -> int:
    """0 when this process may create a BPF map, else the errno of the refusal. Nothing is left behind."""
    # union bpf_attr of BPF_MAP_CREATE: map_type ARRAY, key 4, value 8, one entry; the rest must be zero.
    attr = (ctypes.c_uint32 * 32)(2, 4, 8, 1)
    return _try("bpf", 0, ctypes.byref(attr), ctypes.sizeof(attr))


def try_kernel_perf_event() -> int:
    """0 when this process may count kernel software events on every CPU (CAP_PERFMON or paranoid <= 0)."""
    attr = (ctypes.c_uint32 * 32)()
    attr[0] = 1  # PERF_TYPE_SOFTWARE
    attr[1] = ctypes.sizeof(attr)
    attr[2] = 0  # config: PERF_COUNT_SW_CPU_CLOCK
    attr[10] = 1  # disabled
    return _try("perf_event_open", ctypes.byref(attr), -1, 0, -1, 8)


def _try(name: str, *arguments: object) -> int:
    try:
        descriptor = system_call(name, *arguments)
    except OSError as error:
        return error.errno or errno.EIO
    os.close(descriptor)
    return 0


def clock_resolution_hz() -> int | None:
    """HZ of the running kernel: the resolution of the coarse clock is one tick. None where it is not offered."""

    class _Timespec(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    resolution = _Timespec()
    clock_monotonic_coarse = 6
    if _libc.clock_getres(clock_monotonic_coarse, ctypes.byref(resolution)) != 0 or resolution.seconds:
        return None
    # Below a microsecond it is not a tick but a high resolution clock in disguise (gVisor).
    return round(1e9 / resolution.nanoseconds) if resolution.nanoseconds > 1000 else None
