"""Hardware counters of every CPU, in arrays that the programs read (bpf_perf_event_read_value)."""

import errno
import os
from dataclasses import dataclass
from typing import Any

from jitterprof.errors import ProbeUnavailable
from jitterprof.trace.perf_events import (
    HW_CACHE_MISSES,
    HW_CPU_CYCLES,
    HW_INSTRUCTIONS,
    TYPE_HARDWARE,
    open_perf_event,
)


@dataclass(frozen=True, slots=True)
class Counter:
    """One event per CPU. `table`: the BPF array that holds its descriptors; not `required`: zeros where it is not."""

    name: str
    table: str
    event_type: int
    config: int
    required: bool = True


COUNTERS: tuple[Counter, ...] = (
    Counter("cycles", "pmu_cycles", TYPE_HARDWARE, HW_CPU_CYCLES),
    Counter("instructions", "pmu_instructions", TYPE_HARDWARE, HW_INSTRUCTIONS),
    Counter("cache misses", "pmu_misses", TYPE_HARDWARE, HW_CACHE_MISSES, required=False),
)
#: What a machine says that has no PMU, or a guest that is not given one.
_NO_PMU = (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV)


def why_not_counted(counters: tuple[Counter, ...] = COUNTERS) -> str:
    """Why this machine does not count the required ones; "" where it does. Leaves nothing open."""
    for counter in counters:
        if not counter.required:
            continue
        try:
            os.close(open_perf_event(counter.event_type, counter.config, 0))
        except OSError as error:
            if error.errno in _NO_PMU:
                return f"this machine has no counter for {counter.name}: no PMU, or a guest that is not given one"
            return f"the counter for {counter.name} does not open: {error.strerror}"
    return ""


def open_counters(bpf: Any, cpus: int, counters: tuple[Counter, ...] = COUNTERS) -> list[int]:
    """Open them on CPUs 0 .. cpus - 1 and hand them to the programs; returns the descriptors that keep them.

    A CPU that is not online is passed over. Raises ProbeUnavailable when a required one does not open.
    """
    fds: list[int] = []
    for counter in counters:
        table = bpf[counter.table.encode()]
        for cpu in range(cpus):
            try:
                fd = open_perf_event(counter.event_type, counter.config, cpu)
            except OSError as error:
                if error.errno == errno.ENODEV and cpu:
                    continue
                if not counter.required:
                    break
                for opened in fds:
                    os.close(opened)
                raise ProbeUnavailable(f"{counter.name} are not counted on CPU {cpu}: {error.strerror}", "") from error
            fds.append(fd)
            table[table.Key(cpu)] = table.Leaf(fd)
    return fds
