"""Scoring: pulses made from literals, against a ledger made from literals."""

from dataclasses import replace

import numpy as np
import pytest
from fakes import MS, START_NS, ledger_of, request_table, run_of

from jitterprof.analysis.selfcheck import NOT_SEEN, JudgedPulse, SelfCheck, judge, summed_up, wilson
from jitterprof.model.cause import Cause
from jitterprof.model.pulse import PULSE_DTYPE, FaultKind, PulseLog

HOG = FaultKind("hog", "a loop", (("preempted", "jp-hog"),), "preempted", ("jp-hog",))
GC = FaultKind("gc", "a collection", (("gc", ""),))
SHAM = FaultKind("nothing", "no fault", (("run", ""),), control=True)
KINDS = (HOG, GC, SHAM)
Part = tuple[Cause, str, int]
#: Requests take 2 ms and come every 3.
EVERY = 3 * MS


def _judged(
    parts: dict[int, list[Part]], pulses: list[tuple[FaultKind, int, int]], more_run: tuple[int, ...] = ()
) -> SelfCheck:
    """`parts`: what request number n spends beyond its 2 ms. `pulses`: (kind, request that it hits, ns taken)."""
    response = np.full(200, 2 * MS)
    for row, mine in parts.items():
        response[row] += sum(ns for _, _, ns in mine)
    for row in more_run:
        response[row] += 3 * MS
    requests = request_table(response)
    at = [
        (
            KINDS.index(kind),
            requests["intended_ns"][row] + 2 * MS,
            requests["end_ns"][row] if row in parts else requests["end_ns"][row] + MS // 2,
            ns,
        )
        for kind, row, ns in pulses
    ]
    return judge(run_of(requests), ledger_of(requests, parts), PulseLog(KINDS, np.array(at, PULSE_DTYPE)))


def test_a_pulse_is_blamed_on_what_took_most_of_its_worst_request() -> None:
    check = _judged({50: [(Cause.PREEMPTED, "jp-hog/7", 5 * MS), (Cause.SOFTIRQ, "RCU", MS)]}, [(HOG, 50, 5 * MS)])
    (pulse,) = check.pulses
    assert (pulse.cause, pulse.culprit, pulse.right, pulse.left_out) == ("preempted", "jp-hog/7", True, "")
    assert pulse.excess_ns == 6 * MS
    assert (pulse.taken_ns, pulse.billed_ns) == (5 * MS, 5 * MS)


def test_billed_time_is_what_lies_inside_the_pulse() -> None:
    requests = request_table([2 * MS] * 50 + [8 * MS] + [2 * MS] * 50)
    ledger = ledger_of(requests, {50: [(Cause.PREEMPTED, "jp-hog/7", 6 * MS)]})
    begin, end = int(requests["intended_ns"][50]) + 2 * MS, int(requests["end_ns"][50])
    log = PulseLog(KINDS, np.array([(0, begin + MS, end - MS, 5 * MS)], PULSE_DTYPE))
    check = judge(run_of(requests), ledger, log)
    assert check.pulses[0].billed_ns == 4 * MS
    assert (check.error_ns, check.error_share, check.error_pulses) == (MS, 0.2, 1)


def test_the_right_cause_by_somebody_else_is_wrong() -> None:
    check = _judged({50: [(Cause.GC, "generation 2", 5 * MS)]}, [(HOG, 50, 5 * MS)])
    assert not check.pulses[0].right
    assert check.pulses[0].billed_ns == 0
    assert check.matrix == ((1,),) and check.columns == ("gc",)


@pytest.mark.parametrize(("ns", "left_out"), [(MS, "disturbed by others"), (100_000, "")])
def test_a_pulse_that_a_foreign_task_disturbed_is_left_out(ns: int, left_out: str) -> None:
    parts = {50: [(Cause.PREEMPTED, "jp-hog/7", 5 * MS), (Cause.PREEMPTED, "cc1/99", ns)]}
    check = _judged(parts, [(HOG, 50, 5 * MS)])
    assert check.pulses[0].left_out == left_out
    assert check.judged == (0 if left_out else 1)
    assert check.faults[0].left_out == bool(left_out)


