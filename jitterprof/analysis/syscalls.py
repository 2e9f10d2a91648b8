"""System calls in which a thread may wait, and what it waits for. Only the families that the ledger tells apart."""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

#: What SWITCH_OUT carries where the thread was not in a system call but in an exception.
NO_SYSCALL = 0xFFFF


class Family(IntEnum):
    """What a thread that sleeps in a system call waits for."""

    OTHER = 0
    LOCK = 1
    SLEEP = 2
    NET = 3
    STREAM = 4
    """read and write: a pipe, a terminal, a socket, an eventfd: the waker tells."""
    COMPLETION = 5
    """io_uring and aio: a disk, if an interrupt ended it."""


#: name, family, number on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl), number on arm64 (asm-generic/unistd.h);
#: -1: not there.
_TABLE: tuple[tuple[str, Family, int, int], ...] = (
    ("futex", Family.LOCK, 202, 98),
    ("futex_wait", Family.LOCK, 455, 455),
    ("futex_waitv", Family.LOCK, 449, 449),
    ("flock", Family.LOCK, 73, 32),
    ("semop", Family.LOCK, 65, 193),
    ("semtimedop", Family.LOCK, 220, 192),
    ("mq_timedsend", Family.LOCK, 242, 182),
    ("mq_timedreceive", Family.LOCK, 243, 183),
    ("nanosleep", Family.SLEEP, 35, 101),
    ("clock_nanosleep", Family.SLEEP, 230, 115),
    ("poll", Family.NET, 7, -1),
    ("ppoll", Family.NET, 271, 73),
    ("select", Family.NET, 23, -1),
    ("pselect6", Family.NET, 270, 72),
    ("epoll_wait", Family.NET, 232, -1),
    ("epoll_pwait", Family.NET, 281, 22),
    ("epoll_pwait2", Family.NET, 441, 441),
    ("recvfrom", Family.NET, 45, 207),
    ("recvmsg", Family.NET, 47, 212),
    ("recvmmsg", Family.NET, 299, 243),
    ("sendto", Family.NET, 44, 206),
    ("sendmsg", Family.NET, 46, 211),
    ("sendmmsg", Family.NET, 307, 269),
    ("accept", Family.NET, 43, 202),
    ("accept4", Family.NET, 288, 242),
    ("connect", Family.NET, 42, 203),
    ("read", Family.STREAM, 0, 63),
    ("write", Family.STREAM, 1, 64),
    ("readv", Family.STREAM, 19, 65),
    ("writev", Family.STREAM, 20, 66),
    ("splice", Family.STREAM, 275, 76),
    ("io_getevents", Family.COMPLETION, 208, 4),
    ("io_uring_enter", Family.COMPLETION, 426, 426),
    # Named, so that a wait in them reads well; what they wait for the number alone does not tell.
    ("close", Family.OTHER, 3, 57),
    ("mmap", Family.OTHER, 9, 222),
    ("mprotect", Family.OTHER, 10, 226),
    ("munmap", Family.OTHER, 11, 215),
    ("brk", Family.OTHER, 12, 214),
    ("ioctl", Family.OTHER, 16, 29),
    ("pread64", Family.OTHER, 17, 67),
    ("pwrite64", Family.OTHER, 18, 68),
    ("msync", Family.OTHER, 26, 227),
    ("madvise", Family.OTHER, 28, 233),
    ("pause", Family.OTHER, 34, -1),
    ("sendfile", Family.OTHER, 40, 71),
    ("wait4", Family.OTHER, 61, 260),
    ("fcntl", Family.OTHER, 72, 25),
    ("fsync", Family.OTHER, 74, 82),
    ("fdatasync", Family.OTHER, 75, 83),
    ("rt_sigtimedwait", Family.OTHER, 128, 137),
    ("rt_sigsuspend", Family.OTHER, 130, 133),
    ("waitid", Family.OTHER, 247, 95),
    ("openat", Family.OTHER, 257, 56),
    ("membarrier", Family.OTHER, 324, 283),
)


def _numbers(machine: str) -> dict[int, tuple[str, Family]]:
    arm = machine in ("aarch64", "arm64")
    numbered = ((on_arm if arm else on_x86, name, family) for name, family, on_x86, on_arm in _TABLE)
    return {number: (name, family) for number, name, family in numbered if number >= 0}


def families(numbers: npt.NDArray[np.int64], machine: str) -> npt.NDArray[np.uint8]:
    """The Family of each system call number on `machine` (uname -m), as an array of the same length."""
    by_number = np.zeros(NO_SYSCALL + 1, np.uint8)
    for number, (_, family) in _numbers(machine).items():
        by_number[number] = family
    return by_number[np.clip(numbers, 0, NO_SYSCALL)]


#: Calls of the LOCK family whose first argument is the address of the lock.
_BY_ADDRESS = ("futex", "futex_wait")


def is_lock(numbers: npt.NDArray[np.int64], machine: str) -> npt.NDArray[np.bool_]:
    """Whether each system call waits for a lock whose address is its first argument."""
    known = [number for number, (name, _) in _numbers(machine).items() if name in _BY_ADDRESS]
    found: npt.NDArray[np.bool_] = np.isin(numbers, known)
    return found


def syscall_name(number: int, machine: str) -> str:
    """`futex`, or `system call 999` for one that no rule here needs."""
    known = _numbers(machine).get(number)
    return known[0] if known else f"system call {number}"
