"""What this host can record and change, and how to get the rest: the logic behind `jitterprof doctor`."""

import ast
import importlib.util
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jitterprof.experiment.coverage import KERNEL_CAUSES, CauseCoverage, cause_coverage
from jitterprof.model.run import ProbeStatus
from jitterprof.resources import workloads_dir
from jitterprof.system.environment import Environment, read_environment
from jitterprof.system.files import Host
from jitterprof.system.kernel_config import Fact
from jitterprof.system.knobs import KNOBS
from jitterprof.system.rights import check_rights, lockdown_mode
from jitterprof.trace import bcc_module
from jitterprof.trace.btf import VMLINUX
from jitterprof.trace.catalog import PROBES
from jitterprof.trace.support import check_probes
from jitterprof.units import format_ns


@dataclass(frozen=True, slots=True)
class Row:
    """One finding. `state`: ok, partly, no, or "" for a plain fact. `fix`: one line, "" when there is nothing to do."""

    name: str
    state: str
    detail: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`verdict` and `fix` first: what works, and the one thing that would help most ("" when nothing is missing)."""

    verdict: str
    fix: str
    causes_visible: int
    causes_total: int
    host: tuple[Row, ...]
    rights: tuple[Row, ...]
    probes: tuple[Row, ...]
    causes: tuple[Row, ...]
    knobs: tuple[Row, ...]
    backends: tuple[Row, ...]
    workloads: tuple[Row, ...]
    environment: dict[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The document of `doctor --json`."""
        return {"schema": 1} | asdict(self)


def diagnose(host: Host | None = None) -> Diagnosis:
    """Examine a host (default: this one). Nothing is changed; probes are at most loaded and unloaded again.

    On a recorded tree (`Host(root)`) the probes cannot be tried and count as missing.
    """
    host = host or Host()
    environment = read_environment(host)
    prerequisites = _prerequisites(host)
    blocked = tuple(row for row in prerequisites if row.state == "no")
    statuses = _probe_statuses(host, blocked)
    coverage = cause_coverage(statuses)
    visible = sum(1 for row in coverage if row.cause in KERNEL_CAUSES and row.state == "visible" and _by_probe(row))
    partly = sum(1 for row in coverage if row.cause in KERNEL_CAUSES and row.state == "partly")
    return Diagnosis(
        verdict=_verdict(visible, partly, bool(blocked)),
        fix=_most_valuable_fix(blocked, statuses),
        causes_visible=visible,
        causes_total=len(KERNEL_CAUSES),
        host=_host_rows(host, environment),
        rights=tuple(
            Row(right.name, "ok" if right.granted else "no", right.reason, right.fix) for right in check_rights(host)
        ),
        probes=prerequisites + _probe_rows(statuses),
        causes=tuple(_cause_row(row) for row in coverage),
        knobs=_knob_rows(host),
        backends=_backend_rows(),
        workloads=tuple(_workload_row(path) for path in sorted(workloads_dir().glob("[!_]*.py"))),
        environment=environment.to_json(),
    )


def _by_probe(row: CauseCoverage) -> bool:
    return "probe" in row.source or not row.reason


def _verdict(visible: int, partly: int, blocked: bool) -> str:
    total = len(KERNEL_CAUSES)
    if blocked:
        return f"This host can record 0 of {total} kernel causes with eBPF; /proc shows {partly} of them roughly."
    more = f", {partly} more in part" if partly else ""
    return f"This host can record {visible} of {total} kernel causes with eBPF{more}."


def _prerequisites(host: Host) -> tuple[Row, ...]:
    """What eBPF needs before any single probe matters, most fundamental first."""
    types = host.exists(str(VMLINUX))
    mode, _how = lockdown_mode(host)
    confidential = mode == "confidentiality"
    bcc = bcc_module.find()
    rows = [
        Row(
            "kernel types",
            "ok" if types else "no",
            "BTF" if types else f"no {VMLINUX}",
            "" if types else "boot a kernel with CONFIG_DEBUG_INFO_BTF=y (every major distribution's is)",
        ),
        Row(
            "bcc",
            "ok" if bcc else "no",
            "" if bcc else "bcc is not installed",
            "" if bcc else bcc_module.HOW_TO_INSTALL,
        ),
    ]
    if confidential:
        detail = "lockdown 'confidentiality' keeps BPF from reading kernel memory"
        rows.append(Row("lockdown", "no", detail, "boot with lockdown=integrity, or with Secure Boot off"))
    for right in check_rights(host):
        if right.name in ("load BPF", "trace the kernel") and not right.granted:
            rows.append(Row(right.name, "no", f"no right to {right.name}: {right.reason}", right.fix))
    return tuple(rows)


def _probe_statuses(host: Host, blocked: tuple[Row, ...]) -> tuple[ProbeStatus, ...]:
    if blocked or not host.live:
        reason = f"not without {blocked[0].name}" if blocked else "not tried: this is not the running host"
        return tuple(ProbeStatus(probe.name, "missing", reason) for probe in PROBES)
    return check_probes()


def _most_valuable_fix(blocked: tuple[Row, ...], statuses: Iterable[ProbeStatus]) -> str:
    if blocked:
        more = f"; then {', '.join(row.name for row in blocked[1:])} (below)" if blocked[1:] else ""
        return f"{blocked[0].detail}: {blocked[0].fix}{more}"
    missing = next((status for status in statuses if status.state == "missing"), None)
    return f"probe {missing.name}: {missing.reason}" if missing else ""


