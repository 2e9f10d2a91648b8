"""The accuracy campaign: every fault on every workload, recorded once, scored as often as the analysis changes.

    python tests/truth/campaign.py record DIR [--pulses 15] [--budget-s 500] [--only hog,straggler_fifo.ort-2]
    python tests/truth/campaign.py score DIR [--rows rows.jsonl] [--table table.md]

`record` leaves out what DIR holds already, so that it may be stopped and started again; it ends by itself when the
budget is used up, with status 3 while something is left to do. Needs root and two CPUs.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from faults import CPUS, DOSES_MS, Case, cases, victim_cpu
from injectors.control import CONTROL_ENV, OTHER_CPU_ENV
from injectors.injector import VICTIM_ACTIONS, Injector
from scoring import Score, score_case
from tables import report

from jitterprof.experiment.session import record_session
from jitterprof.model.run import RunSpec
from jitterprof.store import open_run
from jitterprof.units import NS_PER_MS, NS_PER_S

HERE = Path(__file__).resolve().parent
GAP_MS = 120.0
#: Sham pulses cost nothing, and a false alarm is rare: more of them.
SHAM_FACTOR, SHAM_GAP_MS = 6, 30.0
#: From the victim's first request; its warm-up is over by then.
DELAY_MS, WARMUP_NS = 1300, NS_PER_S
#: What a pulse lasts beyond its dose: the look at the answer, or a stay in the cgroup.
_ACTION_MS, _QUOTA_MS = 30.0, 60.0
_MORE_TO_DO = 3


def record_case(case: Case, folder: Path, pulses: int, seed: int) -> list[dict[str, Any]]:
    """Record one case into folder/NAME.jprof, `pulses` of each dose; the log of its pulses."""
    fault = case.fault
    cpu = victim_cpu(fault)
    other = next((number for number in CPUS if number != cpu), cpu)
    sham = fault.kind in ("sham", "")
    count = pulses * len(DOSES_MS) * (SHAM_FACTOR if sham else 1)
    gap_ms = SHAM_GAP_MS if sham else GAP_MS
    each_ms = gap_ms + sum(DOSES_MS) / len(DOSES_MS)
    each_ms += _QUOTA_MS if fault.kind == "quota" else _ACTION_MS if fault.kind in VICTIM_ACTIONS else 0
    duration_ns = round((600 + count * each_ms + 5 * gap_ms) * NS_PER_MS)
    target = folder / f"{case.name}.jprof"
    shutil.rmtree(target, ignore_errors=True)
    control = folder / f"{case.name}.control"
    control.unlink(missing_ok=True)
    os.environ[CONTROL_ENV], os.environ[OTHER_CPU_ENV] = str(control), str(other)
    workload = f"{HERE / 'victims.py'}:{case.workload.build}"
    spec = RunSpec(workload, "auto", cpus=(cpu,), duration_ns=duration_ns, warmup_ns=WARMUP_NS, probes="bpf")
    options: dict[str, Any] = {
        "pulses": count,
        "pulse_ms": ",".join(map(str, DOSES_MS)),
        "gap_ms": gap_ms,
        "delay_ms": DELAY_MS,
        "seed": seed,
        "control": control,
        **fault.options,
    }
    try:
        if fault.kind:
            # A fault on the worker's CPU must leave the main thread's alone, its helpers included.
            where = other if fault.on_worker else cpu
            waits = {"other": other} if fault.on_worker else {}
            with Injector(fault.kind, where, **options, **waits) as injector:
                recording = record_session(spec, target)
            rows = injector.rows
        else:
            recording = record_session(spec, target)
            rows = _windows(recording.run.manifest.window_ns, count, gap_ms)
    finally:
        control.unlink(missing_ok=True)
        del os.environ[CONTROL_ENV], os.environ[OTHER_CPU_ENV]
    if recording.trouble is not None:
        raise recording.trouble
    return rows


def _windows(window_ns: tuple[int, int], count: int, gap_ms: float) -> list[dict[str, Any]]:
    """Stretches of a quiet run that are looked at as if they were pulses."""
    rows = []
    at = window_ns[0]
    for number in range(count):
        at += round(gap_ms * NS_PER_MS)
        dose = round(DOSES_MS[number % len(DOSES_MS)] * NS_PER_MS)
        rows.append({"kind": "quiet", "pulse": number, "t0_ns": at, "t1_ns": at + dose, "dose_ns": dose, "cpu_ns": 0})
        at += dose
    return rows


def wanted(only: str) -> list[Case]:
    """All cases, or those whose fault or whole name is listed."""
    names = set(filter(None, only.split(",")))
    found = [case for case in cases() if not names or case.name in names or case.fault.name in names]
    known = {case.name for case in cases()} | {case.fault.name for case in cases()}
    if names - known:
        raise SystemExit(f"campaign: no case {', '.join(sorted(names - known))}; known: {', '.join(sorted(known))}")
    return found


def record(folder: Path, only: str, pulses: int, budget_s: float, seed: int) -> int:
    """Record what is missing; 0 when all is there, 3 when the budget ran out first."""
    folder.mkdir(parents=True, exist_ok=True)
    begin, longest = time.monotonic(), 0.0
    left = [case for case in wanted(only) if not (folder / f"{case.name}.json").exists()]
    for number, case in enumerate(left):
        started = time.monotonic()
        if started - begin + longest > budget_s:
            print(f"{len(left) - number} of {len(left)} cases left: run the same command again", file=sys.stderr)
            return _MORE_TO_DO
        about = {"case": case.name, "seed": seed, "rows": record_case(case, folder, pulses, seed)}
        # Last, as the sign that the case is whole.
        (folder / f"{case.name}.json").write_text(json.dumps(about))
        longest = max(longest, time.monotonic() - started)
        print(f"{case.name}: {time.monotonic() - started:.1f} s", file=sys.stderr)
    return 0


def score(folder: Path, only: str) -> list[Score]:
    """Scores of all recordings in `folder`."""
    found: list[Score] = []
    for case in wanted(only):
        about = folder / f"{case.name}.json"
        if about.exists():
            rows = json.loads(about.read_text())["rows"]
            found += score_case(case, open_run(folder / f"{case.name}.jprof"), rows)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "score"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="faults or cases, with commas")
    parser.add_argument("--pulses", type=int, default=15, help="of each dose")
    parser.add_argument("--budget-s", type=float, default=500.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="write every scored pulse here, as JSON lines")
    parser.add_argument("--table", type=Path, help="write the tables here as well")
    given = parser.parse_args()
    if given.what == "record":
        return record(given.folder, given.only, given.pulses, given.budget_s, given.seed)
    scores = score(given.folder, given.only)
    if not scores:
        raise SystemExit(f"campaign: nothing recorded in {given.folder}")
    text, targets_missed = report(scores)
    print(text)
    for line in targets_missed:
        print(f"MISSED: {line}", file=sys.stderr)
    if given.rows:
        given.rows.write_text("".join(json.dumps(row.to_json()) + "\n" for row in scores))
    if given.table:
        given.table.write_text(text)
    return 1 if targets_missed else 0


if __name__ == "__main__":
    sys.exit(main())
