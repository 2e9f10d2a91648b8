"""What is done to the victim's process as a whole: stopping it, and putting it under a CPU quota.

Both would outlast their injector when that is killed in a pulse, so each has a guard (inject/guard.py) to undo it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jitterprof.inject.fault import Pulse
from jitterprof.inject.site import Site
from jitterprof.inject.timetable import sleep_until

#: cpu.shares (v1) and cpu.weight (v2): nothing but the quota is to keep the victim from running.
_WEIGHT_MAX = ("262144", "10000")
PERIOD_US = 100_000
QUOTA_US = 20_000


@contextmanager
def guarded(*undo: str) -> Iterator[None]:
    """A guard undoes it when this context is left, in whatever way, and has ended when that is done."""
    guard = subprocess.Popen(
        [sys.executable, "-m", "jitterprof.inject.guard", *undo], stdin=subprocess.PIPE, start_new_session=True
    )
    assert guard.stdin is not None
    try:
        yield
    finally:
        guard.stdin.close()
        guard.wait()


@contextmanager
def stopped(_site: Site, pid: int) -> Iterator[Pulse]:
    """SIGSTOP, and SIGCONT at the end of the pulse."""

    def pulse(stop_ns: int) -> int:
        try:
            os.kill(pid, signal.SIGSTOP)
            sleep_until(stop_ns)
        finally:
            os.kill(pid, signal.SIGCONT)
        return 0

    with guarded("continue", str(pid)):
        try:
            yield pulse
        finally:
            # The guard's work too, in case that it is the guard who was killed.
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGCONT)


def throttled_ns(group: Path) -> int:
    """Time that the tasks of a cgroup were throttled so far; a stretch counts when it is over."""
    stat = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(stat["throttled_time"]) if "throttled_time" in stat else int(stat["throttled_usec"]) * 1000


@contextmanager
def throttled(site: Site, pid: int) -> Iterator[Pulse]:
    """For each pulse the victim sits in a cgroup that may run QUOTA_US of every PERIOD_US."""
    home = Path(site.cpu_cgroup)
    group = _above(site) / f"jitterprof-quota-{os.getpid()}"

    def pulse(stop_ns: int) -> int:
        before = throttled_ns(group)
        try:
            (group / "cgroup.procs").write_text(str(pid))
            sleep_until(stop_ns)
            # Leave right after a stretch of throttling, so that none is half counted.
            last = throttled_ns(group)
            give_up = time.monotonic_ns() + 2 * PERIOD_US * 1000
            while throttled_ns(group) == last and time.monotonic_ns() < give_up:
                time.sleep(0.0005)
        finally:
            (home / "cgroup.procs").write_text(str(pid))
        return throttled_ns(group) - before

    with guarded("cgroup", str(group), str(home)):
        group.mkdir()
        try:
            if site.cgroup_version == 2:
                (group / "cpu.weight").write_text(_WEIGHT_MAX[1])
                (group / "cpu.max").write_text(f"{QUOTA_US} {PERIOD_US}")
            else:
                (group / "cpu.shares").write_text(_WEIGHT_MAX[0])
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(QUOTA_US))
            yield pulse
        finally:
            for left in (group / "cgroup.procs").read_text().split():
                (home / "cgroup.procs").write_text(left)
            group.rmdir()


def _above(site: Site) -> Path:
    """Where a cgroup for the victim goes. v2: a group that has processes can have no children under control, so beside
    its own; the root may have both."""
    home = Path(site.cpu_cgroup)
    beside = site.cgroup_version == 2 and (home.parent / "cgroup.procs").exists()
    return home.parent if beside else home


def throttled_allowed(site: Site) -> str:
    """Why there can be no CPU quota here; "" when there can."""
    if not site.cpu_cgroup:
        return "no cgroup with the cpu controller is visible"
    above = _above(site)
    control = above / "cgroup.subtree_control"
    if site.cgroup_version == 2 and not (control.exists() and "cpu" in control.read_text().split()):
        return f"the cpu controller is not on in {control}"
    writable = os.access(above, os.W_OK) and os.access(Path(site.cpu_cgroup) / "cgroup.procs", os.W_OK)
    return "" if writable else f"{above} is not writable"
