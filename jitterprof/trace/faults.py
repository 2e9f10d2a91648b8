"""The end of a page fault: a software perf event per victim thread that mm_account_fault() raises, with our program.

Opened per thread and inherited by threads that it creates later, so it costs nobody else anything.
"""

import ctypes
import fcntl
import os
import platform

from jitterprof.errors import ProbeUnavailable

# include/uapi/linux/perf_event.h
_PERF_TYPE_SOFTWARE = 1
_PAGE_FAULTS_MIN, _PAGE_FAULTS_MAJ = 5, 6
_PERF_ATTR_SIZE = 64  # PERF_ATTR_SIZE_VER0
_FLAG_INHERIT = 1 << 1
_PERF_FLAG_FD_CLOEXEC = 8
_IOC_SET_BPF = 0x40042408
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


def _open(config: int, tid: int) -> int:
    attr = _Attr(_PERF_TYPE_SOFTWARE, _PERF_ATTR_SIZE, config, 1, 0, 0, _FLAG_INHERIT)
    fd = _LIBC.syscall(_SYSCALL[platform.machine()], ctypes.byref(attr), tid, -1, -1, _PERF_FLAG_FD_CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise ProbeUnavailable(f"perf_event_open for thread {tid}: {os.strerror(code)}", "")
    return int(fd)


def attach_fault_ends(tids: list[int], minor_program_fd: int, major_program_fd: int) -> list[int]:
    """Put the programs on the fault events of these threads; returns the fds that keep them. A thread that is gone by
    now is passed over. Raises ProbeUnavailable when the kernel or our rights do not allow it."""
    fds: list[int] = []
    try:
        for tid in tids:
            for config, program in ((_PAGE_FAULTS_MIN, minor_program_fd), (_PAGE_FAULTS_MAJ, major_program_fd)):
                try:
                    fd = _open(config, tid)
                except ProbeUnavailable:
                    if ctypes.get_errno() == 3:  # ESRCH
                        continue
                    raise
                fds.append(fd)
                fcntl.ioctl(fd, _IOC_SET_BPF, program)
    except (ProbeUnavailable, OSError) as error:
        for fd in fds:
            os.close(fd)
        raise ProbeUnavailable(f"the end of page faults cannot be seen: {error}", "") from error
    return fds
