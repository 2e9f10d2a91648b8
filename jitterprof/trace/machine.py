"""What the machine, rather than the kernel, leaves out: counters, frequencies, CPUs that share something."""

from dataclasses import dataclass
from pathlib import Path

from jitterprof.model.event import Neighbour
from jitterprof.model.run import ProbeStatus
from jitterprof.trace.counters import COUNTERS, Counter, why_not_counted

_CPU = "sys/devices/system/cpu"
#: As many as fit the programs' list (probes/neighbour.bpf.c).
MOST_NEIGHBOURS = 256


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The CPUs beside one CPU: `siblings` are threads of its core, `others` share its last-level cache."""

    siblings: tuple[int, ...]
    others: tuple[int, ...]

    def words(self) -> tuple[int, ...]:
        """As the programs read them, siblings first: CPU | Neighbour << 16."""
        siblings = [cpu | Neighbour.SMT << 16 for cpu in self.siblings]
        return (*siblings, *(cpu | Neighbour.CACHE << 16 for cpu in self.others))[:MOST_NEIGHBOURS]


def _cpus(text: str) -> list[int]:
    """ "0-2,8" as numbers."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # A CPU that is offline has no such file, and neither have some guests.


def neighbours(cpus: int, root: Path = Path("/")) -> dict[int, Neighbours]:
    """CPU -> its neighbours, for CPUs 0 .. cpus - 1 that have any."""
    found = {}
    for cpu in range(cpus):
        base = root / _CPU / f"cpu{cpu}"
        siblings = {*_cpus(_read(base / "topology" / "thread_siblings_list"))} - {cpu}
        levels = {
            int(_read(index / "level") or 0): _cpus(_read(index / "shared_cpu_list"))
            for index in base.glob("cache/index*")
        }
        others = {*levels[max(levels)]} - siblings - {cpu} if levels else set()
        if siblings or others:
            found[cpu] = Neighbours(tuple(sorted(siblings)), tuple(sorted(others)))
    return found


def frequencies(cpus: int, root: Path = Path("/")) -> dict[int, int]:
    """CPU -> kHz at which it runs now, for CPUs 0 .. cpus - 1 whose frequency the kernel sets."""
    texts = {cpu: _read(root / _CPU / f"cpu{cpu}" / "cpufreq" / "scaling_cur_freq") for cpu in range(cpus)}
    return {cpu: int(text) for cpu, text in texts.items() if text.strip().isdigit()}


def machine_limits(
    cpus: int, counters: tuple[Counter, ...] = COUNTERS, root: Path = Path("/")
) -> tuple[ProbeStatus, ...]:
    """Probes that this machine leaves missing or partial, with the reason."""
    limits = []
    tickless = _read(root / _CPU / "nohz_full").strip().replace("(null)", "")
    few_ticks = f"CPUs {tickless} have no regular ticks (nohz_full), so they are looked at only by chance"
    if reason := why_not_counted(counters):
        limits.append(ProbeStatus("pmu", "missing", reason))
    if not (root / _CPU / "cpu0" / "cpufreq").exists():
        reason = "the kernel does not set the frequency of this machine's CPUs (no cpufreq driver, as in most guests)"
        limits.append(ProbeStatus("frequency", "missing", reason))
    if not neighbours(cpus, root):
        reason = "no CPU here shares a core or a last-level cache with another, as far as the kernel says"
        limits.append(ProbeStatus("neighbour", "missing", reason))
    elif tickless:
        limits.append(ProbeStatus("neighbour", "partial", few_ticks))
    return tuple(limits)
