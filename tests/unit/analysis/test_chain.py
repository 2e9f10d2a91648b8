"""The critical path of a wait, worked out by hand: over several threads, over false wake-ups, and where it must end."""

from jitterprof.model.event import Context, EventKind, Vector
from tests.unit.analysis.traces import (
    FUTEX,
    NANOSLEEP,
    OTHER,
    PROCESS,
    SIBLING,
    blocked,
    enters,
    explain,
    interval,
    preempted,
    request,
    task,
    waking,
)

#: ME has CPU 1 and SIBLING CPU 0 from the start; THIRD is one more thread of the target, on CPU 2.
THIRD = 13
START = [task(THIRD, "deep", PROCESS), enters(40, 0, tid=SIBLING), enters(50, 1), enters(45, 2, tid=THIRD)]
LOCK, DEEPER = 0x7F00, 0x8F00


def two_steps(*of_third: object) -> list[object]:
    """ME waits in [200, 500) for SIBLING, which waits in [220, 480) for THIRD."""
    return [
        *START,
        blocked(200, 1, FUTEX, b=LOCK),
        blocked(220, 0, FUTEX, tid=SIBLING, b=DEEPER),
        *of_third,
        waking(480, 2, THIRD, 0, tid=SIBLING),
        enters(490, 0, tid=SIBLING),
        waking(500, 0, SIBLING, 1),
        enters(500, 1),
    ]


def test_a_holder_that_waits_for_somebody_else_names_that_one() -> None:
    records = [
        *START,
        blocked(200, 1, FUTEX),
        blocked(220, 0, FUTEX, tid=SIBLING),
        waking(280, 2, OTHER, 0, tid=SIBLING),
        enters(290, 0, tid=SIBLING),
        waking(300, 0, SIBLING, 1),
        enters(300, 1),
    ]
    assert explain(records)[1:5] == [
        ("lock", "pool/10", 20),
        ("lock", "hog/99 (holder pool/12)", 60),
        ("wakeup", "idle exit (holder pool/12)", 10),
        ("lock", "pool/10", 10),
    ]


def test_a_preempted_holder_two_steps_away_is_named_with_its_lock() -> None:
    records = two_steps(preempted(300, 2, OTHER, tid=THIRD), enters(400, 2, OTHER, tid=THIRD))
    assert explain(records)[1:7] == [
        ("lock", "pool/10", 20),
        ("lock", "deep/10 (holder pool/12 of futex 0x7f00)", 80),
        ("preempted", "hog/99 (holder deep/13 of futex 0x8f00)", 100),
        ("lock", "deep/10 (holder pool/12 of futex 0x7f00)", 80),
        ("wakeup", "idle exit (holder pool/12 of futex 0x7f00)", 10),
        ("lock", "pool/10", 10),
    ]


def test_a_holder_that_sleeps_by_its_own_wish_stays_a_lock() -> None:
    records = two_steps(
        blocked(300, 2, NANOSLEEP, tid=THIRD),
        waking(400, 2, 0, 2, 0, Context.VECTOR, Vector.LOCAL_TIMER, tid=THIRD),
        enters(400, 2, tid=THIRD),
    )
    assert ("lock", "deep/10 (holder pool/12 of futex 0x7f00)", 260) in explain(records)


def test_the_walk_stays_inside_the_wait() -> None:
    # THIRD was preempted before SIBLING began to wait for it, and after.
    records = two_steps(preempted(190, 2, OTHER, tid=THIRD), enters(215, 2, OTHER, tid=THIRD))
    assert not [part for part in explain(records) if part[0] == "preempted"]


def test_a_walk_ends_in_the_interrupt_that_woke() -> None:
    records = [
        *START,
        blocked(200, 1, FUTEX, b=LOCK),
        blocked(220, 0, 232, tid=SIBLING),
        waking(480, 2, THIRD, 0, 0, Context.SOFTIRQ, 3, tid=SIBLING),
        enters(490, 0, tid=SIBLING),
        waking(500, 0, SIBLING, 1),
        enters(500, 1),
    ]
    assert explain(records)[2] == ("net", "NET_RX (holder pool/12 of futex 0x7f00)", 260)


