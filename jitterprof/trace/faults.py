"""The end of a page fault: the software perf events that mm_account_fault() raises, with our program on them.

Opened per CPU: an event of a thread would be switched in and out with it, which costs that thread 0.6 us a switch here.
The price is that the program is run, for nothing, when others fault (some 0.1 us of the 1 to 2 us that a fault takes).
"""

import ctypes
import errno
import fcntl
import os
import platform

from jitterprof.errors import ProbeUnavailable

# include/uapi/linux/perf_event.h
_PERF_TYPE_SOFTWARE = 1
_PAGE_FAULTS_MIN, _PAGE_FAULTS_MAJ = 5, 6
_PERF_ATTR_SIZE = 64  # PERF_ATTR_SIZE_VER0
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


def _open(config: int, cpu: int) -> int:
    attr = _Attr(_PERF_TYPE_SOFTWARE, _PERF_ATTR_SIZE, config, 1, 0, 0, 0)
    fd = _LIBC.syscall(_SYSCALL[platform.machine()], ctypes.byref(attr), -1, cpu, -1, _PERF_FLAG_FD_CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(fd)


def attach_fault_ends(cpus: int, minor_program_fd: int, major_program_fd: int) -> list[int]:
    """Put the programs on the fault events of CPUs 0 .. cpus - 1; returns the fds that keep them. A CPU that is not
    online is passed over. Raises ProbeUnavailable when the kernel or our rights do not allow it."""
    fds: list[int] = []
    for cpu in range(cpus):
        for config, program in ((_PAGE_FAULTS_MIN, minor_program_fd), (_PAGE_FAULTS_MAJ, major_program_fd)):
            try:
                fds.append(_open(config, cpu))
                fcntl.ioctl(fds[-1], _IOC_SET_BPF, program)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    continue
                for fd in fds:
                    os.close(fd)
                raise ProbeUnavailable(
                    f"the end of page faults cannot be seen: perf events of CPU {cpu}: {error.strerror}", ""
                ) from error
    return fds