def _probe_rows(statuses: Iterable[ProbeStatus]) -> tuple[Row, ...]:
    titles = {probe.name: probe.title for probe in PROBES}
    rows: list[Row] = []
    first_with: dict[str, str] = {}
    for status in statuses:
        state = {"on": "ok", "partial": "partly"}.get(status.state, "no")
        same = first_with.setdefault(status.reason, status.name)
        # One failure of the loader takes all probes with it: say it once.
        reason = status.reason if same == status.name or len(status.reason) < 40 else f"as {same}"
        rows.append(
            Row(status.name, state, titles[status.name] if state == "ok" else f"{titles[status.name]}: {reason}")
        )
    return tuple(rows)


def _cause_row(row: CauseCoverage) -> Row:
    state = {"visible": "ok", "partly": "partly", "missing": "no"}[row.state]
    return Row(row.cause.id, state, row.source or row.reason, "")


def _knob_rows(host: Host) -> tuple[Row, ...]:
    rows = []
    for knob in KNOBS:
        available, reason = knob.available(host)
        value = knob.read(host) or ""
        rows.append(Row(knob.id, "ok" if available else "no", value if available else reason))
    return tuple(rows)


def _backend_rows() -> tuple[Row, ...]:
    from jitterprof.backends.catalog import availability

    return tuple(
        Row(f"{row.backend} {row.device}", "ok" if row.available else "no", row.detail, row.fix)
        for row in availability()
    )


#: Packages that hold a model's weights; runtimes are a matter of the backend.
_RUNTIMES = ("torch", "onnxruntime", "onnx")


def _workload_row(path: Path) -> Row:
    """Read, not executed: its first sentence, and whether the packages it names are installed."""
    from jitterprof.backends.packages import EXTRAS

    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    title = " ".join((ast.get_docstring(tree) or "").split()).partition(". ")[0].rstrip(".")
    named: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call):
            named |= {str(word.value) for word in node.args if isinstance(word, ast.Constant)}
    needed = sorted(name for name in named if name in EXTRAS and name not in _RUNTIMES)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    name = path.stem.replace("_", "-")
    if not missing:
        return Row(name, "ok", title)
    return Row(name, "no", f"needs {', '.join(missing)}", f"pip install 'jitterprof[{EXTRAS[missing[0]]}]'")


def _fact(name: str, fact: Fact, text: str = "") -> Row:
    if fact.value is None:
        return Row(name, "partly", f"unknown: {fact.how}")
    return Row(name, "", f"{text or fact.value} ({fact.how})")


def _host_rows(host: Host, environment: Environment) -> tuple[Row, ...]:
    kernel, cpus, power, memory = environment.kernel, environment.cpus, environment.power, environment.memory
    slice_ns = kernel.base_slice_ns.value
    rows = [
        Row("kernel", "", f"{kernel.release} {kernel.machine}"),
        _fact("HZ", kernel.hz),
        _fact("HRTICK", kernel.hrtick),
        _fact("preempt", kernel.preempt),
        _fact("base slice", kernel.base_slice_ns, format_ns(slice_ns) if isinstance(slice_ns, int) else ""),
        Row("CPU", "", f"{cpus.model or 'unknown model'}, online {cpus.online}, ours {cpus.allowed}"),
    ]
    if cpus.siblings:
        rows.append(
            Row("SMT", "", f"cores shared by {' and '.join(cpus.siblings[:4])}{' ...' if cpus.siblings[4:] else ''}")
        )
    isolation = environment.isolation
    rows.append(
        Row("isolation", "", f"isolated {isolation.isolated or 'none'}, nohz_full {isolation.nohz_full or 'none'}")
    )
    frequency = f"{power.cpufreq_driver} {'/'.join(power.governors)}" if power.cpufreq_driver else "no cpufreq driver"
    idle = f"{power.cpuidle_driver or 'no'} cpuidle"
    rows.append(Row("power", "", f"{frequency}, {idle} {' '.join(power.idle_states)}".rstrip()))
    rows.append(
        Row(
            "memory", "", f"{memory.total_bytes / 2**30:.1f} GiB, THP {memory.thp or 'none'}, swap {_swap(environment)}"
        )
    )
    limits = environment.cgroup
    quota = f"{limits.quota_cpus:g} CPUs" if limits.quota_cpus is not None else "none"
    rows.append(Row("CPU quota", "", f"{quota} (cgroup v{limits.version})" if limits.version else "no cgroup mounted"))
    if (lockdown := lockdown_mode(host))[0] is None:
        rows.append(Row("lockdown", "partly", f"unknown: {lockdown[1]}"))
    else:
        rows.append(Row("lockdown", "", f"{lockdown[0]} ({lockdown[1]})"))
    rows.append(Row("virtualised", "", environment.hypervisor or "no sign of it"))
    for gpu in environment.gpus:
        rows.append(Row("GPU", "", f"{gpu.kind} driver {gpu.driver}: {', '.join(gpu.devices) or 'no device listed'}"))
    return tuple(rows)


def _swap(environment: Environment) -> str:
    return ", ".join(entry.split(":")[0] for entry in environment.memory.swap) or "none"
