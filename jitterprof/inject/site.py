"""Where faults are injected."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    """`cpu`: the victim's. `other`: another CPU, or -1 where there is none. `folder`: on the disk to read from.

    `cpu_cgroup`: directory of the cgroup with the cpu controller that the victim starts in, "" where there is none to
    be seen; `cgroup_version`: 1 or 2.
    """

    cpu: int
    other: int
    folder: str = "/var/tmp"
    cpu_cgroup: str = ""
    cgroup_version: int = 0


def needs_two_cpus(site: Site) -> str:
    """Why a fault that is sent from another CPU cannot be injected here; "" when it can."""
    return "" if site.other >= 0 else "needs a second CPU"
