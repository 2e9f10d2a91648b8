"""Records that were lost: what they may have said becomes unknown, and nothing else does."""

import numpy as np

from jitterprof.model.event import Context, EventKind, OutFlag, Vector
from tests.unit.analysis.traces import (
    EXCEPTION,
    FUTEX,
    ME,
    NANOSLEEP,
    OTHER,
    READ,
    SIBLING,
    Part,
    blocked,
    enters,
    explain,
    interval,
    migrate,
    occupy,
    preempted,
    request,
    waking,
)

ON_CPU_1 = enters(50, 1)
#: CPU 0 writes something now and then.
CHATTER = [interval(EventKind.VECTOR, ts - 1, ts, 0, flags=Vector.LOCAL_TIMER) for ts in (10, 240, 260, 410, 950)]


def lost(ns: int) -> Part:
    return ("unknown", "lost events", ns)


def test_a_lost_record_hides_its_surroundings_not_the_rest() -> None:
    # Lost at 250, between two ticks; the thread's request edges say where it was before and after.
    ticks = [interval(EventKind.SOFTIRQ, ts - 5, ts, 1, 7) for ts in (200, 250, 300)]
    rows = np.concatenate([request(60, 180, cpu=1), request(180, 400, cpu=1), request(400, 900, cpu=1)])
    records = [ON_CPU_1, *ticks]
    assert explain(records, rows, lost=[250], row=0) == [("run", "", 120)]
    # In between it may have been anything from the last edge (a fault) to the next edge (preempted).
    assert explain(records, rows, lost=[250], row=1) == [lost(15), ("softirq", "SCHED", 5), lost(200)]
    assert explain(records, rows, lost=[250], row=2) == [("run", "", 500)]


def test_after_a_lost_switch_out_the_thread_is_not_running() -> None:
    records = [
        ON_CPU_1,
        occupy(200, 1, OTHER, 0),
        blocked(300, 1, FUTEX),
        occupy(320, 1, OTHER, 0),
        waking(400, 0, OTHER, 1),
        enters(500, 1),
    ]
    assert explain(records, lost=[300]) == [lost(400), ("run", "", 400)]


def test_the_end_of_the_recording_may_be_lost() -> None:
    records = [ON_CPU_1, occupy(200, 1, OTHER, 0), blocked(300, 1, FUTEX)]
    assert explain(records, lost=[300]) == [lost(800)]


def test_the_beginning_may_be_lost() -> None:
    # Without its first record the switch-out would prove that the thread had been running all along.
    records = [enters(250, 1), preempted(400, 1, OTHER)]
    assert explain(records, lost=[250]) == [lost(300), ("preempted", "hog/99", 500)]


def test_a_sleeper_may_have_been_woken_from_any_cpu() -> None:
    records = [
        *CHATTER,
        ON_CPU_1,
        blocked(200, 1, NANOSLEEP),
        waking(250, 0, OTHER, 1),
        enters(300, 1),
        blocked(600, 1, NANOSLEEP),
    ]
    # Woken at 250 by a record that is lost: everything about how the sleep ended is.
    assert explain(records, lost=[250])[:2] == [("run", "", 100), lost(100)]


def test_a_loss_elsewhere_leaves_a_running_thread_alone() -> None:
    assert explain([*CHATTER, ON_CPU_1], lost=[260]) == [("run", "", 800)]


def test_a_waiting_thread_may_have_been_moved_by_any_cpu() -> None:
    records = [
        *CHATTER,
        ON_CPU_1,
        preempted(200, 1, OTHER),
        migrate(250, 0, 1, 2, 0),
        enters(300, 2),
        occupy(350, 1, OTHER, 0),
    ]
    assert explain(records)[1:3] == [("preempted", "hog/99", 50), ("preempted", "idle task", 50)]
    assert explain(records, lost=[250]) == [("run", "", 100), ("preempted", "hog/99", 40), lost(60), ("run", "", 600)]


