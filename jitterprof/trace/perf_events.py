"""Opens perf events of a CPU (perf_event_open(2)): for a program to be run on, or as a counter for programs to read."""

import ctypes
import os
import platform

# include/uapi/linux/perf_event.h
TYPE_HARDWARE, TYPE_SOFTWARE = 0, 1
HW_CPU_CYCLES, HW_INSTRUCTIONS, HW_CACHE_MISSES = 0, 1, 3
SW_CPU_CLOCK, SW_PAGE_FAULTS_MIN, SW_PAGE_FAULTS_MAJ = 0, 5, 6
_PERF_ATTR_SIZE = 64  # PERF_ATTR_SIZE_VER0
_PERF_FLAG_FD_CLOEXEC = 8
_SYSCALL = {"x86_64": 298, "aarch64": 241}
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Attr(ctypes.Structure):
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


def open_perf_event(event_type: int, config: int, cpu: int, period: int = 0) -> int:
    """The descriptor of an event of everything that runs on `cpu`. `period` 0: it only counts. Raises OSError."""
    attr = _Attr(event_type, _PERF_ATTR_SIZE, config, period, 0, 0, 0)
    fd = _LIBC.syscall(_SYSCALL[platform.machine()], ctypes.byref(attr), -1, cpu, -1, _PERF_FLAG_FD_CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(fd)
