"""A CPU quota: for each pulse the victim sits in a cgroup that may run `--quota-ms` of every `--period-ms`.

With --stay-ms a pulse lasts that long, and its --pulse-ms is what the quota takes away of every period. The kernel's
clock tick makes that coarse: `throttled_ns` of the log says how much it was.
"""

import argparse
import sys
import time
from pathlib import Path

from program import begin, pulses, sleep_until

_V1 = Path("/sys/fs/cgroup/cpu")
_V2 = Path("/sys/fs/cgroup")


def _extra(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quota-ms", type=float, default=20.0)
    parser.add_argument("--period-ms", type=float, default=100.0)
    parser.add_argument("--stay-ms", type=float, default=0.0)


def _home(pid: int, v1: bool) -> Path:
    """The cgroup directory that `pid` is in now."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if v1 and "cpu" in controllers.split(","):
            return _V1 / path.lstrip("/")
        if not v1 and not controllers:
            return _V2 / path.lstrip("/")
    sys.exit(f"quota: process {pid} is in no cpu cgroup")


def _limit(group: Path, v1: bool, quota_us: int, period_us: int) -> None:
    if v1:
        (group / "cpu.cfs_period_us").write_text(str(period_us))
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))
    else:
        (group / "cpu.max").write_text(f"{quota_us} {period_us}")


def _throttled_ns(group: Path) -> int:
    stat = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(stat["throttled_time"]) if "throttled_time" in stat else int(stat["throttled_usec"]) * 1000


if __name__ == "__main__":
    plan = begin("quota", extra=_extra)
    pid = plan.victim_pid
    v1 = (_V1 / "cpu.cfs_quota_us").exists() or (_V1 / "cpu.stat").exists()
    home = _home(pid, v1)
    parent = _V1 if v1 else home.parent
    if not v1 and "cpu" not in (parent / "cgroup.subtree_control").read_text().split():
        sys.exit(f"quota: the cpu controller is not enabled in {parent}/cgroup.subtree_control")
    group = parent / f"jp-quota-{pid}"
    group.mkdir()
    try:
        _limit(group, v1, round(plan.arguments.quota_ms * 1e3), round(plan.arguments.period_ms * 1e3))

        def pulse(number: int, stop_ns: int) -> dict[str, int]:
            if plan.arguments.stay_ms:
                stop_ns += round(plan.arguments.stay_ms * 1e6) - plan.dose_ns(number)
                period_us = round(plan.arguments.period_ms * 1e3)
                _limit(group, v1, period_us - round(plan.dose_ns(number) / 1e3), period_us)
            before = _throttled_ns(group)
            try:
                (group / "cgroup.procs").write_text(str(pid))
                sleep_until(stop_ns)
                # cpu.stat counts a stretch when it ends: leave right after one, so that none is half counted.
                last = _throttled_ns(group)
                give_up = time.monotonic() + 1.0
                while _throttled_ns(group) == last and time.monotonic() < give_up:
                    time.sleep(0.0005)
            finally:
                (home / "cgroup.procs").write_text(str(pid))
            return {"throttled_ns": _throttled_ns(group) - before}

        pulses(plan, pulse)
    finally:
        # Whoever the victim started in a pulse comes out with it: a cgroup goes only when it is empty.
        for left in (group / "cgroup.procs").read_text().split():
            (home / "cgroup.procs").write_text(left)
        group.rmdir()
