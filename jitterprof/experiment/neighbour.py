"""The demo's noisy neighbour: short bursts of work on one CPU. Ends with the process that started it."""

import ctypes
import os
import random
import signal
import sys
import time

from jitterprof.units import NS_PER_MS

#: As /proc/PID/comm shows it (15 characters at most).
COMM = "noisy-neighbour"
BURST_NS = 8 * NS_PER_MS
GAP_NS = 250 * NS_PER_MS
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def main() -> None:
    """`python -m jitterprof.experiment.neighbour CPU PARENT_PID`."""
    cpu, parent = int(sys.argv[1]), int(sys.argv[2])
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    libc.prctl(_PR_SET_NAME, COMM.encode())
    os.sched_setaffinity(0, {cpu})
    jitter = random.Random(0)
    while True:
        end = time.monotonic_ns() + BURST_NS
        while time.monotonic_ns() < end:
            pass
        time.sleep(GAP_NS * (0.5 + jitter.random()) / 1e9)


if __name__ == "__main__":
    main()
