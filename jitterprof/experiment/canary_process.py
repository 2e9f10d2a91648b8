"""The spin canary: a thread that does nothing but look at the clock, so that whatever stops it shows as a gap.

It runs for a good half second between attaching and measuring, on a CPU of the workload, traced like the workload.
Joined with the events inside them, its gaps tell what an interruption costs beyond the span of its tracepoints here.
A helper on another CPU sends it inter-processor interrupts meanwhile, then one on its own CPU wakes up now and then and
preempts it; page faults it makes itself.
"""

import ctypes
import mmap
import os
import platform
import signal
import time
import traceback
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from jitterprof.experiment.children import enter_child
from jitterprof.model.stream import CANARY_DTYPE, CANARY_FAULTS, CANARY_GAP, CANARY_TOUCHES
from jitterprof.units import NS_PER_MS

SPIN_NS = 300 * NS_PER_MS
#: How long it is preempted, how often: a wake-up and nothing else, a few dozen times.
PREEMPT_NS = 200 * NS_PER_MS
PREEMPT_EVERY_S = 0.003
#: More than caches and the TLB hold, as a model's memory is: in 2 MB a fault costs a quarter less beyond its span.
PAGES = 8192
ROUNDS = 4
#: Between two interprocessor interrupts: one must be over before the next.
IPI_EVERY_S = 0.0005
#: A look at the clock takes about 0.1 us here; what takes ten times that is a gap.
GAP_NS = 1000
_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
# include/uapi/linux/membarrier.h
_GLOBAL_EXPEDITED, _REGISTER_GLOBAL_EXPEDITED = 2, 4

Row = tuple[int, int, int, int, int]


def _spin(until: int, tid: int) -> list[Row]:
    now = time.monotonic_ns
    rows: list[Row] = []
    last = now()
    while last < until:
        this = now()
        if this - last > GAP_NS:
            rows.append((last, this, tid, 0, CANARY_GAP))
            # The time that the row itself took is no gap.
            this = now()
        last = this
    return rows


def _fault(tid: int) -> list[Row]:
    size = PAGES * mmap.PAGESIZE
    region = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        region.madvise(mmap.MADV_NOHUGEPAGE)
    cells = np.frombuffer(region, np.uint8)[:: mmap.PAGESIZE]
    rows: list[Row] = []
    for _ in range(ROUNDS):
        region.madvise(mmap.MADV_DONTNEED)
        for what in (CANARY_FAULTS, CANARY_TOUCHES):
            start = time.monotonic_ns()
            cells[:] = 1
            rows.append((start, time.monotonic_ns(), tid, PAGES, what))
    return rows


def _membarrier(command: int) -> int:
    number = _MEMBARRIER.get(platform.machine())
    return -1 if number is None else int(ctypes.CDLL(None).syscall(number, command, 0, 0))


def _send_ipis(cpus: set[int]) -> None:
    """In a child of its own: interrupts every process that registered, which is the canary; ends by itself."""
    os.sched_setaffinity(0, cpus)
    until = time.monotonic_ns() + SPIN_NS
    while time.monotonic_ns() < until and _membarrier(_GLOBAL_EXPEDITED) == 0:
        time.sleep(IPI_EVERY_S)


def _spin_under_ipis(cpu: int, others: set[int], tid: int) -> list[Row]:
    if not others or _membarrier(_REGISTER_GLOBAL_EXPEDITED) != 0:
        return _spin(time.monotonic_ns() + SPIN_NS, tid)
    sender = get_context("fork").Process(target=_send_ipis, args=(others,))
    sender.start()
    os.sched_setaffinity(0, {cpu})
    rows = _spin(time.monotonic_ns() + SPIN_NS, tid)
    sender.join()
    return rows


def _wake_up_often(cpu: int) -> None:
    """In a child of its own, on the canary's CPU: runs for a few microseconds at a time; ends by itself."""
    os.sched_setaffinity(0, {cpu})
    until = time.monotonic_ns() + PREEMPT_NS
    while time.monotonic_ns() < until:
        time.sleep(PREEMPT_EVERY_S)


def _spin_while_preempted(cpu: int, tid: int) -> list[Row]:
    neighbour = get_context("fork").Process(target=_wake_up_often, args=(cpu,))
    neighbour.start()
    rows = _spin(time.monotonic_ns() + PREEMPT_NS, tid)
    neighbour.join()
    return rows


def main() -> None:
    """Entry point of `python -m`."""
    channel = enter_child()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        start = channel.receive()
        assert start is not None
        cpu = int(str(start.body["cpu"]))
        others = {number for number in os.sched_getaffinity(0) if number != cpu}
        os.sched_setaffinity(0, {cpu})
        channel.send("ready", pid=os.getpid())
        channel.receive()  # the probes are attached
        tid = os.getpid()
        rows = [*_spin_under_ipis(cpu, others, tid), *_spin_while_preempted(cpu, tid), *_fault(tid)]
        np.array(rows, CANARY_DTYPE).tofile(Path(str(start.body["out"])))
        channel.send("done", gaps=len(rows))
    except EOFError:
        return
    except Exception:
        traceback.print_exc()
        raise


if __name__ == "__main__":
    main()
