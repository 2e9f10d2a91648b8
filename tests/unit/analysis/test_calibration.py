"""What interruptions cost, from a canary whose every gap is made up."""

import numpy as np
import numpy.typing as npt
import pytest

from jitterprof.analysis.calibration import MIN_GAPS, HostCosts, host_costs
from jitterprof.analysis.event_counts import EVENT_CLASSES
from jitterprof.model.cause import Cause
from jitterprof.model.event import EVENT_DTYPE, EventKind, Vector
from jitterprof.model.stream import CANARY_DTYPE, CANARY_FAULTS, CANARY_GAP, CANARY_TOUCHES

CANARY, OTHER = 7, 99
Row = tuple[int, int, int, int, int, int, int, int, int]


def interrupt(start: int, end: int, vector: Vector = Vector.LOCAL_TIMER) -> Row:
    return (end, 0, 1, EventKind.VECTOR, vector, CANARY, 0, start, 0)


def switched(out: int, back: int, state: int = 0) -> list[Row]:
    return [
        (out, 0, 1, EventKind.SWITCH_OUT, 0, CANARY, OTHER, state, 0),
        (back, 0, 1, EventKind.SWITCH_IN, 0, CANARY, OTHER, 0, 0),
    ]


def gap(start: int, end: int) -> tuple[int, int, int, int, int]:
    return (start, end, CANARY, 0, CANARY_GAP)


def costs(gaps: list[tuple[int, int, int, int, int]], events: list[Row]) -> HostCosts:
    found = np.sort(np.array(events, EVENT_DTYPE), order="ts") if events else np.empty(0, EVENT_DTYPE)
    return host_costs(np.array(gaps, CANARY_DTYPE), found)


def of(cause: Cause, values: npt.NDArray[np.float64]) -> float:
    return float(values[next(n for n, one in enumerate(EVENT_CLASSES) if one.cause == cause)])


def test_a_tick_costs_its_gap_less_its_span() -> None:
    at = 1_000_000 * np.arange(1, 40)
    host = costs(
        [gap(t, t + 30_000 + 100 * n) for n, t in enumerate(at)], [interrupt(t + 8_000, t + 20_000) for t in at]
    )
    assert of(Cause.TIMER, host.ns) == pytest.approx(18_000 + 1_900)
    assert of(Cause.TIMER, host.gaps) == 39
    assert 18_000 <= of(Cause.TIMER, host.low) < of(Cause.TIMER, host.ns) < of(Cause.TIMER, host.high) <= 21_800
    # Nobody sent an interprocessor interrupt: the way in and out is the same, and no interval is claimed for it.
    assert of(Cause.IPI, host.ns) == of(Cause.TIMER, host.ns)
    assert (of(Cause.IPI, host.low), of(Cause.IPI, host.high), of(Cause.IPI, host.gaps)) == (0, np.inf, 0)


def test_a_preemption_costs_what_its_switches_do_not_cover() -> None:
    at = 1_000_000 * np.arange(1, 30)
    events = [row for t in at for row in switched(t + 2_000, t + 12_000)]
    host = costs([gap(t, t + 40_000) for t in at], events)
    assert of(Cause.PREEMPTED, host.ns) == 30_000
    assert of(Cause.TIMER, host.ns) == 0


def test_the_interrupt_that_woke_the_other_is_not_part_of_the_preemption() -> None:
    at = 1_000_000 * np.arange(1, 80)
    # Ticks alone, so that their cost is known, and ticks that end in a preemption.
    gaps, events = [], []
    for n, t in enumerate(at.tolist()):
        events.append(interrupt(t + 3_000, t + 8_000))
        gaps.append(gap(t, t + (30_000 if n % 2 else 70_000)))
        if not n % 2:
            events += switched(t + 9_000, t + 19_000)
    host = costs(gaps, events)
    assert of(Cause.TIMER, host.ns) == 25_000
    assert of(Cause.PREEMPTED, host.ns) == 70_000 - 10_000 - 5_000 - 25_000


def test_a_gap_with_two_preemptions_says_nothing() -> None:
    at = 1_000_000 * np.arange(1, 30)
    events = [row for t in at for row in [*switched(t + 2_000, t + 12_000), *switched(t + 14_000, t + 20_000)]]
    assert of(Cause.PREEMPTED, costs([gap(t, t + 40_000) for t in at], events).gaps) == 0


def test_an_interrupt_while_it_was_off_the_cpu_is_in_the_span() -> None:
    at = 1_000_000 * np.arange(1, 30)
    events = [row for t in at for row in [*switched(t + 2_000, t + 12_000), interrupt(t + 4_000, t + 6_000)]]
    assert of(Cause.PREEMPTED, costs([gap(t, t + 40_000) for t in at], events).ns) == 30_000


def test_a_thread_that_went_to_sleep_was_not_preempted() -> None:
    at = 1_000_000 * np.arange(1, 30)
    events = [row for t in at for row in switched(t + 2_000, t + 12_000, state=1)]
    assert of(Cause.PREEMPTED, costs([gap(t, t + 40_000) for t in at], events).gaps) == 0


def test_a_handful_of_gaps_teaches_nothing() -> None:
    at = 1_000_000 * np.arange(1, MIN_GAPS)
    host = costs([gap(t, t + 30_000) for t in at], [interrupt(t + 8_000, t + 20_000) for t in at])
    assert not host.ns.any()


def test_a_fault_costs_what_a_touch_does_not() -> None:
    rows, events = [], []
    for block in range(5):
        start = 10_000_000 * (block + 1)
        rows.append((start, start + 100_000, CANARY, 10, CANARY_FAULTS))
        rows.append((start + 200_000, start + 210_000, CANARY, 10, CANARY_TOUCHES))
        for page in range(10):
            begin = start + 10_000 * page
            events.append((begin + 4_000, 0, 1, EventKind.FAULT, 0, CANARY, 0, begin, 0))
    assert of(Cause.PAGE_FAULT, costs(rows, events).ns) == pytest.approx((100_000 - 10 * 4_000 - 10_000) / 10)


def test_no_canary_no_cost() -> None:
    host = costs([], [])
    assert not host.ns.any()
    assert not host.gaps.any()
