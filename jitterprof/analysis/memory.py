"""What the C library does with memory that the analysis has let go.

It keeps what threads let go in arenas of their own, where a large table has no use for it; and it gives back to the
kernel what is wanted again a moment later, as so many page faults. Measured over 10 million events in a virtual
machine: giving back before each large table lowers the peak from 3.1 to 2.8 GB; with that, keeping what is freed in
between takes 2 s less out of 23.
"""

import ctypes
from functools import cache

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: Blocks up to this size come from the heap, the most that all versions of glibc take.
_FROM_HEAP = 1 << 25
#: A heap's end is given back when so much of it is free.
_FREE = 1 << 28


@cache
def keep_freed() -> None:
    """Let this process keep what it frees, to use it again. Does nothing where the C library is another than glibc."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _FROM_HEAP)
        libc.mallopt(_M_TRIM_THRESHOLD, _FREE)


def give_back() -> None:
    """Give back all that is free, of every thread: before something large is allocated, for the peak not to grow."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
