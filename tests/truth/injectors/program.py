"""What the injector programs share: arguments, the pulse schedule, clean endings and the log.

A log is JSON lines, one per pulse: `{"kind", "pulse", "t0_ns", "t1_ns", "count", "cpu_ns", "dose_ns", ...}`,
CLOCK_MONOTONIC ns. `count` and `cpu_ns` are what the injector knows it did (interrupts sent, CPU time burnt); 0 where
it knows nothing. `dose_ns` is what it was asked for.
"""

import argparse
import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from control import PID, REQUESTS, Control

_NATIVE = Path(__file__).resolve().parent / "native"
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
#: A real-time loop longer than this runs into the kernel's RT limit (950 ms a second), and a test never needs it.
PULSE_MS_MAX = 500.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of an injector. `other`: where what must not disturb runs, a CPU that is not the victim's where there is
    one. `doses_ns`: lengths of the pulses, taken in turns."""

    kind: str
    cpu: int
    other: int
    pulses: int
    doses_ns: tuple[int, ...]
    gap_ns: int
    seed: int
    control: Control | None
    arguments: argparse.Namespace

    def dose_ns(self, number: int) -> int:
        """How long pulse `number` is."""
        return self.doses_ns[number % len(self.doses_ns)]

    @property
    def victim_pid(self) -> int:
        """The process that the pulses are for: --pid, or whoever answers on --control."""
        if self.arguments.pid:
            return int(self.arguments.pid)
        if self.control is None:
            sys.exit(f"{self.kind} needs --pid or --control")
        return self.control.words[PID]


def _stop(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


def begin(
    kind: str, argv: Sequence[str] | None = None, extra: Callable[[argparse.ArgumentParser], object] | None = None
) -> Plan:
    """Parses, arranges to end with the parent and on SIGTERM, moves off the victim's CPU and waits for the victim."""
    parser = argparse.ArgumentParser(prog=kind)
    parser.add_argument("--cpu", type=int, required=True, help="the victim's CPU")
    parser.add_argument("--pulses", type=int, default=20)
    parser.add_argument("--other", type=int, help="where the injector waits; default: a CPU that is not the victim's")
    parser.add_argument("--pulse-ms", default="5", help="one length, or several (0.5,2,8) that take turns")
    parser.add_argument("--gap-ms", type=float, default=100.0, help="mean; each gap is 0.5 to 1.5 of it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="before the first gap")
    parser.add_argument("--pid", type=int, help="the victim, for the kinds that act on a process")
    parser.add_argument("--control", type=Path, help="control file of tests/truth/victims.py")
    parser.add_argument("--wait-s", type=float, default=60.0, help="how long to wait for the victim on --control")
    parser.add_argument("--log", type=Path, required=True)
    if extra is not None:
        extra(parser)
    arguments = parser.parse_args(argv)
    cpus = os.sched_getaffinity(0)
    if arguments.cpu not in cpus:
        parser.error(f"CPU {arguments.cpu} is not one of {sorted(cpus)}")
    doses = [float(part) for part in str(arguments.pulse_ms).split(",")]
    if not 0 < min(doses) <= max(doses) <= PULSE_MS_MAX or arguments.gap_ms < max(doses):
        parser.error(f"0 < --pulse-ms <= {PULSE_MS_MAX:g} and --gap-ms >= --pulse-ms, so that pulses stay pulses")
    other = min(cpus - {arguments.cpu}, default=arguments.cpu) if arguments.other is None else arguments.other

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, f"jp-{kind}"[:15].encode(), 0, 0, 0)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    os.sched_setaffinity(0, {other})

    control = Control(arguments.control) if arguments.control else None
    if control is not None:
        deadline = time.monotonic() + arguments.wait_s
        while control.words[REQUESTS] == 0:
            if time.monotonic() > deadline:
                sys.exit(f"{kind}: no victim on {arguments.control} within {arguments.wait_s:g} s")
            time.sleep(0.01)
    time.sleep(arguments.delay_ms / 1e3)
    return Plan(
        kind,
        arguments.cpu,
        other,
        arguments.pulses,
        tuple(round(dose * 1e6) for dose in doses),
        round(arguments.gap_ms * 1e6),
        arguments.seed,
        control,
        arguments,
    )


def sleep_until(target_ns: int) -> None:
    while (left := target_ns - time.monotonic_ns()) > 0:
        time.sleep(left / 1e9)


def pulses(plan: Plan, pulse: Callable[[int, int], dict[str, int] | None]) -> None:
    """Calls `pulse(number, stop_ns)` for every pulse of the schedule and writes the log, also when stopped early.

    `pulse` must have undone what it did when it returns or raises; it may return t0_ns and t1_ns of its own.
    """
    gaps = random.Random(plan.seed)
    rows: list[dict[str, object]] = []
    try:
        for number in range(plan.pulses):
            sleep_until(time.monotonic_ns() + round(plan.gap_ns * gaps.uniform(0.5, 1.5)))
            t0_ns = time.monotonic_ns()
            known = pulse(number, t0_ns + plan.dose_ns(number))
            row = {"pulse": number, "t0_ns": t0_ns, "t1_ns": time.monotonic_ns(), "count": 0, "cpu_ns": 0}
            rows.append({"kind": plan.kind} | row | {"dose_ns": plan.dose_ns(number)} | (known or {}))
    finally:
        write_log(plan, rows)


def write_log(plan: Plan, rows: Sequence[dict[str, object]]) -> None:
    plan.arguments.log.write_text("".join(json.dumps(row) + "\n" for row in rows))


def build(name: str, *flags: str) -> Path:
    """Compiles native/NAME.c where the sources are newer than the program. Raises CalledProcessError."""
    program = _NATIVE / "build" / name
    source = _NATIVE / f"{name}.c"
    newest = max(path.stat().st_mtime_ns for path in (source, _NATIVE / "pulse.h"))
    if not program.exists() or program.stat().st_mtime_ns < newest:
        program.parent.mkdir(exist_ok=True)
        fresh = program.with_name(f"{name}.{os.getpid()}")
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", *flags, "-o", str(fresh), str(source)], check=True)
        fresh.replace(program)
    return program


def native(plan: Plan, name: str, *arguments: object) -> None:
    """Runs native/NAME.c on the plan and turns its output into the log; ends it when this program is ended."""
    doses = ",".join(map(str, plan.doses_ns))
    values = (plan.cpu, plan.other, plan.pulses, doses, plan.gap_ns, plan.seed, *arguments)
    child = subprocess.Popen([str(build(name)), *map(str, values)], stdout=subprocess.PIPE, text=True)
    output = ""
    try:
        output, _ = child.communicate()
    finally:
        if child.returncode is None:
            child.terminate()
            output, _ = child.communicate()
        write_log(plan, [{"kind": plan.kind} | json.loads(line) for line in output.splitlines()])
    if child.returncode:
        sys.exit(f"{plan.kind}: {name} ended with status {child.returncode}")
