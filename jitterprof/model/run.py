"""What a session is: the spec that asked for it and the manifest that describes what was recorded."""

from dataclasses import dataclass, field

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything `jitterprof run` was asked to do, resolved: names are valid, durations are nanoseconds.

    `keep`: "all" events, or "tail": those around slow requests and around a random sample.
    """

    workload: str
    backend: str = "auto"
    device: str = "cpu"
    threads: int = 1
    workers: int = 1
    cpus: tuple[int, ...] = ()
    arrival: str = "closed"
    duration_ns: int = 30_000_000_000
    requests: int | None = None
    warmup_ns: int = 2_000_000_000
    seed: int = 0
    probes: str = "auto"
    keep: str = "all"
    slo_ns: int | None = None
    dims: tuple[tuple[str, int], ...] = ()
    gc: str = "frozen"
    settings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeStatus:
    """One probe of the catalogue in this session. `state`: on, partial, off or missing; `reason` when not on."""

    name: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A latency distribution in ns; zeros when there is nothing to describe."""

    count: int = 0
    p50_ns: int = 0
    p90_ns: int = 0
    p99_ns: int = 0
    p99_9_ns: int = 0
    max_ns: int = 0
    mean_ns: float = 0.0


@dataclass(frozen=True, slots=True)
class Loss:
    """Events that were not recorded, by how we know (three independent counts)."""

    ring_full: int = 0
    recursion_misses: int = 0
    sequence_gaps: int = 0

    @property
    def total(self) -> int:
        """Lost events: a full ring also shows as a sequence gap, so those two are not added."""
        return max(self.ring_full, self.sequence_gaps) + self.recursion_misses


@dataclass(frozen=True, slots=True)
class Health:
    """How far the session can be trusted."""

    loss: Loss = Loss()
    floor: Quantiles = Quantiles()
    dispatch_lag: Quantiles = Quantiles()
    achieved_rate: float = 0.0
    offered_rate: float = 0.0
    saturated: bool = False
    cut: bool = False
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """manifest.json: one session. `state` is "recording" until the session was closed properly.

    `window_ns` = [start, end) of the measured part. `pids` are the target's processes, `observer_pids` ours.
    `irq_names`: irq number -> action names; `symbols`: kernel address -> name; `devices`: dev_t -> name;
    `cgroups`: kernfs id -> path; `maps`: rows (start, end, what) of the target's address space; all as strings
    for JSON. `cpu_seq`: last sequence number each CPU handed out, so that a loss at the very end shows too.
    `oracles`: the kernel's own counters over the measured window, for cross-checks.
    """

    schema: int
    state: str
    spec: RunSpec
    started_ns: int
    started_wall: str
    host: str = ""
    arm: str = ""
    window_ns: tuple[int, int] = (0, 0)
    pids: tuple[int, ...] = ()
    worker_tids: tuple[int, ...] = ()
    observer_pids: tuple[int, ...] = ()
    shapes: tuple[str, ...] = ()
    environment: dict[str, object] = field(default_factory=dict)
    probes: tuple[ProbeStatus, ...] = ()
    probe_mode: str = "none"
    health: Health = Health()
    irq_names: dict[str, str] = field(default_factory=dict)
    symbols: dict[str, str] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    cgroups: dict[str, str] = field(default_factory=dict)
    maps: tuple[tuple[int, int, str], ...] = ()
    cpu_seq: dict[str, int] = field(default_factory=dict)
    oracles: dict[str, object] = field(default_factory=dict)
