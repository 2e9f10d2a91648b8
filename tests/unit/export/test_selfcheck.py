"""The self-check as people and scripts read it."""

import io
import json

import numpy as np
from rich.console import Console

from jitterprof.analysis.selfcheck import NOT_SEEN, JudgedPulse, SelfCheck, summed_up
from jitterprof.export.console_selfcheck import headline, print_selfcheck
from jitterprof.export.selfcheck_document import selfcheck_document
from jitterprof.inject.faults import FAULTS
from jitterprof.model.cause import CAUSE_IDS
from jitterprof.model.pulse import PULSE_DTYPE, PulseLog

MS = 1_000_000


def _check(absent: tuple[tuple[str, str], ...] = (), wrong: str = "", count: int = 4) -> SelfCheck:
    """Every fault of the registry, named right but for `wrong`; between them the wrong pulses hit every cause."""
    pulses = []
    for fault in FAULTS:
        kind = fault.kind
        if kind.name in dict(absent):
            continue
        cause, culprit = kind.right[0]
        taken = 5 * MS if kind.off_cpu else None
        billed = 5 * MS + 40_000 if kind.off_cpu else None
        pulses += [JudgedPulse(kind.name, 0, MS, "", cause, f"{culprit}/12345", 5 * MS, True, taken, billed)] * count
        if kind.name == wrong:
            pulses += [JudgedPulse(kind.name, 0, MS, "", each, "", MS, False, None, None) for each in CAUSE_IDS]
    pulses.append(JudgedPulse("nothing", 0, MS, "", NOT_SEEN, "", 0, True, None, None))
    pulses.append(JudgedPulse("gc", 0, MS, "disturbed by others", "preempted", "cc1/7", MS, False, None, None))
    kinds = tuple(fault.kind for fault in FAULTS)
    return summed_up(PulseLog(kinds, np.empty(0, PULSE_DTYPE), absent), tuple(pulses), "6.18.0", "host")


def _printed(check: SelfCheck, width: int = 80) -> list[str]:
    output = io.StringIO()
    print_selfcheck(check, Console(file=output, width=width))
    return output.getvalue().splitlines()


def test_the_answer_comes_first() -> None:
    check = _check((("quota", "no cpu controller"),), wrong="cold-file")
    assert headline(check) == (
        "10 of 11 faults are named right on this host; cold-file is not; quota cannot be injected here."
    )
    lines = _printed(check)
    assert " ".join(line.strip() for line in lines[:2]) == headline(check)
    assert "- quota: no cpu controller" in lines
    assert any("1 of" in line and "left out" in line for line in lines)


def test_it_can_be_read_at_80_columns_whatever_is_blamed() -> None:
    lines = _printed(_check(wrong="hog"))
    assert max(len(line) for line in lines) <= 80
    assert any(line.startswith("- unknown in 1 of") for line in lines)
    assert not any("…" in line for line in lines)
    header = next(line for line in lines if line.startswith("injected"))
    assert len(set(header.split())) == len(CAUSE_IDS) + 2, "each cause has a letter of its own"
    hog = next(line for line in lines if line.startswith("hog"))
    assert hog.split()[1:].count("1") == len(CAUSE_IDS) - 1


def test_times_and_counts_are_there() -> None:
    text = "\n".join(_printed(_check()))
    assert "fifo" in text and "40.0 us, 0.8 %" in text
    assert "preempted by jp-fifo/12345" in text
    assert "8 pulses in which nothing was wrong" in text or "9 pulses in which nothing was wrong" in text


def test_the_document_holds_the_same_figures() -> None:
    check = _check(wrong="hog")
    document = json.loads(json.dumps(selfcheck_document(check)))
    assert document["schema"] == 1
    assert document["named_wrong"] == ["hog"]
    assert document["accuracy"]["judged"] == check.judged
    assert [row["fault"] for row in document["matrix"]["rows"]] == [fault.name for fault in check.faults]
    assert all(len(row["pulses"]) == len(document["matrix"]["causes"]) for row in document["matrix"]["rows"])
    assert document["time_error"] == {"pulses": check.error_pulses, "median_ns": 40_000, "median_share": 0.008}
    assert len(document["pulses"]) == len(check.pulses)
    fifo = next(fault for fault in document["faults"] if fault["name"] == "fifo")
    assert fifo["blamed"] == [{"cause": "preempted", "pulses": 4}]
