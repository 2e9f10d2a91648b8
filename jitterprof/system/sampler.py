"""The fallback without BPF: kernel counters that can explain a window, sampled every 20 ms.

A sample is a few rows of SAMPLE_DTYPE: one per target thread, one per CPU, one per quota. Values are cumulative, so a
window's share is the difference of the samples around it, and a lost sample costs resolution, never correctness.
Thread and quota files are kept open (one pread each). The per-CPU tables grow with the machine: they are read less
often where they would cost more than a quarter of a percent of a CPU.
"""

import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from jitterprof.errors import UnsupportedError
from jitterprof.model.stream import SAMPLE_CPU, SAMPLE_DTYPE, SAMPLE_QUOTA, SAMPLE_THREAD
from jitterprof.system.cgroup import ancestors
from jitterprof.system.counters import parse_cpu_stat, read_throttling, thread_ids
from jitterprof.system.files import Host
from jitterprof.units import NS_PER_MS, NS_PER_S

THREAD, CPU, QUOTA = SAMPLE_THREAD, SAMPLE_CPU, SAMPLE_QUOTA
DEFAULT_PERIOD_NS = 20 * NS_PER_MS
_RESCAN_NS = NS_PER_S
#: The per-CPU tables may take one part in so many of a CPU.
_CPU_TABLE_BUDGET = 400
_READ_SIZE = 1 << 20

_PACKED = struct.Struct("<qiiqqqq")
assert _PACKED.size == SAMPLE_DTYPE.itemsize
_BATCH_BYTES = 4096

_Row = tuple[int, int, int, int, int, int, int]