def test_timed_waits_for_one_lock_are_one_wait() -> None:
    """As for Python's GIL: five milliseconds, then again, until the holder lets go."""
    records = [
        *START,
        blocked(200, 1, FUTEX, b=LOCK),
        waking(300, 1, 0, 1, 0, Context.VECTOR, Vector.LOCAL_TIMER),
        enters(300, 1),
        blocked(310, 1, FUTEX, b=LOCK),
        preempted(250, 0, OTHER, tid=SIBLING),
        enters(350, 0, OTHER, tid=SIBLING),
        waking(500, 0, SIBLING, 1),
        enters(500, 1),
    ]
    assert explain(records)[1:5] == [
        ("lock", "pool/10", 50),
        ("preempted", "hog/99 (holder pool/12 of futex 0x7f00)", 50),
        ("run", "", 10),
        ("preempted", "hog/99 (holder pool/12 of futex 0x7f00)", 40),
    ]


def test_a_wait_for_another_lock_is_another_wait() -> None:
    records = [
        *START,
        blocked(200, 1, FUTEX, b=LOCK),
        waking(300, 1, 0, 1, 0, Context.VECTOR, Vector.LOCAL_TIMER),
        enters(300, 1),
        blocked(310, 1, FUTEX, b=DEEPER),
        waking(500, 0, SIBLING, 1),
        enters(500, 1),
    ]
    assert explain(records)[1] == ("sleep", "timer", 100)


def test_a_thread_that_worked_in_between_was_not_woken_for_nothing() -> None:
    far = 100_000
    records = [
        *START,
        blocked(200, 1, FUTEX, b=LOCK),
        waking(300, 1, 0, 1, 0, Context.VECTOR, Vector.LOCAL_TIMER),
        enters(300, 1),
        blocked(far, 1, FUTEX, b=LOCK),
        waking(far + 200, 0, SIBLING, 1),
        enters(far + 200, 1),
    ]
    table = request(100, far + 900)
    assert explain(records, table, window=(0, far + 1000))[1] == ("sleep", "timer", 100)


def test_what_follows_a_false_wake_may_be_lost() -> None:
    records = [
        *START,
        blocked(200, 1, FUTEX, b=LOCK),
        waking(300, 1, 0, 1, 0, Context.VECTOR, Vector.LOCAL_TIMER),
        enters(300, 1),
        blocked(310, 1, FUTEX, b=LOCK),
        waking(500, 0, SIBLING, 1),
        enters(500, 1),
    ]
    parts = explain(records, lost=[310])
    assert not [part for part in parts if part[0] in ("sleep", "lock")]
    assert ("unknown", "lost events") in [part[:2] for part in parts]


def test_two_threads_that_wait_for_each_other_in_turn_end_the_walk() -> None:
    # ME is woken for nothing at 300, wakes SIBLING while it runs, and waits for it again.
    records = [
        *START,
        blocked(150, 0, FUTEX, tid=SIBLING, b=DEEPER),
        blocked(200, 1, FUTEX, b=LOCK),
        waking(300, 1, 0, 1, 0, Context.VECTOR, Vector.LOCAL_TIMER),
        enters(300, 1),
        waking(305, 1, 11, 0, tid=SIBLING),
        enters(306, 0, tid=SIBLING),
        blocked(310, 1, FUTEX, b=LOCK),
        waking(500, 0, SIBLING, 1),
        enters(500, 1),
    ]
    assert explain(records)[1:4] == [("lock", "pool/10", 100), ("run", "", 10), ("lock", "pool/10", 190)]


def test_a_softirq_on_the_holders_cpu_is_part_of_the_walk() -> None:
    records = two_steps(interval(EventKind.SOFTIRQ, 300, 350, 2, 3))
    assert ("softirq", "NET_RX (holder deep/13 of futex 0x8f00)", 50) in explain(records)