def test_waiting_for_an_idle_cpu_is_no_foreign_task() -> None:
    parts = {50: [(Cause.PREEMPTED, "jp-hog/7", 5 * MS), (Cause.WAKEUP, "idle exit", MS)]}
    assert _judged(parts, [(HOG, 50, 5 * MS)]).pulses[0].left_out == ""


def test_two_pulses_at_once_say_nothing() -> None:
    parts = {50: [(Cause.PREEMPTED, "jp-hog/7", 5 * MS)], 90: [(Cause.GC, "generation 2", 5 * MS)]}
    check = _judged(parts, [(HOG, 50, 5 * MS), (GC, 50, 5 * MS), (GC, 90, 5 * MS)])
    assert [pulse.left_out for pulse in check.pulses] == ["overlaps another pulse"] * 2 + [""]


def test_a_pulse_outside_the_measured_window_says_nothing() -> None:
    requests = request_table([2 * MS] * 50)
    log = PulseLog(KINDS, np.array([(0, START_NS - 10 * MS, START_NS - 5 * MS, 5 * MS)], PULSE_DTYPE))
    assert judge(run_of(requests), ledger_of(requests, {}), log).pulses[0].left_out == "outside the measurement"


def test_a_fault_without_a_slow_request_is_unseen_and_a_control_is_right() -> None:
    check = _judged({}, [(GC, 40, 0), (SHAM, 60, 0)])
    gc, sham = check.faults
    assert (gc.unseen, gc.judged, sham.judged, sham.right) == (1, 0, 1, 1)
    assert [pulse.cause for pulse in check.pulses] == [NOT_SEEN, NOT_SEEN]
    assert check.columns == (NOT_SEEN,)
    assert (check.control_judged, check.control_blamed) == (1, 0)


def test_a_control_that_is_blamed_on_somebody_is_a_false_alarm() -> None:
    check = _judged({60: [(Cause.SOFTIRQ, "NET_RX", 3 * MS)]}, [(SHAM, 60, 0), (SHAM, 80, 0)], more_run=(80,))
    assert (check.control_judged, check.control_blamed) == (2, 1)
    assert check.faults[0].right == 1


def _pulse(fault: str, cause: str, right: bool, **changes: object) -> JudgedPulse:
    plain = JudgedPulse(fault, 0, MS, "", cause, "", MS, right, None, None)
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("right", "wrong", "verdict"),
    [(8, 2, "right"), (12, 0, "right"), (7, 3, "wrong"), (2, 0, "unclear"), (3, 0, "right")],
)
def test_verdicts(right: int, wrong: int, verdict: str) -> None:
    pulses = [_pulse("gc", "gc", True)] * right + [_pulse("gc", "run", False)] * wrong
    check = summed_up(PulseLog(KINDS, np.empty(0, PULSE_DTYPE)), tuple(pulses))
    (fault,) = check.faults
    assert fault.verdict == verdict
    assert bool(fault.reason) == (verdict == "unclear")
    assert (check.right, check.judged) == (right, right + wrong)
    assert check.named(verdict) == ("gc",)


def test_faults_that_this_host_refuses_are_named_with_the_reason() -> None:
    log = PulseLog(KINDS, np.empty(0, PULSE_DTYPE), (("hog", "needs a second CPU"),))
    check = summed_up(log, (_pulse("gc", "gc", True),) * 3)
    assert check.named("absent") == ("hog",)
    assert {fault.name: fault.reason for fault in check.faults} == {"hog": "needs a second CPU", "gc": ""}
    assert check.matrix == ((0,), (3,))


def test_an_injector_that_failed_on_the_way_keeps_its_pulses_and_its_reason() -> None:
    log = PulseLog(KINDS, np.empty(0, PULSE_DTYPE), (("gc", "exit code -9"),))
    (fault,) = summed_up(log, (_pulse("gc", "gc", True),) * 2).faults
    assert (fault.verdict, fault.reason, fault.pulses) == ("unclear", "exit code -9", 2)


def test_wilson() -> None:
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)
