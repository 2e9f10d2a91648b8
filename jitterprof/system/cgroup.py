"""Control groups of a process, v1 and v2 alike: where they lie and which limits bite."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from jitterprof.system.files import Host


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted cgroup hierarchy. `root` is the cgroup that the mount shows at its top ("/" without bind mounts)."""

    version: int
    controllers: frozenset[str]
    mount: str
    root: str


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """Limits of a process, each the tightest on the way up to the root; None: no limit, or no such controller.

    `quota_cpus`: CPU quota as a number of CPUs, set at `quota_path` with `quota_us` per `period_us`.
    `weight`: cpu.weight (v2) or cpu.shares (v1) of the own group, named by `weight_file`.
    """

    version: int = 0
    cpu_path: str = ""
    quota_cpus: float | None = None
    quota_us: int | None = None
    period_us: int | None = None
    burst_us: int | None = None
    quota_path: str = ""
    weight: int | None = None
    weight_file: str = ""
    idle: bool = False
    memory_limit_bytes: int | None = None
    cpuset: str = ""
    mems: str = ""


def hierarchies(host: Host) -> tuple[Hierarchy, ...]:
    """Every cgroup mount this process can see."""
    found = []
    for line in (host.read_text("/proc/self/mountinfo") or "").splitlines():
        # 32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
        before, _, after = line.partition(" - ")
        fields, tail = before.split(), after.split()
        if len(fields) < 5 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if tail[0] == "cgroup2" else 1
        mount = fields[4].replace("\\040", " ")
        if not host.exists(mount):
            continue  # another mount hides it
        if version == 2:
            controllers = frozenset((host.read_text(f"{mount}/cgroup.controllers") or "").split())
        else:
            controllers = frozenset(tail[2].split(",")) - {"rw", "ro"}
        found.append(Hierarchy(version, controllers, mount, fields[3]))
    return tuple(found)


def hierarchy_of(host: Host, controller: str) -> Hierarchy | None:
    """The hierarchy that has a controller; a controller is in one at most. v2 is also taken without the file."""
    mounted = hierarchies(host)
    for hierarchy in mounted:
        if controller in hierarchy.controllers:
            return hierarchy
    # cgroup.controllers of a namespaced v2 root lists what was delegated; cpu.stat is there regardless.
    v2 = [hierarchy for hierarchy in mounted if hierarchy.version == 2]
    return v2[0] if v2 and len(v2) == len(mounted) else None


def membership(host: Host, pid: int | str, hierarchy: Hierarchy) -> str | None:
    """Path of the process's cgroup inside `hierarchy` as /proc says it, or None when the process is gone."""
    for line in (host.read_text(f"/proc/{pid}/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy.version == 2:
            if number == "0" and not controllers:
                return path
        elif frozenset(controllers.split(",")) & hierarchy.controllers:
            return path
    return None


def directory(hierarchy: Hierarchy, path: str) -> str | None:
    """The directory of cgroup `path`, or None when this mount does not show it (another namespace's cgroup)."""
    if path.startswith("/.."):
        return None
    inside = PurePosixPath(path)
    top = PurePosixPath(hierarchy.root)
    if hierarchy.root != "/" and inside.is_relative_to(top):
        inside = PurePosixPath("/") / inside.relative_to(top)
    elif hierarchy.root.startswith("/.."):
        inside = PurePosixPath("/")
    return hierarchy.mount.rstrip("/") + ("" if str(inside) == "/" else str(inside))


def cgroup_directory(host: Host, pid: int | str, controller: str) -> str | None:
    """Directory of the process's cgroup for a controller, or None when there is none to be seen."""
    hierarchy = hierarchy_of(host, controller)
    if hierarchy is None:
        return None
    path = membership(host, pid, hierarchy)
    if path is None:
        return None
    found = directory(hierarchy, path)
    # In a container without a cgroup namespace the path may be the host's while the mount shows our own group only.
    return found if found is not None and host.exists(found) else hierarchy.mount


def ancestors(host: Host, pid: int | str, controller: str) -> tuple[str, ...]:
    """The process's cgroup directory and those above it, up to the mount: own group first."""
    hierarchy = hierarchy_of(host, controller)
    own = cgroup_directory(host, pid, controller)
    if hierarchy is None or own is None:
        return ()
    chain = [own]
    while chain[-1] != hierarchy.mount and len(chain) < 64:
        chain.append(str(PurePosixPath(chain[-1]).parent))
    return tuple(chain)


def _quota(host: Host, path: str, version: int) -> tuple[int, int] | None:
    if version == 2:
        words = (host.read_text(f"{path}/cpu.max") or "max").split()
        return None if words[0] == "max" else (int(words[0]), int(words[1]) if len(words) > 1 else 100_000)
    quota = host.read_int(f"{path}/cpu.cfs_quota_us")
    period = host.read_int(f"{path}/cpu.cfs_period_us")
    return None if quota is None or period is None or quota <= 0 or period <= 0 else (quota, period)


def cgroup_limits(host: Host, pid: int | str = "self") -> CgroupLimits:
    """What the cgroups of a process allow it. An unlimited host gives an object of Nones."""
    hierarchy = hierarchy_of(host, "cpu")
    version = hierarchy.version if hierarchy else 0
    chain = ancestors(host, pid, "cpu")
    quotas = [(found[0] / found[1], path, found) for path in chain if (found := _quota(host, path, version))]
    ratio, quota_path, quota = min(quotas) if quotas else (None, "", None)
    own = chain[0] if chain else ""
    weight_file = "cpu.weight" if version == 2 else "cpu.shares"
    burst_file = "cpu.max.burst" if version == 2 else "cpu.cfs_burst_us"

    memory = hierarchy_of(host, "memory")
    memory_file = "memory.max" if memory is not None and memory.version == 2 else "memory.limit_in_bytes"
    limits = [host.read_int(f"{path}/{memory_file}") for path in ancestors(host, pid, "memory")]
    # v1 writes "no limit" as the largest page-aligned number.
    bounded = [limit for limit in limits if limit is not None and limit < 1 << 60]

    cpuset = cgroup_directory(host, pid, "cpuset")
    return CgroupLimits(
        version=version,
        cpu_path=own,
        quota_cpus=ratio,
        quota_us=quota[0] if quota else None,
        period_us=quota[1] if quota else None,
        burst_us=host.read_int(f"{quota_path}/{burst_file}") if quota_path else None,
        quota_path=quota_path,
        weight=host.read_int(f"{own}/{weight_file}") if own else None,
        weight_file=weight_file if own else "",
        idle=bool(own and host.read_int(f"{own}/cpu.idle")),
        memory_limit_bytes=min(bounded) if bounded else None,
        cpuset=_first(host, cpuset, "cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"),
        mems=_first(host, cpuset, "cpuset.mems.effective", "cpuset.effective_mems", "cpuset.mems"),
    )


def _first(host: Host, path: str | None, *names: str) -> str:
    return next((text for name in names if path and (text := host.read_text(f"{path}/{name}"))), "")