def test_a_lost_softirq_may_have_begun_before_the_gap() -> None:
    # The interrupt inside it left its record, so the gap begins at 300; the softirq began at 250.
    waits = [
        ON_CPU_1,
        preempted(200, 1, OTHER),
        interval(EventKind.HARDIRQ, 280, 300, 1, 24),
        interval(EventKind.SOFTIRQ, 250, 400, 1, 3),
        occupy(410, 1, OTHER, OTHER),
        enters(500, 1, OTHER),
    ]
    assert explain(waits)[2] == ("softirq", "NET_RX", 30)
    assert explain(waits, lost=[400]) == [
        ("run", "", 100),
        lost(80),
        ("hardirq", "nvme0q1", 20),
        lost(200),
        ("run", "", 400),
    ]


def test_a_lost_fault_may_have_begun_before_the_gap() -> None:
    records = [
        ON_CPU_1,
        interval(EventKind.SOFTIRQ, 290, 300, 1, 7),
        interval(EventKind.FAULT, 150, 350, 1, tid=ME),
        preempted(400, 1, OTHER),
        enters(500, 1, OTHER),
    ]
    assert explain(records, lost=[350])[:3] == [lost(190), ("softirq", "SCHED", 10), lost(100)]


def test_a_lost_fault_across_a_switch_hides_both_sides() -> None:
    flags = OutFlag.IN_FAULT
    records = [
        ON_CPU_1,
        blocked(300, 1, READ, state=2, flags=flags),
        waking(400, 0, OTHER, 1),
        enters(400, 1),
        interval(EventKind.FAULT, 200, 500, 1, tid=ME),
        preempted(600, 1, OTHER),
        enters(700, 1, OTHER),
    ]
    assert explain(records)[1] == ("page_fault", "minor: unknown mapping", 300)
    assert explain(records, lost=[500]) == [lost(500), ("preempted", "hog/99", 100), ("run", "", 200)]


def test_a_blocked_exception_is_a_fault_without_its_record() -> None:
    records = [
        ON_CPU_1,
        blocked(300, 1, EXCEPTION, state=2, flags=OutFlag.IN_FAULT),
        waking(400, 0, OTHER, 1),
        enters(400, 1),
        interval(EventKind.FAULT, 200, 500, 1, tid=ME),
        preempted(600, 1, OTHER),
        enters(700, 1, OTHER),
    ]
    assert ("page_fault", "minor: unknown mapping", 100) in explain(records, lost=[500])


def test_a_wake_that_raced_may_itself_be_lost() -> None:
    records = [*CHATTER, ON_CPU_1, waking(250, 0, OTHER, 1), blocked(300, 1, NANOSLEEP, OTHER), enters(400, 1, OTHER)]
    assert explain(records)[1] == ("wakeup", "hog/99", 100)
    # The gap on CPU 0 is over before the switch-out; the sleep still cannot be believed.
    assert explain(records, lost=[250]) == [("run", "", 200), lost(100), ("run", "", 500)]


def test_what_held_up_the_start_is_unknown_not_dispatch_where_it_was_lost() -> None:
    records = [*CHATTER, enters(300, 1)]
    found = explain(records, request(400, 900, intended=200), lost=[260])
    assert found == [lost(100), ("dispatch", "", 100), ("run", "", 500)]


def test_a_lost_first_record_leaves_no_claim_about_what_came_before() -> None:
    # It ran since the beginning, interrupted once; its first switch-out is lost.
    records = [
        interval(EventKind.SOFTIRQ, 150, 160, 1, 3),
        blocked(250, 1, FUTEX),
        waking(300, 0, OTHER, 1),
        enters(350, 1),
    ]
    rows = request(400, 900, intended=100)
    assert explain(records, rows)[1] == ("softirq", "NET_RX", 10)
    assert explain(records, rows, lost=[250]) == [lost(250), ("dispatch", "", 50), ("run", "", 500)]


def test_before_its_first_switch_a_woken_thread_may_be_running() -> None:
    # It ran since the beginning, and the WAKING at 200 met it running.
    records = [
        waking(200, 0, OTHER, 1),
        interval(EventKind.SOFTIRQ, 240, 250, 1, 3),
        preempted(300, 1, OTHER),
        enters(400, 1, OTHER),
    ]
    assert explain(records)[:2] == [("run", "", 140), ("softirq", "NET_RX", 10)]
    assert explain(records, lost=[300]) == [lost(300), ("run", "", 500)]


