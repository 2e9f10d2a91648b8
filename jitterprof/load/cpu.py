"""Which CPU is this thread on, without a system call: the kernel keeps the answer in the thread's rseq area."""

import ctypes
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

#: struct rseq { u32 cpu_id_start; u32 cpu_id; ... }: the cell to read.
CPU = 1
_RSEQ_MIN_SIZE = 8


class CpuCells(Protocol):
    """`cells[CPU]` is the CPU that the owning thread runs on, -1 where nobody can say."""

    def __getitem__(self, index: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class ThreadCpu:
    """`cells` belong to the thread that asked and die with it. `source`: rseq, sched_getcpu or none."""

    cells: CpuCells
    source: str


class _GetCpu:
    def __init__(self) -> None:
        # PyDLL: the call is shorter than giving the interpreter lock away.
        self._getcpu = ctypes.PyDLL(None).sched_getcpu

    def __getitem__(self, index: int, /) -> int:
        return int(self._getcpu())


class _Nowhere:
    def __getitem__(self, index: int, /) -> int:
        return -1


def _thread_pointer(libc: ctypes.CDLL) -> int | None:
    libc.pthread_self.restype = ctypes.c_void_p
    handle = int(libc.pthread_self() or 0)
    match platform.machine():
        case "x86_64":
            return handle  # the thread control block starts with struct pthread
        case "aarch64":
            # Here struct pthread ends where the thread pointer points; glibc tells debuggers its size.
            try:
                return handle + ctypes.c_uint32.in_dll(libc, "_thread_db_sizeof_pthread").value
            except ValueError:
                return None
        case _:
            return None


def _rseq_cells() -> memoryview | None:
    libc = ctypes.CDLL(None)
    try:
        offset = ctypes.c_ssize_t.in_dll(libc, "__rseq_offset").value
        size = ctypes.c_uint.in_dll(libc, "__rseq_size").value
    except ValueError:  # glibc before 2.35, or another C library
        return None
    pointer = _thread_pointer(libc)
    if size < _RSEQ_MIN_SIZE or not pointer:
        return None
    address = pointer + offset
    try:
        # Through the kernel first: a wrong address is an error there, and a crash here.
        with Path("/proc/self/mem").open("rb", buffering=0) as memory:
            memory.seek(address)
            memory.read(_RSEQ_MIN_SIZE)
    except (OSError, OverflowError):
        return None
    area = (ctypes.c_int32 * 2).from_address(address)
    return memoryview(area).cast("B").cast("i")


def _tells_the_truth(cells: CpuCells) -> bool:
    """Visit up to two CPUs and compare: a zero that happens to lie there would pass on CPU 0 alone."""
    allowed = os.sched_getaffinity(0)
    try:
        for cpu in sorted(allowed)[-2:]:
            os.sched_setaffinity(0, {cpu})
            if cells[CPU] != cpu:
                return False
    except OSError:
        return False
    finally:
        os.sched_setaffinity(0, allowed)
    return True


def thread_cpu() -> ThreadCpu:
    """The CPU cell of the calling thread, checked against pinning: it moves about for a moment, so call it early."""
    cells = _rseq_cells()
    if cells is not None and _tells_the_truth(cells):
        return ThreadCpu(cells, "rseq")
    try:
        return ThreadCpu(_GetCpu(), "sched_getcpu")
    except AttributeError:
        return ThreadCpu(_Nowhere(), "none")
