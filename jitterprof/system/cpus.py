"""CPU lists as the kernel writes them ("0-3,8"), and which CPUs to use for what."""

import os
import re
from collections.abc import Collection, Iterable, Mapping

from jitterprof.errors import SpecError
from jitterprof.system.files import Host

_PART = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
_MAX_CPU = 1 << 16


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """CPU numbers of "0-3,8" or "0-6:2", ascending and without repeats; "" is none. Raises SpecError."""
    cpus: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = _PART.fullmatch(part)
        if match is None:
            raise SpecError(f"'{part}' in CPU list '{text}' is not a CPU or a range", "write for example 0-3,8")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if last < first or step == 0:
            raise SpecError(f"'{part}' in CPU list '{text}' is empty", "write the smaller CPU first: 0-3")
        if last >= _MAX_CPU:
            raise SpecError(f"'{part}' in CPU list '{text}': no machine has CPU {last}", "write for example 0-3,8")
        cpus.update(range(first, last + 1, step))
    return tuple(sorted(cpus))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The shortest list with ranges: (0, 1, 2, 8) is "0-2,8"."""
    ranges: list[tuple[int, int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1] = (ranges[-1][0], cpu)
        else:
            ranges.append((cpu, cpu))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def online_cpus(host: Host) -> tuple[int, ...]:
    """CPUs that are online; those of /proc/stat where sysfs is hidden."""
    text = host.read_text("/sys/devices/system/cpu/online")
    if text is not None:
        return parse_cpu_list(text)
    return tuple(int(line[3 : line.index(" ")]) for line in _stat_cpu_lines(host))


def _stat_cpu_lines(host: Host) -> list[str]:
    return [line for line in (host.read_text("/proc/stat") or "").splitlines() if re.match(r"cpu\d+ ", line)]


def allowed_cpus(host: Host, pid: int | str = "self") -> tuple[int, ...]:
    """CPUs that a process may run on: its affinity, which a cpuset has already cut."""
    if host.live and pid == "self":
        return tuple(sorted(os.sched_getaffinity(0)))
    for line in (host.read_text(f"/proc/{pid}/status") or "").splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return parse_cpu_list(line.split(":", 1)[1])
    return online_cpus(host)


def smt_siblings(host: Host) -> dict[int, tuple[int, ...]]:
    """CPU -> all CPUs of its core, itself included."""
    siblings = {}
    for path in host.glob("/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list"):
        cpu = int(path.split("/")[5].removeprefix("cpu"))
        siblings[cpu] = parse_cpu_list(host.read_text(path) or str(cpu))
    return siblings


def validate_cpus(host: Host, cpus: Collection[int], pid: int | str = "self") -> tuple[int, ...]:
    """`cpus`, ascending, when each is online and allowed to us. SpecError names the CPU and what is there."""
    online, allowed = set(online_cpus(host)), set(allowed_cpus(host, pid))
    if not cpus:
        raise SpecError("the CPU list is empty", f"this process may use CPUs {format_cpu_list(allowed)}")
    absent = sorted(set(cpus) - online)
    if absent:
        word = "CPU" if len(absent) == 1 else "CPUs"
        verb = "is" if len(absent) == 1 else "are"
        raise SpecError(
            f"{word} {format_cpu_list(absent)} {verb} not online here", f"online CPUs are {format_cpu_list(online)}"
        )
    forbidden = sorted(set(cpus) - allowed)
    if forbidden:
        raise SpecError(
            f"this process may not run on CPU {format_cpu_list(forbidden)} (its affinity or cpuset forbids it)",
            f"it may use {format_cpu_list(allowed)}; widen the cpuset or the affinity of the shell to use more",
        )
    return tuple(sorted(set(cpus)))


def housekeeping_cpus(
    allowed: Collection[int], workload: Collection[int], siblings: Mapping[int, Collection[int]]
) -> tuple[int, ...]:
    """Where the recorder should run: away from the workload's CPUs and, if that leaves any, from their SMT siblings.

    When the workload has every CPU, all of them: the recorder then relies on its low priority.
    """
    away = set(allowed) - set(workload)
    cores = {sibling for cpu in workload for sibling in siblings.get(cpu, (cpu,))}
    return tuple(sorted((away - cores) or away or set(allowed)))
