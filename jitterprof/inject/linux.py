"""The system calls that injectors need and Python does not wrap. Numbers are those of the Linux headers."""

import ctypes
import errno
import os
import platform
from contextlib import suppress
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_NUMBERS: dict[str, tuple[int, int]] = {"x86_64": (324, 298), "aarch64": (283, 241)}
MEMBARRIER, PERF_EVENT_OPEN = range(2)
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_TIMERSLACK = 1, 15, 29
_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18
_QUERY, _GLOBAL_EXPEDITED, _REGISTER_GLOBAL_EXPEDITED = 0, 2, 4
#: Of the victim, so that what else the host does disturbs few pulses, and of the loop that is to compete with it.
NICE = -19
_AUTOGROUP = Path("/proc/self/autogroup")


class _PerfAttr(ctypes.Structure):
    """struct perf_event_attr, PERF_ATTR_SIZE_VER0."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 2),
    )


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return int(result)


def _call(number: int, what: str, *arguments: object) -> int:
    known = _NUMBERS.get(platform.machine())
    if known is None:
        raise OSError(errno.ENOSYS, f"{what}: no system call number known for {platform.machine()}")
    return _checked(_LIBC.syscall(known[number], *arguments), what)


def set_name(name: str) -> None:
    """How the calling thread is called in `ps` and by the kernel: 15 characters at most."""
    _LIBC.prctl(_PR_SET_NAME, name[:15].encode(), 0, 0, 0)


def weigh_more() -> None:
    """More of a CPU than ordinary tasks get, for the calling thread and those it will start: by its nice value and,
    where the kernel makes a group of each session (autogroup), by that of the session. Not allowed, no more."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        if _AUTOGROUP.exists():
            _AUTOGROUP.write_text(str(NICE))


def set_timer_slack(slack_ns: int) -> None:
    """How late the calling thread may be woken."""
    _LIBC.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns), 0, 0, 0)


def die_with_parent(parent: int, signal_number: int) -> bool:
    """Have this signal when the parent goes; False when it has gone already."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    return os.getppid() == parent


def private_network() -> None:
    """A network of our own, with nothing in it but `lo`, and a /sys that shows it; both go with this process.

    Raises OSError when that is not allowed.
    """
    _checked(_LIBC.unshare(_CLONE_NEWNS | _CLONE_NEWNET), "unshare")
    _checked(_LIBC.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None), "private mounts")
    _checked(_LIBC.mount(b"sysfs", b"/sys", b"sysfs", ctypes.c_ulong(0), None), "mount sysfs")


def perf_event(kind: int, config: int, period: int, cpu: int) -> int:
    """Descriptor of a perf event on one CPU, whoever runs there; it starts disabled. Raises OSError."""
    disabled, cloexec = 1, 8
    attr = _PerfAttr(kind, ctypes.sizeof(_PerfAttr), config, period, 0, 0, disabled)
    return _call(PERF_EVENT_OPEN, "perf_event_open", ctypes.byref(attr), -1, cpu, -1, cloexec)


def barriers_supported() -> bool:
    """Whether the next two will work."""
    try:
        return bool(_call(MEMBARRIER, "membarrier", _QUERY, 0, 0) & _GLOBAL_EXPEDITED)
    except OSError:
        return False


def register_for_barriers() -> None:
    """From now on `interrupt_registered` of any process interrupts the CPUs that this one runs on. Raises OSError."""
    _call(MEMBARRIER, "membarrier", _REGISTER_GLOBAL_EXPEDITED, 0, 0)


def interrupt_registered() -> None:
    """One interrupt to every CPU where a registered process runs. Raises OSError."""
    _call(MEMBARRIER, "membarrier", _GLOBAL_EXPEDITED, 0, 0)
