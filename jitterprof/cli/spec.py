"""From the words of the command line to a RunSpec; whatever makes no sense is said before anything starts."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from jitterprof.backends.settings import parse_settings as check_runtime_settings
from jitterprof.errors import SpecError
from jitterprof.load.arrival import parse_arrival
from jitterprof.load.workload import resolve
from jitterprof.model.run import RunSpec
from jitterprof.system.cpus import parse_cpu_list, validate_cpus
from jitterprof.system.files import Host
from jitterprof.system.thread_settings import parse_settings
from jitterprof.units import parse_duration_ns

BACKENDS = ("auto", "onnxruntime", "torch", "null")
DEVICES = ("cpu", "cuda", "rocm")
PROBE_MODES = ("auto", "bpf", "clocks", "procfs", "none")
KEEP_MODES = ("all", "tail")
GC_MODES = ("frozen", "on")
_MAX_THREADS = 4096
_MAX_WORKERS = 512


def _one_of(option: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise SpecError(f"{option} cannot be '{value}'", f"known: {', '.join(known)}")
    return value


def _dims(texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    dims = []
    for text in texts:
        name, equals, size = text.rpartition("=")
        if not equals or not name or not size.isdecimal() or int(size) < 1:
            raise SpecError(f"--dim {text} is not NAME=N", "write for example --dim batch=4")
        dims.append((name, int(size)))
    return tuple(dims)


def _positive(option: str, text: str) -> int:
    value = parse_duration_ns(text)
    if value <= 0:
        raise SpecError(f"{option} {text}: must be more than nothing", "write for example 30s")
    return value


def run_spec(
    workload: str,
    *,
    backend: str = "auto",
    device: str = "cpu",
    threads: int = 1,
    workers: int = 1,
    cpus: str = "",
    arrival: str = "closed",
    duration: str = "30s",
    requests: int | None = None,
    warmup: str = "2s",
    seed: int = 0,
    probes: str = "auto",
    keep: str = "all",
    slo: str | None = None,
    dims: Sequence[str] = (),
    input_shapes: Sequence[str] = (),
    settings: Sequence[str] = (),
    gc: str = "frozen",
) -> RunSpec:
    """Check everything that can be checked without loading the model. Raises SpecError or UnsupportedError."""
    resolve(workload)
    parse_arrival(arrival)
    if threads > _MAX_THREADS or workers > _MAX_WORKERS:
        raise SpecError(f"{threads} threads and {workers} workers", f"at most {_MAX_THREADS} and {_MAX_WORKERS}")
    chosen = parse_settings(settings)
    # What the load and the backend have an option of their own for.
    own = {"runtime.threads": str(threads), "runtime.gc": gc, **dict(chosen)}
    if input_shapes:
        chosen = (*chosen, ("input.shape", ",".join(input_shapes)))
    rest = tuple(pair for pair in chosen if pair[0] not in ("runtime.threads", "runtime.gc"))
    check_runtime_settings(pair for pair in rest if pair[0] != "runtime.omp_wait_policy")
    if keep == "tail" and probes not in ("auto", "bpf"):
        raise SpecError(
            f"--keep tail with --probes {probes}: there are no events to choose from", "leave out one of the two"
        )
    return RunSpec(
        workload=workload,
        backend=_one_of("--backend", backend, BACKENDS),
        device=_one_of("--device", device, DEVICES),
        threads=int(own["runtime.threads"]),
        workers=workers,
        cpus=validate_cpus(Host(), parse_cpu_list(cpus)) if cpus else (),
        arrival=arrival,
        duration_ns=_positive("--duration", duration),
        requests=requests,
        warmup_ns=parse_duration_ns(warmup),
        seed=seed,
        probes=_one_of("--probes", probes, PROBE_MODES),
        keep=_one_of("--keep", keep, KEEP_MODES),
        slo_ns=None if slo is None else _positive("--slo", slo),
        dims=_dims(dims),
        gc=_one_of("--gc", own["runtime.gc"], GC_MODES),
        settings=rest,
    )


def default_out(workload: str) -> Path:
    """A new name in the current directory: mlp-20261123-101500.jprof."""
    stem = Path(workload.split(":")[0]).stem or "run"
    return Path(f"{stem}-{datetime.now().strftime('%Y%m%d-%H%M%S')}.jprof")