def test_an_inferred_beginning_needs_a_cpu_without_losses() -> None:
    irq = interval(EventKind.HARDIRQ, 120, 130, 1, 24)
    records = [irq, occupy(200, 1, OTHER, 0), enters(250, 1, OTHER), preempted(400, 1, OTHER)]
    assert explain(records)[0] == ("unknown", "no record of this thread yet", 150)
    assert explain(records, lost=[250]) == [lost(300), ("preempted", "hog/99", 500)]


def test_a_theft_inside_a_lost_interrupt_is_not_a_theft() -> None:
    records = [
        ON_CPU_1,
        interval(EventKind.STEAL, 250, 300, 1, b=50),
        interval(EventKind.VECTOR, 200, 400, 1, flags=Vector.LOCAL_TIMER),
        preempted(500, 1, OTHER),
    ]
    assert explain(records)[1] == ("timer", "tick", 200)
    assert explain(records, lost=[400]) == [lost(400), ("preempted", "hog/99", 400)]


def test_an_early_wake_may_not_be_the_one_that_counts() -> None:
    # The WAKING at 250 met the thread running; the real one at 350 is lost.
    tick = interval(EventKind.VECTOR, 319, 320, 0, flags=Vector.LOCAL_TIMER)
    records = [
        *CHATTER,
        tick,
        ON_CPU_1,
        waking(250, 0, OTHER, 1),
        blocked(300, 1, NANOSLEEP),
        waking(350, 0, OTHER, 1),
        enters(400, 1),
    ]
    assert explain(records)[1:3] == [("sleep", "", 50), ("wakeup", "idle exit", 50)]
    assert explain(records, lost=[350]) == [("run", "", 200), lost(100), ("run", "", 500)]


def test_a_late_wake_may_not_be_the_one_that_counts() -> None:
    # The WAKING at 250 raced the switch-out; it ran again at 320, which is lost; the WAKING at 350 met it running.
    records = [
        ON_CPU_1,
        waking(250, 0, OTHER, 1),
        blocked(300, 1, NANOSLEEP),
        occupy(310, 1, OTHER, 0),
        enters(320, 1),
        waking(350, 0, OTHER, 1),
        preempted(400, 1, OTHER),
        enters(500, 1),
    ]
    assert explain(records)[1:3] == [("wakeup", "idle exit", 10), ("wakeup", "hog/99", 10)]
    assert explain(records, lost=[320]) == [("run", "", 200), lost(100), ("preempted", "hog/99", 100), ("run", "", 400)]


def test_a_waker_counts_only_if_no_other_may_have_come_before() -> None:
    # A timer ended the first wait; the thread waited again, and of all that only the second waker is left.
    timer = waking(250, 0, 0, 1, 0, Context.VECTOR, Vector.LOCAL_TIMER)
    records = [
        *CHATTER,
        ON_CPU_1,
        blocked(200, 1, FUTEX),
        occupy(230, 1, OTHER, 0),
        timer,
        enters(252, 1),
        blocked(280, 1, FUTEX),
        waking(300, 0, SIBLING, 1),
        enters(350, 1),
    ]
    assert explain(records)[1] == ("sleep", "timer", 50)
    assert explain(records, lost=[250, 252, 280]) == [("run", "", 100), lost(150), ("run", "", 550)]


def test_a_holder_whose_state_was_lost_explains_nothing() -> None:
    # The holder's switch-in on CPU 0 is lost before the wait begins; where it was during the wait is not known.
    records = [
        preempted(80, 0, OTHER, tid=SIBLING),
        enters(150, 0, OTHER, tid=SIBLING),
        occupy(160, 0, OTHER, OTHER),
        ON_CPU_1,
        blocked(200, 1, FUTEX),
        waking(400, 0, SIBLING, 1),
        enters(400, 1),
    ]
    assert explain(records)[1] == ("lock", "pool/10", 200)
    assert explain(records, lost=[150]) == [("run", "", 100), lost(200), ("run", "", 500)]
