"""One attached set of probes: load, attach, drain, count losses, detach."""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jitterprof.errors import ProbeUnavailable
from jitterprof.model.cause import Cause
from jitterprof.model.event import CLOCK_SLOTS, EVENT_DTYPE
from jitterprof.model.run import ProbeStatus
from jitterprof.resources import probes_dir
from jitterprof.trace import bcc_module
from jitterprof.trace.btf import Btf
from jitterprof.trace.catalog import PROBES, Attachment
from jitterprof.trace.counters import COUNTERS, Counter, open_counters
from jitterprof.trace.faults import attach_fault_ends
from jitterprof.trace.machine import frequencies, machine_limits, neighbours
from jitterprof.trace.plan import Plan, make_plan
from jitterprof.trace.processes import Processes
from jitterprof.trace.ring import Ring

#: 32 MiB is 700,000 records: at the heaviest storm seen (1 M/s) the reader has 0.5 s from the wake-up at a quarter.
RING_BYTES = 32 << 20
_PAGE = 4096

#: Names of jp_cpu.count[].
CPU_COUNTERS = ("hardirqs", "softirqs", "timers", "ipis", "nmis", "switches", "slotless")
_FORK = "sched_process_fork"


@dataclass(frozen=True, slots=True)
class CpuCounts:
    """What one CPU's programs counted, matched or not: `lost` and `written` records, the next sequence number,
    hypervisor steal in ns since attach, all interrupts by class, and how often a thread of the target could not be
    recorded because CLOCK_SLOTS others were."""

    cpu: int
    seq: int
    lost: int
    written: int
    steal_ns: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Loaded:
    bpf: Any
    plan: Plan
    statuses: tuple[ProbeStatus, ...]
    fds: tuple[int, ...]


def possible_cpus(path: Path = Path("/sys/devices/system/cpu/possible")) -> int:
    """One more than the highest CPU number the kernel may ever use."""
    return int(path.read_text().strip().split("-")[-1].split(",")[-1]) + 1


def _wake_every(ring_bytes: int, cpus: int) -> int:
    """Records per CPU between wake-ups, a power of two: all CPUs together fill at most a quarter of the ring."""
    share = ring_bytes // 4 // (EVENT_DTYPE.itemsize + 8) // cpus
    return 1 << max(share.bit_length() - 1, 6)


def _source(plan: Plan) -> str:
    folder = probes_dir()
    header = (folder / "include" / "jitterprof.h").read_text()
    parts = [header]
    for name in plan.sources:
        parts.append((folder / name).read_text().replace('#include "jitterprof.h"', f'#line 1 "{name}"'))
    return "\n".join(parts)


