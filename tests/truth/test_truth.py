"""Known faults, injected at known times: the requests they hit must be blamed on them, and nothing else may be."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import Trial, clean, recorded
from injectors.disk import interrupted_cpus

#: A pulse counts for nothing when the machine itself disturbed it, so more are made than are needed.
NEEDED = 5


@dataclass(frozen=True)
class Fault:
    """An injector and what it must look like. `ours`: tasks that belong to it. `blame`: pairs of a cause and a part of
    the culprit's name, any of which is right. `off_cpu`: the cause whose time must agree with the log."""

    kind: str
    blame: tuple[tuple[str, str], ...]
    options: dict[str, Any]
    ours: tuple[str, ...] = ()
    off_cpu: str = ""


FAULTS = (
    Fault(
        "fifo_burner",
        (("preempted", "jp-fifo"),),
        {"pulses": 15, "pulse_ms": 5, "gap_ms": 250},
        ("jp-fifo",),
        "preempted",
    ),
    Fault("hog", (("preempted", "jp-hog"),), {"pulses": 10, "pulse_ms": 20, "gap_ms": 350}, ("jp-hog",), "preempted"),
    Fault(
        "net_rx",
        (("softirq", "NET_RX"), ("ipi", "jp-udp")),
        {"pulses": 16, "pulse_ms": 10, "gap_ms": 250},
        ("jp-udp", "ksoftirqd"),
    ),
    Fault(
        "timer_storm",
        (("timer", "perf_swevent_hrtimer"),),
        {"pulses": 18, "pulse_ms": 10, "gap_ms": 250},
        ("jp-timer",),
    ),
    Fault("ipi_storm", (("ipi", "jp-ipi"),), {"pulses": 16, "pulse_ms": 10, "gap_ms": 250}, ("jp-ipi",)),
    Fault(
        "quota",
        (("throttled", "jp-quota"),),
        {"pulses": 8, "pulse_ms": 150, "gap_ms": 250, "quota_ms": 20, "period_ms": 100},
        ("jp-", "kworker"),
        "throttled",
    ),
    Fault("sigstop", (("stopped", "jp-sigstop"),), {"pulses": 15, "pulse_ms": 5, "gap_ms": 250}, ("jp-",), "stopped"),
    Fault("madvise", (("page_fault", "minor: anonymous"),), {"pulses": 15, "gap_ms": 250}, ("jp-",)),
    Fault("cold_file", (("block_io", "vda"),), {"pulses": 15, "gap_ms": 250}, ("jp-", "kworker"), ""),
    Fault("lock", (("lock", "jp-holder"),), {"pulses": 15, "gap_ms": 250}, ("jp-holder",), "lock"),
    Fault("sleep", (("sleep", ""),), {"pulses": 15, "gap_ms": 250}, ("jp-",), "sleep"),
    Fault("gc", (("gc", "generation"),), {"pulses": 12, "gap_ms": 250}, ("jp-",)),
    Fault("work", (("run", ""),), {"pulses": 15, "gap_ms": 250}, ("jp-",)),
)


def note(kind: str, trial: Trial, numbers: list[int], hit: list[int], right: int, errors: list[float]) -> None:
    """A line of figures for docs/explanation/accuracy.md, where JITTERPROF_TRUTH_FIGURES names a file."""
    path = os.environ.get("JITTERPROF_TRUTH_FIGURES")
    if not path:
        return
    found = [trial.spikes_of(trial.pulses[number])[0] for number in hit]
    excess = np.median([spike.excess_ns for spike in found]) / 1000 if found else 0.0
    top = Counter((spike.top_cause, spike.top_culprit) for spike in found).most_common(1)
    name = f"{top[0][0][0]} {top[0][0][1]}".strip() if top else ""
    error = f"{np.median(errors):+.0f} ({np.min(errors):+.0f} to {np.max(errors):+.0f})" if errors else ""
    with Path(path).open("a") as file:
        file.write(
            f"| {kind} | {len(trial.pulses)} | {len(numbers)} | {len(hit)} | {excess:.0f} | {name} "
            f"| {right} of {len(hit)} | {error} |\n"
        )


