"""The kernel's own counters, read before and after a window: they cross-check what the probes recorded."""

import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from jitterprof.system.cgroup import ancestors, hierarchy_of
from jitterprof.system.files import Host
from jitterprof.system.naming import interrupt_rows
from jitterprof.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class ThreadCounters:
    """One thread: schedstat (time on a CPU, time runnable but waiting, times scheduled) and context switches."""

    pid: int
    comm: str
    cpu_ns: int
    run_delay_ns: int
    slices: int
    voluntary: int
    involuntary: int


@dataclass(frozen=True, slots=True)
class Throttling:
    """cpu.stat of one cgroup: quota periods, how many were cut short, and for how long in total."""

    periods: int
    throttled: int
    throttled_ns: int


@dataclass(frozen=True, slots=True)
class Counters:
    """A reading at `taken_ns` (CLOCK_MONOTONIC), or the change over `elapsed_ns` that ended then.

    `threads` by tid. `interrupts` (row of /proc/interrupts: an irq number, LOC, RES, CAL, TLB, NMI ...) and
    `softirqs` (vector name): one count per CPU in `cpus`; rows without a column per CPU (ERR) have one value.
    `steal_ns` per CPU, in steps of a clock tick of user space (10 ms). `throttling` by cgroup directory.
    `ended`: threads that were there before and no longer after; their last stretch is not in `threads`.
    """

    taken_ns: int
    elapsed_ns: int
    cpus: tuple[int, ...]
    threads: dict[int, ThreadCounters]
    interrupts: dict[str, tuple[int, ...]]
    softirqs: dict[str, tuple[int, ...]]
    steal_ns: tuple[int, ...]
    throttling: dict[str, Throttling]
    ended: tuple[int, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain dicts, lists and scalars."""
        plain: dict[str, object] = asdict(self)
        plain["threads"] = {str(tid): asdict(thread) for tid, thread in self.threads.items()}
        return plain


def snapshot(host: Host, pids: Iterable[int]) -> Counters:
    """Read every counter now. A process that has ended has no threads; a file that is not there gives no rows."""
    pids = tuple(pids)
    threads = {
        tid: found for pid in pids for tid in thread_ids(host, pid) if (found := thread_counters(host, pid, tid))
    }
    cpus, steal = _steal(host)
    return Counters(
        taken_ns=time.monotonic_ns(),
        elapsed_ns=0,
        cpus=cpus,
        threads=threads,
        interrupts={row: counts for row, (counts, _text) in interrupt_rows(host).items()},
        softirqs=_softirqs(host),
        steal_ns=steal,
        throttling=_throttling(host, pids),
    )


def difference(before: Counters, after: Counters) -> Counters:
    """What happened between two snapshots of one boot. A thread that is new counts from zero.

    A CPU that came or went in between makes per-CPU columns incomparable: those rows are then left out.
    """
    zero = ThreadCounters(0, "", 0, 0, 0, 0, 0)
    threads = {}
    for tid, now in after.threads.items():
        then = before.threads.get(tid, zero)
        threads[tid] = ThreadCounters(
            now.pid,
            now.comm,
            now.cpu_ns - then.cpu_ns,
            now.run_delay_ns - then.run_delay_ns,
            now.slices - then.slices,
            now.voluntary - then.voluntary,
            now.involuntary - then.involuntary,
        )
    same = before.cpus == after.cpus
    nothing = Throttling(0, 0, 0)
    return Counters(
        taken_ns=after.taken_ns,
        elapsed_ns=after.taken_ns - before.taken_ns,
        cpus=after.cpus,
        threads=threads,
        interrupts=_minus(after.interrupts, before.interrupts) if same else {},
        softirqs=_minus(after.softirqs, before.softirqs) if same else {},
        steal_ns=tuple(b - a for a, b in zip(before.steal_ns, after.steal_ns, strict=True)) if same else (),
        throttling={
            path: Throttling(
                now.periods - before.throttling.get(path, nothing).periods,
                now.throttled - before.throttling.get(path, nothing).throttled,
                now.throttled_ns - before.throttling.get(path, nothing).throttled_ns,
            )
            for path, now in after.throttling.items()
        },
        ended=tuple(sorted(before.threads.keys() - after.threads.keys())),
    )


def _minus(after: dict[str, tuple[int, ...]], before: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    result = {}
    for row, counts in after.items():
        # A line that was requested in between counts from zero.
        then = before.get(row, (0,) * len(counts))
        if len(then) == len(counts):
            result[row] = tuple(now - was for now, was in zip(counts, then, strict=True))
    return result


def thread_ids(host: Host, pid: int) -> tuple[int, ...]:
    """Threads of a process, ascending; none when it has ended."""
    return tuple(int(name) for name in host.names(f"/proc/{pid}/task") if name.isdigit())


def thread_counters(host: Host, pid: int, tid: int) -> ThreadCounters | None:
    """Counters of one thread, or None when it has just ended."""
    base = f"/proc/{pid}/task/{tid}"
    status = host.read_text(f"{base}/status")
    schedstat = (host.read_text(f"{base}/schedstat") or "").split()
    if status is None or len(schedstat) < 3:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return ThreadCounters(
        pid=pid,
        comm=fields.get("Name", "").strip(),
        cpu_ns=int(schedstat[0]),
        run_delay_ns=int(schedstat[1]),
        slices=int(schedstat[2]),
        voluntary=int(fields.get("voluntary_ctxt_switches", "0")),
        involuntary=int(fields.get("nonvoluntary_ctxt_switches", "0")),
    )


def _softirqs(host: Host) -> dict[str, tuple[int, ...]]:
    rows = {}
    for line in (host.read_text("/proc/softirqs") or "").splitlines()[1:]:
        name, _, counts = line.partition(":")
        rows[name.strip()] = tuple(int(count) for count in counts.split())
    return rows


def _steal(host: Host) -> tuple[tuple[int, ...], tuple[int, ...]]:
    tick_ns = NS_PER_S // os.sysconf("SC_CLK_TCK")
    cpus, steal = [], []
    for line in (host.read_text("/proc/stat") or "").splitlines():
        words = line.split()
        if words and words[0].startswith("cpu") and words[0] != "cpu":
            cpus.append(int(words[0][3:]))
            steal.append(int(words[8]) * tick_ns if len(words) > 8 else 0)
    return tuple(cpus), tuple(steal)


def _throttling(host: Host, pids: Iterable[int]) -> dict[str, Throttling]:
    """Of the cpu cgroups of the processes and their ancestors: a parent's quota stops its children too."""
    hierarchy = hierarchy_of(host, "cpu")
    if hierarchy is None:
        return {}
    found = {}
    for path in dict.fromkeys(path for pid in pids for path in ancestors(host, pid, "cpu")):
        if (reading := read_throttling(host, path)) is not None:
            found[path] = reading
    return found


def read_throttling(host: Host, directory: str) -> Throttling | None:
    """cpu.stat of a cgroup directory; None where it is not there or has no quota counters (the root group of v2)."""
    return parse_cpu_stat(host.read_bytes(f"{directory}/cpu.stat") or b"")


def parse_cpu_stat(text: bytes) -> Throttling | None:
    """cpu.stat of v1 (throttled_time, ns) or v2 (throttled_usec)."""
    values = dict(zip(*[iter(text.split())] * 2, strict=False))
    if b"nr_throttled" not in values:
        return None
    if b"throttled_time" in values:
        throttled_ns = int(values[b"throttled_time"])
    else:
        throttled_ns = int(values.get(b"throttled_usec", 0)) * 1000
    return Throttling(int(values.get(b"nr_periods", 0)), int(values[b"nr_throttled"]), throttled_ns)