class TraceSession:
    """The probes on one target, from construction to `close`. All is gone with this process, even by SIGKILL: programs,
    maps and events are held by file descriptors only.

    The target is `target_pid`, the processes in `more_pids`, and every process that these have started or will start.
    `canary_pid` is traced like it, without its children. `clock_fd`: the mmap-able array of state clocks. `counters`:
    what the probe `pmu` counts. Raises ProbeUnavailable when the scheduler probe cannot run.
    """

    def __init__(
        self,
        target_pid: int,
        *,
        events: bool = True,
        ring_bytes: int = RING_BYTES,
        wanted: tuple[str, ...] | None = None,
        tick_function: int = 0,
        canary_pid: int = 0,
        more_pids: tuple[int, ...] = (),
        counters: tuple[Counter, ...] = COUNTERS,
    ) -> None:
        self._cpus = possible_cpus()
        plan = make_plan(Btf(), wanted, limits=machine_limits(self._cpus, counters))
        fault_end = "memory.bpf.c" in plan.sources
        flags = [
            *plan.defines,
            f"-DEMIT_EVENTS={int(events)}",
            f"-DRING_PAGES={ring_bytes // _PAGE}",
            f"-DWAKE_EVERY={_wake_every(ring_bytes, self._cpus)}",
            f"-DCPUS={self._cpus}",
            f"-DTICK_FUNCTION={tick_function}ULL",
            f"-DFAULT_END={int(fault_end)}",
            "-Wno-unused-function",
            "-Wno-unused-variable",
        ]
        bpf = bcc_module.compile_program(_source(plan), flags)
        free = bpf[b"free_slots"]
        for slot in reversed(range(CLOCK_SLOTS)):
            free.push(ctypes.c_uint32(slot))
        self._processes = Processes(bpf[b"pids"].map_fd)
        self._processes.follow((target_pid, *more_pids))
        if canary_pid:
            self._processes.follow_canary(canary_pid)
        _tell_topology(bpf, plan, self._cpus)
        self._loaded = self._attach(bpf, plan, self._cpus, counters, self._processes.follow_descendants)
        self._event_fds = self._loaded.fds
        self.ring = Ring(bpf[b"events"].map_fd, ring_bytes) if events else None
        self.ring_fd: int = bpf[b"events"].map_fd if events else -1
        self.clock_fd: int = bpf[b"clocks"].map_fd

    @staticmethod
    def _attach(
        bpf: Any, plan: Plan, cpus: int, counters: tuple[Counter, ...], follow_descendants: Callable[[], None]
    ) -> _Loaded:
        statuses = {status.name: status for status in plan.statuses}
        by_probe = _probe_of_function()
        fds: list[int] = []
        if statuses["pmu"].state in ("on", "partial"):
            try:
                fds += open_counters(bpf, cpus, counters)
            except ProbeUnavailable as error:
                statuses["pmu"] = replace(statuses["pmu"], state="missing", reason=str(error))
        looked = False
        for attachment in _fork_first(plan.attachments):
            if not looked and attachment.tracepoint != _FORK:
                # What is started from here on is seen; what was started before is looked for.
                follow_descendants()
                looked = True
            name = by_probe[attachment.function]
            if statuses[name].state == "missing":
                continue
            try:
                bpf.attach_raw_tracepoint(tp=attachment.tracepoint.encode(), fn_name=attachment.function.encode())
            except Exception as error:  # bcc raises bare Exception
                reason = f"{attachment.tracepoint}: {str(error).splitlines()[0]}"
                if attachment.required and name == "sched":
                    raise ProbeUnavailable(
                        f"the scheduler probe does not attach: {reason}",
                        "it needs root, or CAP_BPF and CAP_PERFMON, and a kernel that allows eBPF tracing",
                    ) from error
                statuses[name] = replace(statuses[name], state="partial", reason=reason)
        if statuses["memory"].state in ("on", "partial"):
            try:
                minor = bcc_module.load_perf_program(bpf, "on_minor_fault")
                major = bcc_module.load_perf_program(bpf, "on_major_fault")
                fds += attach_fault_ends(cpus, minor, major)
            except ProbeUnavailable as error:
                statuses["memory"] = replace(statuses["memory"], state="partial", reason=str(error))
        return _Loaded(bpf, plan, tuple(statuses.values()), tuple(fds))

    @property
    def statuses(self) -> tuple[ProbeStatus, ...]:
        """One per probe of the catalogue."""
        return self._loaded.statuses

    def cpu_counts(self) -> tuple[CpuCounts, ...]:
        """The per-CPU bookkeeping of the programs."""
        rows = []
        table = self._loaded.bpf[b"cpus"]
        for cpu in range(self._cpus):
            row = table[cpu]
            steal = row.steal - row.steal_first if row.rq else 0
            counts = tuple(int(row.count[number]) for number in range(len(CPU_COUNTERS)))
            rows.append(CpuCounts(cpu, int(row.seq), int(row.lost), int(row.written), int(steal), counts))
        return tuple(rows)

    def followed(self) -> tuple[int, ...]:
        """Every process that belonged to the target at some time so far, ascending."""
        return self._processes.followed()

    def recursion_misses(self) -> int:
        """How often the kernel skipped one of our programs because it was already running on that CPU.

        Programs that only add a name to a record are left out: what they miss loses no time.
        """
        missed = 0
        naming = _naming_functions()
        for name, function in self._loaded.bpf.funcs.items():
            if name.decode() in naming:
                continue
            for line in Path(f"/proc/self/fdinfo/{function.fd}").read_text().splitlines():
                if line.startswith("recursion_misses:"):
                    missed += int(line.split()[1])
        return missed

    def read(self) -> npt.NDArray[np.void]:
        """All records that are ready (EVENT_DTYPE), in no strict order across CPUs."""
        if self.ring is None:
            raise ValueError("this session records no events")
        return self.ring.read()

    def detach(self) -> None:
        """No program runs any more; what it wrote can still be read."""
        bpf = self._loaded.bpf
        for name in list(bpf.raw_tracepoint_fds):
            bpf.detach_raw_tracepoint(name)
        for fd in self._event_fds:
            os.close(fd)
        self._event_fds = ()

    def close(self) -> None:
        """Detach and free everything."""
        self.detach()
        if self.ring is not None:
            self.ring.close()
        self._processes.close()
        self._loaded.bpf.cleanup()


def _tell_topology(bpf: Any, plan: Plan, cpus: int) -> None:
    """What the programs cannot find out: who is beside whom, and how fast each CPU runs to begin with."""
    if "neighbour.bpf.c" in plan.sources:
        table = bpf[b"neighbours"]
        for cpu, beside in neighbours(cpus).items():
            words, row = beside.words(), table.Leaf()
            row.count, row.siblings = len(words), len(beside.siblings)
            row.next = row.siblings if len(words) > row.siblings else 0
            row.list[: len(words)] = words
            table[cpu] = row
    if "frequency.bpf.c" in plan.sources:
        table = bpf[b"cpus"]
        for cpu, khz in frequencies(cpus).items():
            row = table.Leaf()
            row.khz = khz
            table[cpu] = row


def _fork_first(attachments: tuple[Attachment, ...]) -> list[Attachment]:
    return sorted(attachments, key=lambda attachment: attachment.tracepoint != _FORK)


def _naming_functions() -> set[str]:
    return {attachment.function for probe in PROBES if probe.names_only for attachment in probe.attachments}


def _probe_of_function() -> dict[str, str]:
    return {attachment.function: probe.name for probe in PROBES for attachment in probe.attachments}


def hidden_causes(statuses: tuple[ProbeStatus, ...]) -> tuple[Cause, ...]:
    """Causes that this set of probes cannot show: their time ends as `unknown` or stays in `run`."""
    off = {status.name for status in statuses if status.state in ("missing", "off")}
    return tuple(cause for probe in PROBES if probe.name in off for cause in probe.causes)
