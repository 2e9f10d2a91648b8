"""The fingerprint of a host: everything that decides timing and could differ between two sessions."""

import platform
import re
from dataclasses import asdict, dataclass

from jitterprof.system import cpus
from jitterprof.system.cgroup import CgroupLimits, cgroup_limits
from jitterprof.system.files import Host
from jitterprof.system.kernel_config import KernelFacts, boot_option, command_line, kernel_facts
from jitterprof.system.naming import irq_names
from jitterprof.system.rights import lockdown_mode

_CPU = "/sys/devices/system/cpu"
#: Boot parameters that decide timing.
_BOOT_OPTIONS = (
    "isolcpus", "nohz_full", "rcu_nocbs", "nohz", "preempt", "threadirqs", "idle", "processor.max_cstate",
    "intel_idle.max_cstate", "intel_pstate", "amd_pstate", "cpuidle.off", "mitigations", "transparent_hugepage",
    "iommu", "intel_iommu", "skew_tick", "tsc", "clocksource", "nosmt", "irqaffinity",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CpuTopology:
    """`siblings`: CPUs that share a core, one list per core with more than one; `caches`: CPUs that share a last-level
    cache, in the same way; `numa`: node -> CPUs."""

    model: str
    online: str
    allowed: str
    siblings: tuple[str, ...]
    caches: tuple[str, ...]
    numa: dict[str, str]
    max_khz: int | None


@dataclass(frozen=True, slots=True)
class Isolation:
    """CPU lists; "" is none. `boot`: the boot parameters that decide timing, as given."""

    isolated: str
    nohz_full: str
    boot: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Power:
    """Distinct values over all CPUs; empty where the host has no such driver. `idle_states`: "name:exit us"."""

    cpufreq_driver: str
    governors: tuple[str, ...]
    epp: tuple[str, ...]
    boost: str
    cpuidle_driver: str
    cpuidle_governor: str
    idle_states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """Sizes in bytes. `swap`: "device:bytes" in use as swap, zram among them."""

    total_bytes: int
    swap: tuple[str, ...]
    thp: str
    thp_defrag: str
    swappiness: int | None
    numa_balancing: int | None


@dataclass(frozen=True, slots=True)
class Irq:
    """One interrupt line: its action names and the CPUs that serve it."""

    number: int
    name: str
    cpus: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator driver that is loaded."""

    kind: str
    driver: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Environment:
    """The fingerprint. `mitigations`: those in effect, by vulnerability."""

    kernel: KernelFacts
    cpus: CpuTopology
    isolation: Isolation
    power: Power
    memory: Memory
    cgroup: CgroupLimits
    mitigations: dict[str, str]
    lockdown: str | None
    clocksource: str
    hypervisor: str
    irqs: tuple[Irq, ...]
    gpus: tuple[Gpu, ...]
    python: str = platform.python_version()

    def to_json(self) -> dict[str, object]:
        """Plain dicts, lists and scalars, for manifest.json."""
        plain: dict[str, object] = asdict(self)
        return plain


def read_environment(host: Host, pid: int | str = "self") -> Environment:
    """The fingerprint of a host as seen by process `pid`. What it does not offer is empty or None, never an error."""
    return Environment(
        kernel=kernel_facts(host),
        cpus=_topology(host, pid),
        isolation=_isolation(host),
        power=_power(host),
        memory=_memory(host),
        cgroup=cgroup_limits(host, pid),
        mitigations=_mitigations(host),
        lockdown=lockdown_mode(host)[0],
        clocksource=host.read_text("/sys/devices/system/clocksource/clocksource0/current_clocksource") or "",
        hypervisor=hypervisor(host),
        irqs=_irqs(host),
        gpus=_gpus(host),
    )


def cpu_model(host: Host) -> str:
    """Marketing name, or implementer and part where the architecture has no name (arm64)."""
    text = host.read_text("/proc/cpuinfo") or ""
    for name in ("model name", "Model", "Processor", "cpu model"):
        if match := re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE):
            return match[1]
    part = re.search(r"^CPU part\s*:\s*(\S+)$", text, re.MULTILINE)
    implementer = re.search(r"^CPU implementer\s*:\s*(\S+)$", text, re.MULTILINE)
    return f"ARM implementer {implementer[1]} part {part[1]}" if part and implementer else ""


def hypervisor(host: Host) -> str:
    """Which hypervisor we are a guest of, "" for none that shows."""
    vendor = host.read_text("/sys/class/dmi/id/sys_vendor") or ""
    if host.read_text("/sys/hypervisor/type"):
        return host.read_text("/sys/hypervisor/type") or ""
    flags = re.search(r"^flags\s*:.*\bhypervisor\b", host.read_text("/proc/cpuinfo") or "", re.MULTILINE)
    clocks = host.read_text("/sys/devices/system/clocksource/clocksource0/available_clocksource") or ""
    for clock, name in (("kvm-clock", "kvm"), ("hyperv", "hyperv"), ("xen", "xen")):
        if clock in clocks:
            return name
    guests = ("QEMU", "Amazon EC2", "Google", "Microsoft Corporation", "VMware, Inc.", "Xen")
    if flags or vendor in guests:
        return vendor or "unknown hypervisor"
    return ""


def _distinct(host: Host, pattern: str) -> tuple[str, ...]:
    return tuple(sorted({text for path in host.glob(pattern) if (text := host.read_text(path))}))


def _topology(host: Host, pid: int | str) -> CpuTopology:
    cores = {cpus.format_cpu_list(group) for group in cpus.smt_siblings(host).values() if len(group) > 1}
    nodes = host.glob("/sys/devices/system/node/node[0-9]*/cpulist")
    return CpuTopology(
        model=cpu_model(host),
        online=cpus.format_cpu_list(cpus.online_cpus(host)),
        allowed=cpus.format_cpu_list(cpus.allowed_cpus(host, pid)),
        siblings=_in_order(cores),
        caches=_in_order(_caches(host)),
        numa={path.split("/")[5].removeprefix("node"): host.read_text(path) or "" for path in nodes},
        max_khz=max(
            (khz for path in host.glob(f"{_CPU}/cpu[0-9]*/cpufreq/cpuinfo_max_freq") if (khz := host.read_int(path))),
            default=None,
        ),
    )


def _in_order(lists: set[str]) -> tuple[str, ...]:
    return tuple(sorted(lists, key=lambda text: int(re.split("[-,]", text)[0])))


def _caches(host: Host) -> set[str]:
    """CPU lists of the last-level caches that more than one CPU uses."""
    shared: dict[str, tuple[int, str]] = {}
    for path in host.glob(f"{_CPU}/cpu[0-9]*/cache/index*/level"):
        cpu, level = path.split("/")[5], host.read_int(path) or 0
        users = host.read_text(path.replace("/level", "/shared_cpu_list")) or ""
        shared[cpu] = max(shared.get(cpu, (0, "")), (level, users))
    return {users for _, users in shared.values() if len(cpus.parse_cpu_list(users)) > 1}


def _isolation(host: Host) -> Isolation:
    nohz_full = host.read_text(f"{_CPU}/nohz_full") or ""
    return Isolation(
        isolated=host.read_text(f"{_CPU}/isolated") or "",
        nohz_full="" if nohz_full == "(null)" else nohz_full,
        boot=tuple(word for word in command_line(host) if word.partition("=")[0] in _BOOT_OPTIONS),
    )


def _power(host: Host) -> Power:
    boost = host.read_text(f"{_CPU}/cpufreq/boost")
    no_turbo = host.read_text(f"{_CPU}/intel_pstate/no_turbo")
    if boost is None and no_turbo is not None:
        boost = "0" if no_turbo == "1" else "1"
    states = []
    for path in host.glob(f"{_CPU}/cpu0/cpuidle/state[0-9]*"):
        off = " (disabled)" if host.read_text(f"{path}/disable") == "1" else ""
        states.append(f"{host.read_text(f'{path}/name')}:{host.read_text(f'{path}/latency')}{off}")
    return Power(
        cpufreq_driver=", ".join(_distinct(host, f"{_CPU}/cpu[0-9]*/cpufreq/scaling_driver")),
        governors=_distinct(host, f"{_CPU}/cpu[0-9]*/cpufreq/scaling_governor"),
        epp=_distinct(host, f"{_CPU}/cpu[0-9]*/cpufreq/energy_performance_preference"),
        boost=boost or "",
        cpuidle_driver=host.read_text(f"{_CPU}/cpuidle/current_driver") or "",
        cpuidle_governor=host.read_text(f"{_CPU}/cpuidle/current_governor") or "",
        idle_states=tuple(states),
    )


def _memory(host: Host) -> Memory:
    total = re.search(r"^MemTotal:\s*(\d+) kB", host.read_text("/proc/meminfo") or "", re.MULTILINE)
    swaps = [line.split() for line in (host.read_text("/proc/swaps") or "").splitlines()[1:]]
    return Memory(
        total_bytes=int(total[1]) * 1024 if total else 0,
        swap=tuple(f"{fields[0]}:{int(fields[2]) * 1024}" for fields in swaps if len(fields) > 2),
        thp=host.read_choice("/sys/kernel/mm/transparent_hugepage/enabled") or "",
        thp_defrag=host.read_choice("/sys/kernel/mm/transparent_hugepage/defrag") or "",
        swappiness=host.read_int("/proc/sys/vm/swappiness"),
        numa_balancing=host.read_int("/proc/sys/kernel/numa_balancing"),
    )


def _mitigations(host: Host) -> dict[str, str]:
    found = {path.rsplit("/", 1)[1]: host.read_text(path) or "" for path in host.glob(f"{_CPU}/vulnerabilities/*")}
    option = boot_option(host, "mitigations")
    chosen = {"cmdline": option} if option else {}
    return chosen | {name: text for name, text in found.items() if text and text != "Not affected"}


def _irqs(host: Host) -> tuple[Irq, ...]:
    lines = []
    for number, name in irq_names(host).items():
        affinity = host.read_text(f"/proc/irq/{number}/effective_affinity_list")
        lines.append(Irq(number, name, affinity or host.read_text(f"/proc/irq/{number}/smp_affinity_list") or ""))
    return tuple(lines)


def _gpus(host: Host) -> tuple[Gpu, ...]:
    found = []
    nvidia = host.read_text("/proc/driver/nvidia/version")
    if nvidia is not None:
        version = re.search(r"Kernel Module.*?\s(\d+[\d.]+)", nvidia)
        models = []
        for path in host.glob("/proc/driver/nvidia/gpus/*/information"):
            model = re.search(r"^Model:\s*(.+)$", host.read_text(path) or "", re.MULTILINE)
            models.append(model[1] if model else path.split("/")[5])
        found.append(Gpu("nvidia", version[1] if version else "unknown", tuple(models)))
    if host.exists("/sys/module/amdgpu"):
        version_text = host.read_text("/sys/module/amdgpu/version") or "in-tree"
        nodes = host.glob("/sys/class/kfd/kfd/topology/nodes/*/name")
        names = tuple(text for path in nodes if (text := host.read_text(path)))
        found.append(Gpu("amd", version_text, names))
    return tuple(found)