def _logged_ns(trial: Trial, number: int) -> int:
    """How long the injector says that it kept the victim from running in a pulse."""
    row = trial.rows[number]
    if row.get("throttled_ns"):
        return int(row["throttled_ns"])
    if row.get("cpu_ns"):
        return int(row["cpu_ns"])
    return int(row["t1_ns"] - row["t0_ns"])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
def test_a_fault_is_blamed_on_what_caused_it(fault: Fault) -> None:
    span_ms = fault.options.get("pulse_ms", 8) + fault.options["gap_ms"]
    seconds = 1.0 + 1.3 * fault.options["pulses"] * (span_ms + (100 if fault.kind == "quota" else 0)) / 1000
    with recorded(fault.kind, seconds, **fault.options) as trial:
        assert trial.recording.trouble is None
        assert trial.recording.run.manifest.health.loss.total == 0
        numbers = clean(trial, fault.ours)
        # A pulse of a storm may fall between two requests or end before it costs much: those without a slow request
        # are not hits.
        hit = [number for number in numbers if trial.spikes_of(trial.pulses[number])]
        assert len(hit) >= NEEDED, f"{len(trial.pulses)} pulses, {len(numbers)} undisturbed, {len(hit)} visible"
        tops = [(s.top_cause, s.top_culprit) for s in (trial.spikes_of(trial.pulses[n])[0] for n in hit)]
        right = [any(cause == top and part in who for cause, part in fault.blame) for top, who in tops]
        assert sum(right) >= 0.9 * len(right), f"blamed: {tops}"
        errors = []
        if fault.off_cpu:
            for number in hit:
                logged = _logged_ns(trial, number)
                ours = sum(
                    trial.total(trial.pulses[number], cause, part)
                    for cause, part in fault.blame
                    if cause == fault.off_cpu
                )
                # Half of what the bench itself is allowed to take from a pulse may be missing on top.
                allowed = max(0.05 * logged, 50_000) + 100_000
                assert abs(ours - logged) <= allowed, f"pulse {number}: billed {ours} ns, log says {logged} ns"
                errors.append((ours - logged) / 1000)
        note(fault.kind, trial, numbers, hit, sum(right), errors)


# The disk decides which CPU it interrupts.
@pytest.mark.parametrize("cpu", sorted(interrupted_cpus())[-1:])
def test_a_device_interrupt_storm_is_blamed_on_the_device(cpu: int) -> None:
    with recorded("irq_storm", 6.0, cpu, pulses=12, pulse_ms=10, gap_ms=300) as trial:
        numbers = clean(trial, ("jp-reads", "kworker"))
        hit = [number for number in numbers if trial.spikes_of(trial.pulses[number])]
        assert len(hit) >= NEEDED
        tops = [trial.spikes_of(trial.pulses[number])[0] for number in hit]
        right = [(top.top_cause, top.top_culprit) for top in tops if top.top_cause in ("hardirq", "softirq")]
        assert len(right) >= 0.9 * len(tops)
        assert all("virtio" in who or who == "BLOCK" or "nvme" in who for _, who in right)
        note("irq_storm", trial, numbers, hit, len(right), [])


def test_a_sham_pulse_and_a_quiet_run_name_no_cause() -> None:
    with recorded("sham", 6.0, pulses=15, pulse_ms=5, gap_ms=250) as trial:
        numbers = clean(trial, ())
        assert len(numbers) >= NEEDED
        tops = [trial.spikes_of(trial.pulses[number])[:1] for number in numbers]
        blamed = [top[0].top_cause for top in tops if top and top[0].top_cause not in ("run", "steal", "unknown")]
        assert len(blamed) <= 0.2 * len(numbers), f"blamed without a fault: {blamed}"
        note("sham", trial, numbers, [number for number, top in zip(numbers, tops, strict=True) if top], 0, [])


def test_every_request_of_a_disturbed_session_adds_up() -> None:
    with recorded("hog", 3.0, pulses=5, pulse_ms=20, gap_ms=200) as trial:
        for spike in trial.explanation.spikes:
            assert sum(part.ns for part in spike.ledger) == spike.end_ns - spike.intended_start_ns == spike.response_ns
