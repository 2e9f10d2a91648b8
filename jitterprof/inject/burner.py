"""Loops on the victim's CPU: one that the victim has to wait for, and one with which it takes turns."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from jitterprof.inject.fault import Pulse
from jitterprof.inject.linux import weigh_more
from jitterprof.inject.site import Site

_PRIORITY = 50


def _burn(stop_ns: int) -> int:
    """Loop until `stop_ns`; returns the CPU time that took, in ns."""
    before = time.thread_time_ns()
    now = time.monotonic_ns
    while now() < stop_ns:
        pass
    return time.thread_time_ns() - before


@contextmanager
def ordinary(site: Site, _pid: int) -> Iterator[Pulse]:
    """SCHED_OTHER."""
    os.sched_setaffinity(0, {site.cpu})
    weigh_more()
    yield _burn


@contextmanager
def real_time(site: Site, _pid: int) -> Iterator[Pulse]:
    """SCHED_FIFO. A pulse must stay far below the 950 ms a second that the kernel grants."""
    os.sched_setaffinity(0, {site.cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    yield _burn


def real_time_allowed(_site: Site) -> str:
    """Why there is no real-time policy here; "" when there is. Tried, and put back."""
    before, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError as error:
        return f"SCHED_FIFO refused: {error.strerror} (a v1 cpu cgroup needs cpu.rt_runtime_us)"
    os.sched_setscheduler(0, before, parameter)
    return ""