class Sampler:
    """Samples the threads of `pids` and appends rows to the file `stream`; close it, or use it as a context manager."""

    def __init__(self, host: Host, pids: tuple[int, ...], stream: Path) -> None:
        """Raises UnsupportedError when the target has ended or the kernel has no schedstat (CONFIG_SCHED_INFO)."""
        for pid in pids:
            if not host.exists(f"/proc/{pid}/schedstat"):
                raise UnsupportedError(
                    f"no /proc/{pid}/schedstat: the process has ended, or the kernel lacks CONFIG_SCHED_INFO",
                    "use --probes bpf, or --probes none",
                )
        #: Directory of each QUOTA key. The root of v1 (it alone has a release_agent) counts zeros, for it has no quota.
        self.quota_paths = tuple(
            path
            for path in dict.fromkeys(path for pid in pids for path in ancestors(host, pid, "cpu"))
            if read_throttling(host, path) is not None and not host.exists(f"{path}/release_agent")
        )
        self.samples = 0
        #: CPU time that sampling has cost its thread so far.
        self.cpu_ns = 0
        self._host = host
        self._pids = pids
        self._tick_ns = NS_PER_S // os.sysconf("SC_CLK_TCK")
        self._threads: dict[int, int] = {}
        self._tables = {name: self._open(f"/proc/{name}") for name in ("interrupts", "softirqs", "stat")}
        self._quotas = tuple(self._open(f"{path}/cpu.stat") for path in self.quota_paths)
        self._rescan_at = 0
        self._cpu_tables_at = 0
        self._pending = bytearray()
        self._stream = stream.open("ab")

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every file; the stream holds all samples taken."""
        for descriptor in (*self._threads.values(), *self._tables.values(), *self._quotas):
            if descriptor >= 0:
                os.close(descriptor)
        self._threads, self._tables, self._quotas = {}, {}, ()
        if not self._stream.closed:
            self.flush()
        self._stream.close()

    def sample(self) -> bytes:
        """Take one sample and return its rows, packed as SAMPLE_DTYPE. They reach the stream in batches of about 4 KiB
        (half a second of a small target), at `flush` and at `close`. Raises OSError when the disk is full."""
        started = time.thread_time_ns()
        now = time.monotonic_ns()
        if now >= self._rescan_at:
            self._rescan()
            self._rescan_at = now + _RESCAN_NS
        rows = [*self._thread_rows(), *self._quota_rows()]
        if now >= self._cpu_tables_at:
            before = time.thread_time_ns()
            rows += self._cpu_rows()
            self._cpu_tables_at = now + _CPU_TABLE_BUDGET * (time.thread_time_ns() - before)
        taken = b"".join([_PACKED.pack(*row) for row in rows])
        self._pending += taken
        if len(self._pending) >= _BATCH_BYTES:
            self.flush()
        self.samples += 1
        self.cpu_ns += time.thread_time_ns() - started
        return taken

    def flush(self) -> None:
        """Write what is pending to the stream."""
        self._stream.write(self._pending)
        self._stream.flush()
        self._pending.clear()

    def run(self, stop: threading.Event, period_ns: int = DEFAULT_PERIOD_NS) -> None:
        """Sample until `stop` is set or no target thread is left, and once more at the end."""
        due = time.monotonic_ns()
        while not stop.is_set():
            self.sample()
            if not self._threads:
                return
            due = max(due + period_ns, time.monotonic_ns())
            stop.wait((due - time.monotonic_ns()) / NS_PER_S)
        self._cpu_tables_at = 0
        self.sample()
        self.flush()

    def _open(self, name: str) -> int:
        try:
            return os.open(self._host.path(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1  # Hidden from us (container): those rows are then missing, and the docs say so.

    def _rescan(self) -> None:
        present = {tid: pid for pid in self._pids for tid in thread_ids(self._host, pid)}
        for tid in self._threads.keys() - present.keys():
            os.close(self._threads.pop(tid))
        for tid in present.keys() - self._threads.keys():
            descriptor = self._open(f"/proc/{present[tid]}/task/{tid}/schedstat")
            if descriptor >= 0:
                self._threads[tid] = descriptor

    def _thread_rows(self) -> Iterator[_Row]:
        for tid, descriptor in list(self._threads.items()):
            try:
                cpu_ns, delay_ns, slices = os.pread(descriptor, 128, 0).split()
            except (OSError, ValueError):
                os.close(self._threads.pop(tid))  # ESRCH: the thread has ended
                continue
            yield time.monotonic_ns(), tid, THREAD, int(cpu_ns), int(delay_ns), int(slices), 0

    def _quota_rows(self) -> Iterator[_Row]:
        for position, descriptor in enumerate(self._quotas):
            try:
                reading = parse_cpu_stat(os.pread(descriptor, 4096, 0))
            except OSError:
                continue  # ENODEV: the cgroup is gone, and its quota with it
            if reading is not None:
                yield time.monotonic_ns(), position, QUOTA, reading.throttled_ns, reading.throttled, reading.periods, 0

    def _cpu_rows(self) -> list[_Row]:
        lines = self._table("interrupts")
        cpus = [int(name[3:]) for name in lines[0].split()] if lines else []
        devices, vectors = [0] * len(cpus), [0] * len(cpus)
        for line in lines[1:]:
            name, _, rest = line.partition(b":")
            counts = rest.split(maxsplit=len(cpus))[: len(cpus)]
            total = devices if name.strip().isdigit() else vectors
            if len(counts) < len(cpus) or not counts[-1].isdigit():
                continue  # ERR, MIS: one count for the whole machine
            for index, count in enumerate(counts):
                if count != b"0":
                    total[index] += int(count)
        softirqs = dict.fromkeys(cpus, 0)
        lines = self._table("softirqs")
        heads = [int(name[3:]) for name in lines[0].split()] if lines else []
        for line in lines[1:]:
            for cpu, count in zip(heads, line.partition(b":")[2].split(), strict=False):
                softirqs[cpu] = softirqs.get(cpu, 0) + int(count)
        steal = {}
        for line in self._table("stat"):
            if not line.startswith(b"cpu"):
                break  # The interrupt totals that follow are long.
            words = line.split()
            if words[0] != b"cpu" and len(words) > 8:
                steal[int(words[0][3:])] = int(words[8]) * self._tick_ns
        now = time.monotonic_ns()
        return [
            (now, cpu, CPU, devices[index], softirqs[cpu], steal.get(cpu, 0), vectors[index])
            for index, cpu in enumerate(cpus)
        ]

    def _table(self, name: str) -> list[bytes]:
        descriptor = self._tables[name]
        if descriptor < 0:
            return []
        # A seq_file gives a page or so per read: go on to the end.
        parts, offset = [], 0
        while part := os.pread(descriptor, _READ_SIZE, offset):
            parts.append(part)
            offset += len(part)
        return b"".join(parts).splitlines()


def read_samples(stream: Path) -> npt.NDArray[np.void]:
    """SAMPLE_DTYPE rows of a stream; a torn last row is left out."""
    content = stream.read_bytes()
    return np.frombuffer(content[: len(content) // SAMPLE_DTYPE.itemsize * SAMPLE_DTYPE.itemsize], dtype=SAMPLE_DTYPE)
