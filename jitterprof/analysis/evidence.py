"""What was observed: everything the ledger may draw on, as columns, and where records are missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jitterprof.model.event import EVENT_DTYPE, GAP_DTYPE, EventKind
from jitterprof.model.request import GC_DTYPE
from jitterprof.model.run import Manifest, ProbeStatus

#: "to the end of time": an open end of a gap or of a search.
FOREVER = int(np.iinfo(np.int64).max)


def _no_rows(dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    return np.empty(0, dtype)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One session as the ledger sees it.

    `events`: EVENT_DTYPE sorted by ts, all CPUs. `gaps`: GAP_DTYPE (see `find_gaps`). `gc`: GC_DTYPE.
    `window`: [start, end) ns in which the probes were attached and their records kept: before and after it nothing is
    known. `irq_names`, `symbols`, `devices`, `cgroups`, `maps`, `probes`: as in `Manifest`. `machine`: uname -m, which
    decides what a system call number means.
    """

    events: npt.NDArray[np.void] = field(default_factory=lambda: _no_rows(EVENT_DTYPE))
    gaps: npt.NDArray[np.void] = field(default_factory=lambda: _no_rows(GAP_DTYPE))
    gc: npt.NDArray[np.void] = field(default_factory=lambda: _no_rows(GC_DTYPE))
    window: tuple[int, int] = (0, 0)
    pids: tuple[int, ...] = ()
    observer_pids: tuple[int, ...] = ()
    irq_names: Mapping[str, str] = field(default_factory=dict)
    symbols: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, str] = field(default_factory=dict)
    cgroups: Mapping[str, str] = field(default_factory=dict)
    maps: tuple[tuple[int, int, str], ...] = ()
    probes: tuple[ProbeStatus, ...] = ()
    machine: str = "x86_64"

    @property
    def sees_scheduling(self) -> bool:
        """Whether the records say when a thread had a CPU; without that nothing can be explained."""
        switches = (EventKind.SWITCH_OUT, EventKind.SWITCH_IN)
        if np.any(np.isin(self.events["kind"], switches)):
            return True
        return any(probe.name == "sched" and probe.state in ("on", "partial") for probe in self.probes)

    def of_kind(self, *kinds: EventKind) -> npt.NDArray[np.void]:
        """The events of these kinds, in order of time."""
        chosen: npt.NDArray[np.void] = self.events[np.isin(self.events["kind"], kinds)]
        return chosen


def evidence_of(
    manifest: Manifest, events: npt.NDArray[np.void], gc: npt.NDArray[np.void] | None = None, first_seq: int | None = 0
) -> Evidence:
    """The evidence of a session: its manifest, its events (EVENT_DTYPE by ts) and its garbage collections (GC_DTYPE).

    The records must reach from the moment of attaching, whose sequence numbers start at `first_seq`; None where the
    beginning of the stream was thrown away.
    """
    window = manifest.window_ns
    if len(events):
        first, last = int(events["ts"][0]), int(events["ts"][-1])
        # A recording that was cut says nothing about what came after its last record.
        window = (min(window[0], first) if window[1] else first, last if manifest.health.cut else max(window[1], last))
    machine = manifest.environment.get("machine", "x86_64")
    return Evidence(
        events=events,
        gaps=find_gaps(events, {int(cpu): seq for cpu, seq in manifest.cpu_seq.items()}, first_seq),
        gc=_no_rows(GC_DTYPE) if gc is None else gc,
        window=window,
        pids=manifest.pids,
        observer_pids=manifest.observer_pids,
        irq_names=manifest.irq_names,
        symbols=manifest.symbols,
        devices=manifest.devices,
        cgroups=manifest.cgroups,
        maps=manifest.maps,
        probes=manifest.probes,
        machine=str(machine),
    )


def find_gaps(
    events: npt.NDArray[np.void], cpu_seq: Mapping[int, int], first_seq: int | None = 0
) -> npt.NDArray[np.void]:
    """Holes in each CPU's sequence numbers, as GAP_DTYPE rows by (cpu, start).

    A gap lies between the records around the hole. `cpu_seq`: the last number that each CPU handed out, so that a loss
    at the end shows (its gap never ends); `first_seq`: the first one, so that a loss at the start does (that gap has
    always been). Numbers are u32 and wrap; one may come twice, and neighbours may be out of order (an interrupt
    between taking the time and taking the number).
    """
    parts: list[npt.NDArray[np.void]] = []
    cpus = {*np.unique(events["cpu"]).tolist(), *cpu_seq}
    order = np.argsort(events["cpu"], kind="stable")
    by_cpu = events["cpu"][order]
    for cpu in sorted(cpus):
        mine = order[np.searchsorted(by_cpu, cpu, "left") : np.searchsorted(by_cpu, cpu, "right")]
        ts, seq = events["ts"][mine].astype(np.int64), events["seq"][mine].astype(np.int64)
        last = cpu_seq.get(cpu)
        holes: list[tuple[int, int, int, int]] = []
        if not len(mine):
            if last is not None and last >= 0 and first_seq is not None:
                holes.append((cpu, 0, FOREVER, _forward(first_seq, last) + 1))
            parts.append(np.array(holes, GAP_DTYPE))
            continue
        # Numbers without the wrap, from the smallest step that explains each.
        number = np.concatenate([[0], np.cumsum((np.diff(seq) + 2**31) % 2**32 - 2**31)])
        known, where = np.unique(number, return_inverse=True)
        earliest, latest = np.full(len(known), FOREVER), np.zeros(len(known), np.int64)
        np.minimum.at(earliest, where, ts)
        np.maximum.at(latest, where, ts)
        before = np.flatnonzero(np.diff(known) > 1)
        inner = np.empty(len(before), GAP_DTYPE)
        inner["cpu"] = cpu
        inner["start_ns"] = np.minimum(earliest[before], earliest[before + 1])
        inner["end_ns"] = np.maximum(latest[before], latest[before + 1])
        inner["lost"] = known[before + 1] - known[before] - 1
        origin = int(seq[0])
        if first_seq is not None and (missing := _forward(first_seq, origin + int(known[0]))) > 0:
            holes.append((cpu, 0, int(earliest[0]), missing))
        head = np.array(holes, GAP_DTYPE)
        tail = np.empty(0, GAP_DTYPE)
        if last is not None and (missing := _forward(origin + int(known[-1]), last)) > 0:
            tail = np.array([(cpu, int(latest[-1]), FOREVER, missing)], GAP_DTYPE)
        parts += [head, inner, tail]
    return np.concatenate([np.empty(0, GAP_DTYPE), *parts])


def _forward(from_seq: int, to_seq: int) -> int:
    """How many u32 steps lead from one number to a later one; negative where it is the earlier one."""
    return (to_seq - from_seq + 2**31) % 2**32 - 2**31
