"""A canary pinned to one CPU: reads the clock in a loop and keeps every gap. `spinner.py CPU OUT`, ended by SIGTERM.

OUT: int64 pairs (gap start, gap end) in CLOCK_MONOTONIC ns, gaps of GAP_MIN_NS and more.
"""

import array
import gc
import os
import signal
import sys
import time
from pathlib import Path

GAP_MIN_NS = 20_000

if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    gaps = array.array("q")
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    gc.disable()
    print("ready", flush=True)
    clock = time.monotonic_ns
    last = clock()
    while not ended:
        now = clock()
        if now - last >= GAP_MIN_NS:
            gaps.append(last)
            gaps.append(now)
        last = now
    Path(sys.argv[2]).write_bytes(gaps.tobytes())
