"""What was observed: everything the ledger may draw on, as columns, and where records are missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jitterprof.model.event import EVENT_DTYPE, GAP_DTYPE, EventKind
from jitterprof.model.request import GC_DTYPE
from jitterprof.model.run import Manifest, ProbeStatus
from jitterprof.store.sequence import FOREVER as FOREVER
from jitterprof.store.sequence import find_gaps as find_gaps


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
    #: Rows of `events` by (kind, ts), and where each kind begins among them.
    _by_kind: npt.NDArray[np.uint32] = field(init=False, repr=False, compare=False)
    _first: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        kind = np.ascontiguousarray(self.events["kind"])
        object.__setattr__(self, "_by_kind", np.argsort(kind, kind="stable").astype(np.uint32))
        object.__setattr__(self, "_first", np.concatenate([[0], np.cumsum(np.bincount(kind, minlength=256))]))

    @property
    def sees_scheduling(self) -> bool:
        """Whether the records say when a thread had a CPU; without that nothing can be explained."""
        if any(probe.name == "sched" and probe.state in ("on", "partial") for probe in self.probes):
            return True
        return len(self.rows(EventKind.SWITCH_OUT, EventKind.SWITCH_IN)) > 0

    def of_kind(self, *kinds: EventKind) -> npt.NDArray[np.void]:
        """The events of these kinds, in order of time."""
        chosen: npt.NDArray[np.void] = self.events.take(self.rows(*kinds))
        return chosen

    def rows(self, *kinds: EventKind) -> npt.NDArray[np.uint32]:
        """Which events are of these kinds, in order of time."""
        found = [self._by_kind[self._first[kind] : self._first[kind + 1]] for kind in kinds]
        return found[0] if len(found) == 1 else np.sort(np.concatenate(found))


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
