"""Per-request counters of a worker thread without BPF: CPU time, run-queue delay, switches and faults."""

import os
import resource
import struct
import time
from pathlib import Path

from jitterprof.load.side_file import SideFile
from jitterprof.model.stream import PROCFS_ROW

_ROW = struct.Struct("<qiiqqiiii")
assert _ROW.size == PROCFS_ROW.itemsize
_BATCH_BYTES = 64 * 1024
#: What `before` takes, generously: the worker wakes that much earlier.
LEAD_NS = 20_000


class ThreadCounters:
    """Reads the calling thread's counters just outside the timed part of a request and keeps the differences.

    The CPU time between the readings and the request's edges is the generator's own and is taken off again, on the
    assumption that nobody interrupted those few microseconds; it never goes below zero.
    """

    def __init__(self, tid: int, sink: SideFile) -> None:
        self._tid, self._sink = tid, sink
        self._rows = bytearray()
        self.caveat = ""
        try:
            self._schedstat = os.open(f"/proc/self/task/{tid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._schedstat = -1
            self.caveat = f"no run-queue delay: {Path('/proc/self/schedstat')}: {error.strerror}"
        self._at = self._cpu = self._delay = 0
        self._usage = resource.getrusage(resource.RUSAGE_THREAD)

    def _run_delay(self) -> int:
        return int(os.pread(self._schedstat, 96, 0).split()[1]) if self._schedstat >= 0 else 0

    def before(self) -> None:
        """Reads the counters ahead of a request."""
        self._usage = resource.getrusage(resource.RUSAGE_THREAD)
        self._delay = self._run_delay()
        self._cpu = time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID)
        self._at = time.monotonic_ns()

    def after(self, seq: int, phase: int, start: int, end: int) -> None:
        """Reads them again and keeps a PROCFS_ROW for the request that ran in [start, end)."""
        at = time.monotonic_ns()
        cpu = time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID)
        delay = self._run_delay()
        usage, first = resource.getrusage(resource.RUSAGE_THREAD), self._usage
        own = (start - self._at) + (at - end)
        self._rows += _ROW.pack(
            seq,
            self._tid,
            phase,
            max(0, cpu - self._cpu - own),
            delay - self._delay,
            usage.ru_nvcsw - first.ru_nvcsw,
            usage.ru_nivcsw - first.ru_nivcsw,
            usage.ru_minflt - first.ru_minflt,
            usage.ru_majflt - first.ru_majflt,
        )
        if len(self._rows) >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes the rows kept so far, in one piece."""
        if self._rows:
            self._sink.append(bytes(self._rows))
            self._rows.clear()

    def close(self) -> None:
        """Flushes; the sink stays open, other workers share it."""
        self.flush()
        if self._schedstat >= 0:
            os.close(self._schedstat)
