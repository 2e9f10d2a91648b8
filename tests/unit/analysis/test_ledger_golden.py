"""One small trace per pitfall; every figure is worked out by hand."""

import numpy as np
import pytest

from jitterprof.analysis.culprits import culprit_cgroups
from jitterprof.analysis.ledger import build_ledger, check_closure
from jitterprof.errors import RunFileError
from jitterprof.model.event import Context, EventKind, FaultFlag, OutFlag, Vector
from jitterprof.model.request import GC_DTYPE, Kind
from jitterprof.model.run import ProbeStatus
from tests.unit.analysis.traces import (
    EPOLL_WAIT,
    EXCEPTION,
    FSYNC,
    FUTEX,
    IO_URING_ENTER,
    ME,
    MUNMAP,
    NANOSLEEP,
    OBSERVER,
    OTHER,
    PROCESS,
    READ,
    SIBLING,
    Part,
    Record,
    blocked,
    enters,
    evidence,
    explain,
    interval,
    migrate,
    occupy,
    out,
    preempted,
    request,
    task,
    wakeup,
    waking,
)

#: ME has CPU 1 from 50 on.
ON_CPU_1 = enters(50, 1)


# Preempted or blocked, and since when.


def test_preempted_behind_whoever_held_the_cpu() -> None:
    records = [ON_CPU_1, preempted(300, 1, OTHER), occupy(400, 1, OBSERVER, OTHER), enters(600, 1, OBSERVER)]
    assert explain(records) == [
        ("run", "", 200),
        ("preempted", "hog/99", 100),
        ("preempted", "jitterprof/77", 200),
        ("run", "", 300),
    ]


def test_a_preempted_thread_may_carry_a_sleeping_state() -> None:
    # It was about to sleep (state 1) when it lost the CPU; a waker meets it in the queue.
    records = [ON_CPU_1, preempted(300, 1, OTHER, state=1), waking(400, 0, SIBLING, 1, OTHER), enters(600, 1, OTHER)]
    assert explain(records) == [("run", "", 200), ("preempted", "hog/99", 300), ("run", "", 300)]


def test_yielding_is_waiting_in_the_queue() -> None:
    records = [ON_CPU_1, out(300, 1, OTHER, state=0, nr=24), enters(350, 1, OTHER)]
    assert explain(records) == [("run", "", 200), ("preempted", "hog/99", 50), ("run", "", 550)]


def test_a_wait_starts_at_waking_on_the_previous_cpu_and_follows_the_thread() -> None:
    records = [
        ON_CPU_1,
        blocked(200, 1, FUTEX),
        waking(300, 0, SIBLING, 1, OTHER),
        migrate(350, 0, 1, 2, OBSERVER),
        wakeup(400, 0, 3, 0),
        enters(500, 3),
    ]
    assert explain(records) == [
        ("run", "", 100),
        ("lock", "pool/10", 100),
        ("wakeup", "hog/99", 50),
        ("wakeup", "jitterprof/77", 50),
        ("wakeup", "idle exit", 100),
        ("run", "", 400),
    ]


def test_the_first_waking_counts() -> None:
    records = [
        ON_CPU_1,
        blocked(200, 1, FUTEX),
        waking(300, 0, SIBLING, 1, OTHER),
        waking(350, 2, OTHER, 1, OTHER),
        enters(500, 1),
    ]
    assert explain(records)[1:3] == [("lock", "pool/10", 100), ("wakeup", "hog/99", 200)]


def test_a_wake_that_races_the_switch_out_is_kept() -> None:
    # The waker ran between "going to sleep" and the switch; no other WAKING follows.
    records = [
        ON_CPU_1,
        waking(290, 0, SIBLING, 1, ME),
        blocked(300, 1, FUTEX, OTHER),
        wakeup(310, 1, 1, OTHER),
        enters(400, 1),
    ]
    assert explain(records) == [("run", "", 200), ("wakeup", "hog/99", 100), ("run", "", 500)]


def test_a_wake_of_a_running_thread_is_nothing_if_another_one_follows() -> None:
    records = [
        ON_CPU_1,
        waking(250, 0, SIBLING, 1, ME),
        blocked(300, 1, FUTEX),
        waking(400, 0, OTHER, 1),
        enters(450, 1),
    ]
    assert explain(records) == [
        ("run", "", 200),
        ("lock", "hog/99", 100),
        ("wakeup", "idle exit", 50),
        ("run", "", 450),
    ]


def test_a_sleep_whose_end_nobody_recorded_stays_a_sleep() -> None:
    records = [ON_CPU_1, blocked(300, 1, FUTEX), enters(450, 1)]
    assert explain(records) == [("run", "", 200), ("lock", "", 150), ("run", "", 450)]


def test_the_idle_tasks_of_two_cpus_are_not_one() -> None:
    # Both CPUs go idle; a hog runs on CPU 0 only.
    records = [
        enters(40, 0, tid=SIBLING),
        ON_CPU_1,
        blocked(200, 1, NANOSLEEP),
        blocked(210, 0, NANOSLEEP, OTHER, tid=SIBLING),
        waking(300, 1, 0, 1, 0, Context.VECTOR, Vector.LOCAL_TIMER),
        enters(330, 1),
        preempted(400, 1, OTHER),
        enters(500, 1),
    ]
    assert explain(records)[1:] == [
        ("sleep", "", 100),
        ("wakeup", "idle exit", 30),
        ("run", "", 70),
        ("preempted", "hog/99", 100),
        ("run", "", 400),
    ]


def test_an_occupant_read_before_the_switch_is_not_the_waiter_itself() -> None:
    records = [ON_CPU_1, blocked(300, 1, FUTEX), waking(400, 0, SIBLING, 1, ME), enters(450, 1)]
    assert ("wakeup", "", 50) in explain(records)


def test_a_new_thread_waits_from_its_first_wake_up() -> None:
    fork = (150, 0, EventKind.FORK, ME, PROCESS, 0, 0, 0)
    assert explain([fork, wakeup(200, 0, 1, OTHER), enters(260, 1, OTHER)]) == [
        ("unknown", "no record of this thread yet", 100),
        ("wakeup", "hog/99", 60),
        ("run", "", 640),
    ]


def test_a_first_record_that_is_a_switch_out_proves_what_came_before() -> None:
    assert explain([preempted(300, 1, OTHER), enters(400, 1, OTHER)])[0] == ("run", "", 200)


def test_a_first_record_that_is_a_switch_in_proves_nothing_about_what_came_before() -> None:
    assert explain([enters(300, 1)])[0] == ("unknown", "no record of this thread yet", 200)


def test_a_thread_that_was_never_switched_ran_all_the_time() -> None:
    records = [interval(EventKind.SOFTIRQ, 300, 350, 1, 3)]
    seen = (ProbeStatus("sched", "on"),)
    assert explain(records, request(100, 900, cpu=1), probes=seen) == [
        ("run", "", 200),
        ("softirq", "NET_RX", 50),
        ("run", "", 550),
    ]


def test_without_scheduler_records_nothing_is_claimed() -> None:
    records = [interval(EventKind.SOFTIRQ, 300, 350, 1, 3)]
    assert explain(records, request(100, 900, 80, cpu=1)) == [("dispatch", "", 20), ("unknown", "not observed", 800)]


def test_outside_the_recording_nothing_is_known() -> None:
    records = [enters(200, 1), preempted(500, 1, OTHER)]
    assert explain(records, window=(200, 700)) == [
        ("unknown", "no record of this thread yet", 100),
        ("run", "", 300),
        ("preempted", "hog/99", 200),
        ("unknown", "outside the recording", 200),
    ]


def test_after_its_exit_a_thread_waits_for_nothing() -> None:
    records = [ON_CPU_1, out(500, 1, OTHER, state=0x80, nr=60)]
    assert explain(records)[-1] == ("unknown", "after the thread's exit", 400)


# What a blocked thread waited for.


def _slept(sleep: Record, wake: Record) -> Part:
    (part,) = [part for part in explain([ON_CPU_1, sleep, wake, enters(wake[0], 1)]) if part[0] != "run"]
    return part


def _woken(context: Context = Context.TASK, b: int = 0, by: int = SIBLING) -> Record:
    return waking(400, 0, by, 1, 0, context, b)


@pytest.mark.parametrize(
    ("sleep", "wake", "expected"),
    [
        (blocked(300, 1, FUTEX), _woken(), ("lock", "pool/10", 100)),
        (blocked(300, 1, FUTEX), _woken(Context.VECTOR, Vector.LOCAL_TIMER, OTHER), ("sleep", "timer", 100)),
        (blocked(300, 1, FUTEX), _woken(Context.SOFTIRQ, 1, OTHER), ("sleep", "timer", 100)),
        (blocked(300, 1, NANOSLEEP), _woken(Context.VECTOR, Vector.LOCAL_TIMER), ("sleep", "", 100)),
        # In an interrupt `other` is whoever was interrupted: not the culprit.
        (blocked(300, 1, EPOLL_WAIT), _woken(Context.SOFTIRQ, 3, OTHER), ("net", "NET_RX", 100)),
        (blocked(300, 1, EPOLL_WAIT), _woken(by=OTHER), ("net", "hog/99", 100)),
        (blocked(300, 1, EPOLL_WAIT), _woken(Context.VECTOR, Vector.LOCAL_TIMER), ("sleep", "timer", 100)),
        (blocked(300, 1, READ), _woken(by=OTHER), ("lock", "hog/99", 100)),
        (blocked(300, 1, READ), _woken(Context.SOFTIRQ, 3), ("net", "NET_RX", 100)),
        (
            blocked(300, 1, READ, state=2, flags=OutFlag.IOWAIT, b=8 << 20 | 1),
            _woken(Context.HARDIRQ, 24),
            ("block_io", "sda1", 100),
        ),
        (
            blocked(300, 1, READ, state=2, flags=OutFlag.IOWAIT, b=9 << 20),
            _woken(Context.HARDIRQ, 24),
            ("block_io", "9:0", 100),
        ),
        (
            blocked(300, 1, READ, state=2, flags=OutFlag.IOWAIT),
            _woken(Context.HARDIRQ, 24),
            ("block_io", "unknown device", 100),
        ),
        (blocked(300, 1, IO_URING_ENTER), _woken(Context.HARDIRQ, 24), ("block_io", "nvme0q1", 100)),
        (blocked(300, 1, IO_URING_ENTER), _woken(), ("unknown", "blocked in io_uring_enter", 100)),
        (blocked(300, 1, FSYNC, state=2), _woken(by=OTHER), ("lock", "hog/99 (in fsync)", 100)),
        (blocked(300, 1, MUNMAP, state=2), _woken(Context.SOFTIRQ, 9), ("lock", "RCU (in munmap)", 100)),
        (
            blocked(300, 1, 16, state=2),
            _woken(Context.VECTOR, Vector.LOCAL_TIMER),
            ("unknown", "blocked in ioctl", 100),
        ),
        (blocked(300, 1, EXCEPTION, state=2), _woken(by=OTHER), ("page_fault", "minor: unknown mapping", 100)),
        (
            blocked(300, 1, EXCEPTION, state=2, flags=OutFlag.IOWAIT),
            _woken(),
            ("page_fault", "major: unknown mapping", 100),
        ),
        (blocked(300, 1, READ, state=2, flags=OutFlag.IN_RECLAIM), _woken(), ("reclaim", "", 100)),
        (blocked(300, 1, 271, state=1), _woken(Context.VECTOR, Vector.LOCAL_TIMER), ("sleep", "timer", 100)),
        (blocked(300, 1, 61), _woken(by=OTHER), ("unknown", "blocked in wait4", 100)),
        (blocked(300, 1, 999), _woken(by=OTHER), ("unknown", "blocked in system call 999", 100)),
        # A throttled queue before 6.18: the thread sleeps, and the record does not say in what.
        (
            blocked(300, 1, EXCEPTION, flags=OutFlag.THROTTLED),
            _woken(by=OTHER),
            ("unknown", "blocked while throttled", 100),
        ),
        # From the idle loop.
        (blocked(300, 1, FUTEX), _woken(by=0), ("lock", "idle task", 100)),
    ],
)
def test_what_it_waited_for(sleep: Record, wake: Record, expected: Part) -> None:
    found = explain([ON_CPU_1, sleep, wake, enters(400, 1)], devices={"8:1": "sda1"})
    assert [part for part in found if part[0] != "run"] == [expected]


def test_system_calls_have_other_numbers_on_arm64() -> None:
    records = [ON_CPU_1, blocked(300, 1, 98), waking(400, 0, OTHER, 1), enters(400, 1)]
    assert explain(records, machine="aarch64")[1] == ("lock", "hog/99", 100)
    assert explain(records)[1] == ("unknown", "blocked in system call 98", 100)


def test_the_local_timer_of_arm64_is_a_device_interrupt() -> None:
    records = [
        ON_CPU_1,
        interval(EventKind.HARDIRQ, 200, 210, 1, 13),
        blocked(300, 1, 98),
        waking(400, 0, OTHER, 1, 0, Context.HARDIRQ, 13),
        enters(400, 1),
    ]
    found = explain(records, machine="aarch64", irq_names={"13": "arch_timer"})
    assert found[1] == ("timer", "arch_timer", 10)
    assert found[3] == ("sleep", "timer", 100)


def test_a_kworker_that_wakes_is_named_by_its_function() -> None:
    records = [
        task(200, "kworker/1:2", kernel=True),
        ON_CPU_1,
        blocked(300, 1, FSYNC, state=2),
        waking(400, 0, 200, 1, b=0xABC),
        enters(400, 1),
    ]
    assert explain(records, symbols={str(0xABC): "wb_workfn"})[1] == ("lock", "kworker/1:2 (wb_workfn) (in fsync)", 100)


def test_a_major_fault_is_no_disk_request_of_its_own() -> None:
    fault = interval(EventKind.FAULT, 250, 500, 1, b=0x1500, flags=FaultFlag.MAJOR, tid=ME)
    records = [
        ON_CPU_1,
        blocked(300, 1, EXCEPTION, state=2, flags=OutFlag.IOWAIT | OutFlag.IN_FAULT, b=8 << 20),
        waking(400, 0, 0, 1, 0, Context.HARDIRQ, 24),
        enters(450, 1),
        fault,
    ]
    assert explain(records, maps=((0x1000, 0x2000, "file:weights.bin"),)) == [
        ("run", "", 150),
        ("page_fault", "major: file", 150),
        ("wakeup", "idle exit", 50),
        ("page_fault", "major: file", 50),
        ("run", "", 400),
    ]


def test_a_fault_flag_that_a_failed_fault_left_behind_means_nothing() -> None:
    # The flag says "in a fault", but the next fault to end began later: the earlier one was never accounted.
    records = [
        ON_CPU_1,
        blocked(300, 1, FUTEX, flags=OutFlag.IN_FAULT),
        waking(400, 0, SIBLING, 1),
        enters(400, 1),
        interval(EventKind.FAULT, 500, 520, 1, b=0x1500, tid=ME),
    ]
    assert explain(records)[1] == ("lock", "pool/10", 100)


def test_stopped_by_a_signal() -> None:
    signal = (250, 0, EventKind.SIGNAL, PROCESS, OTHER, 19, 0, 0)
    records = [signal, ON_CPU_1, out(300, 1, 0, 0, 0x104, EXCEPTION), waking(600, 0, OTHER, 1), enters(620, 1)]
    assert explain(records)[1:3] == [("stopped", "hog/99", 300), ("wakeup", "idle exit", 20)]


def test_frozen_and_traced_have_no_sender() -> None:
    frozen = [ON_CPU_1, out(300, 1, 0, 0, 0x8000, FUTEX), waking(600, 0, OTHER, 1), enters(600, 1)]
    assert explain(frozen)[1] == ("stopped", "freezer", 300)
    traced = [ON_CPU_1, out(300, 1, 0, 0, 0x8, EXCEPTION), waking(600, 0, OTHER, 1), enters(600, 1)]
    assert explain(traced)[1] == ("stopped", "ptrace", 300)


def test_throttled_is_not_preempted() -> None:
    records = [ON_CPU_1, out(300, 1, OTHER, OutFlag.THROTTLED | OutFlag.PREEMPT, 0, EXCEPTION, b=4242), enters(700, 1)]
    assert explain(records, cgroups={"4242": "/jobs/a"})[1] == ("throttled", "/jobs/a", 400)
    assert explain(records)[1] == ("throttled", "cgroup 4242", 400)


# Interrupts.


def test_interrupts_are_net_of_what_interrupted_them() -> None:
    records = [
        ON_CPU_1,
        interval(EventKind.SOFTIRQ, 200, 400, 1, 3),
        interval(EventKind.HARDIRQ, 250, 350, 1, 24),
        interval(EventKind.NMI, 300, 320, 1),
    ]
    assert explain(records) == [
        ("run", "", 100),
        ("softirq", "NET_RX", 50),
        ("hardirq", "nvme0q1", 50),
        ("nmi", "nmi", 20),
        ("hardirq", "nvme0q1", 30),
        ("softirq", "NET_RX", 50),
        ("run", "", 500),
    ]


def test_vectors_say_what_they_ran_and_who_sent_them() -> None:
    single = Vector.CALL_FUNCTION_SINGLE
    records = [
        ON_CPU_1,
        interval(EventKind.VECTOR, 200, 210, 1, flags=Vector.LOCAL_TIMER),
        interval(EventKind.VECTOR, 220, 240, 1, flags=Vector.LOCAL_TIMER, b=0xF00),
        interval(EventKind.VECTOR, 300, 310, 1, flags=single, b=0xF01, other=OTHER),
        interval(EventKind.VECTOR, 320, 330, 1, flags=Vector.RESCHEDULE),
        interval(EventKind.VECTOR, 340, 350, 1, flags=single, b=0xF02),
    ]
    found = explain(records, symbols={str(0xF00): "timerfd_tmrproc", str(0xF01): "flush_tlb_func"})
    assert [part for part in found if part[0] != "run"] == [
        ("timer", "tick", 10),
        ("timer", "timerfd_tmrproc", 20),
        ("ipi", "call_function_single (flush_tlb_func) from hog/99", 10),
        ("ipi", "reschedule", 10),
        ("ipi", "call_function_single (0xf02)", 10),
    ]


def test_an_interrupt_elsewhere_is_nobodys_business() -> None:
    assert explain([ON_CPU_1, interval(EventKind.HARDIRQ, 200, 400, 2, 24)]) == [("run", "", 800)]


def test_an_interrupt_hits_a_waiting_thread_on_the_cpu_it_waits_for_only() -> None:
    irq = interval(EventKind.HARDIRQ, 400, 500, 1, 24)
    waits = [ON_CPU_1, preempted(300, 1, OTHER), irq, enters(600, 1, OTHER)]
    assert explain(waits)[1:4] == [
        ("preempted", "hog/99", 100),
        ("hardirq", "nvme0q1", 100),
        ("preempted", "hog/99", 100),
    ]
    sleeps = [ON_CPU_1, blocked(300, 1, FUTEX), irq, waking(600, 0, OTHER, 1), enters(600, 1)]
    assert explain(sleeps)[1] == ("lock", "hog/99", 300)


def test_a_softirq_in_ksoftirqd_is_a_softirq() -> None:
    records = [
        task(15, "ksoftirqd/1", kernel=True),
        ON_CPU_1,
        preempted(300, 1, 15),
        interval(EventKind.SOFTIRQ, 320, 480, 1, 3, tid=15),
        enters(500, 1, 15),
    ]
    assert explain(records)[1:4] == [
        ("softirq", "ksoftirqd/1/15", 20),
        ("softirq", "NET_RX", 160),
        ("softirq", "ksoftirqd/1/15", 20),
    ]


def test_a_kworker_that_holds_the_cpu_is_named_by_its_function() -> None:
    records = [
        task(200, "kworker/1:2", kernel=True),
        ON_CPU_1,
        preempted(300, 1, 200),
        interval(EventKind.WORK, 310, 390, 1, b=0xABC, tid=200),
        enters(400, 1, 200),
    ]
    assert explain(records, symbols={str(0xABC): "vmstat_update"})[1:4] == [
        ("preempted", "kworker/1:2/200", 10),
        ("preempted", "kworker/1:2 (vmstat_update)", 80),
        ("preempted", "kworker/1:2/200", 10),
    ]


def test_a_work_item_that_is_preempted_itself_is_not_blamed_for_its_preemptor() -> None:
    records = [
        ON_CPU_1,
        preempted(300, 1, 200),
        occupy(330, 1, OTHER, 200),
        occupy(370, 1, 200, OTHER),
        interval(EventKind.WORK, 300, 400, 1, b=0xABC, tid=200),
        enters(400, 1, 200),
        task(200, "kworker/1:2"),
    ]
    assert explain(records, symbols={str(0xABC): "f"})[1:4] == [
        ("preempted", "kworker/1:2 (f)", 30),
        ("preempted", "hog/99", 40),
        ("preempted", "kworker/1:2 (f)", 30),
    ]


def test_steal_ends_where_it_was_seen_and_the_tick_that_follows_is_a_tick() -> None:
    records = [
        ON_CPU_1,
        interval(EventKind.VECTOR, 590, 600, 1, flags=Vector.LOCAL_TIMER),
        interval(EventKind.STEAL, 200, 600, 1, b=100),
    ]
    assert explain(records) == [("run", "", 400), ("steal", "hypervisor", 90), ("timer", "tick", 10), ("run", "", 300)]


def test_steal_does_not_reach_beyond_its_window() -> None:
    assert explain([ON_CPU_1, interval(EventKind.STEAL, 550, 600, 1, b=10_000)])[1] == ("steal", "hypervisor", 50)


def test_intervals_that_overlap_are_clipped_not_counted_twice() -> None:
    records = [ON_CPU_1, interval(EventKind.SOFTIRQ, 200, 300, 1, 3), interval(EventKind.SOFTIRQ, 250, 400, 1, 9)]
    assert explain(records)[1:3] == [("softirq", "NET_RX", 100), ("softirq", "RCU", 100)]


def test_an_interval_that_ends_before_it_starts_is_nothing() -> None:
    assert explain([ON_CPU_1, interval(EventKind.SOFTIRQ, 400, 300, 1, 3)]) == [("run", "", 800)]


# What a thread did while it ran.


def test_faults_collections_and_reclaim_nest_and_interrupts_win() -> None:
    gc = np.array([(200, 800, ME, 2)], GC_DTYPE)
    records = [
        ON_CPU_1,
        interval(EventKind.FAULT, 300, 600, 1, b=0x2800, tid=ME),
        interval(EventKind.RECLAIM, 400, 500, 1, tid=ME),
        interval(EventKind.VECTOR, 440, 450, 1, flags=Vector.LOCAL_TIMER),
        interval(EventKind.FAULT, 700, 710, 1, tid=SIBLING),
    ]
    assert explain(records, gc=gc, maps=((0x2000, 0x3000, "heap"),)) == [
        ("run", "", 100),
        ("gc", "generation 2", 100),
        ("page_fault", "minor: anonymous", 100),
        ("reclaim", "", 40),
        ("timer", "tick", 10),
        ("reclaim", "", 50),
        ("page_fault", "minor: anonymous", 100),
        ("gc", "generation 2", 200),
        ("run", "", 100),
    ]


def test_a_collection_does_not_explain_a_preemption() -> None:
    gc = np.array([(200, 800, ME, 2)], GC_DTYPE)
    assert ("preempted", "hog/99", 100) in explain([ON_CPU_1, preempted(300, 1, OTHER), enters(400, 1, OTHER)], gc=gc)


def test_a_fault_without_an_end_takes_no_time() -> None:
    assert explain([ON_CPU_1, interval(EventKind.FAULT, 300, 300, 1, flags=FaultFlag.NO_END, tid=ME)]) == [
        ("run", "", 800)
    ]


# The wake chain, one step.


def test_a_preempted_lock_holder_is_the_answer() -> None:
    records = [
        enters(40, 0, tid=SIBLING),
        ON_CPU_1,
        blocked(200, 1, FUTEX),
        preempted(250, 0, OTHER, tid=SIBLING),
        enters(450, 0, OTHER, tid=SIBLING),
        interval(EventKind.SOFTIRQ, 460, 470, 0, 3),
        waking(500, 0, SIBLING, 1),
        enters(500, 1),
    ]
    assert explain(records) == [
        ("run", "", 100),
        ("lock", "pool/10", 50),
        ("preempted", "hog/99 (holder pool/12)", 200),
        ("lock", "pool/10", 10),
        ("softirq", "NET_RX (holder pool/12)", 10),
        ("lock", "pool/10", 30),
        ("run", "", 400),
    ]


def test_the_chain_does_not_reach_beyond_the_wait() -> None:
    # The holder was preempted before and after the wait, not in it.
    records = [
        preempted(100, 0, OTHER, tid=SIBLING),
        enters(200, 0, OTHER, tid=SIBLING),
        ON_CPU_1,
        blocked(200, 1, FUTEX),
        waking(300, 0, SIBLING, 1),
        preempted(300, 0, OTHER, tid=SIBLING),
        enters(300, 1),
    ]
    assert explain(records) == [("run", "", 100), ("lock", "pool/10", 100), ("run", "", 600)]


def test_the_victim_of_an_interrupt_context_wake_is_not_followed() -> None:
    records = [
        preempted(250, 0, OTHER, tid=SIBLING),
        enters(260, 0, OTHER, tid=SIBLING),
        ON_CPU_1,
        blocked(200, 1, EPOLL_WAIT),
        waking(300, 0, SIBLING, 1, 0, Context.SOFTIRQ, 3),
        enters(300, 1),
    ]
    assert explain(records)[1] == ("net", "NET_RX", 100)


def test_the_piece_of_a_holder_names_its_thread_and_cpu() -> None:
    records = [
        preempted(250, 0, OTHER, tid=SIBLING),
        enters(280, 0, OTHER, tid=SIBLING),
        ON_CPU_1,
        blocked(200, 1, FUTEX),
        waking(300, 0, SIBLING, 1),
        enters(300, 1),
    ]
    pieces = build_ledger(request(100, 900), evidence(records)).pieces
    assert pieces[["tid", "cpu"]].tolist() == [(ME, 1), (ME, -1), (SIBLING, 0), (ME, -1), (ME, 1)]


# Before the start.


def test_time_behind_the_previous_request_is_queue_and_the_generators_own_is_dispatch() -> None:
    rows = np.concatenate([request(100, 400), request(500, 900, intended=250)])
    assert explain([ON_CPU_1], rows, row=1) == [("queue", "", 150), ("dispatch", "", 100), ("run", "", 400)]


def test_workers_queue_behind_themselves_only() -> None:
    rows = np.concatenate([request(100, 400, tid=SIBLING, worker=1), request(500, 900, intended=250)])
    assert explain([ON_CPU_1], rows, row=1)[0] == ("dispatch", "", 250)


def test_what_held_up_the_start_keeps_its_cause() -> None:
    records = [
        ON_CPU_1,
        blocked(100, 1, NANOSLEEP),
        waking(220, 1, 0, 1, OTHER, Context.VECTOR, Vector.LOCAL_TIMER),
        enters(300, 1, OTHER),
        interval(EventKind.HARDIRQ, 320, 330, 1, 24),
    ]
    assert explain(records, request(400, 900, intended=200)) == [
        ("dispatch", "timer", 20),
        ("wakeup", "hog/99", 80),
        ("dispatch", "", 20),
        ("hardirq", "nvme0q1", 10),
        ("dispatch", "", 70),
        ("run", "", 500),
    ]


def test_before_a_thread_was_seen_it_is_dispatch() -> None:
    assert explain([enters(300, 1)], request(400, 900, intended=200))[:1] == [("dispatch", "", 200)]


def test_a_closed_loop_adds_nothing() -> None:
    rows = np.concatenate([request(100, 400), request(400, 900)])
    assert explain([ON_CPU_1], rows, row=1) == [("run", "", 500)]


def test_tokens_have_a_ledger_of_their_own() -> None:
    token = request(100, 300)
    token["kind"] = Kind.TOKEN
    rows = np.concatenate([request(100, 900), token])
    seen = evidence([ON_CPU_1])
    assert build_ledger(rows, seen).pieces["row"].tolist() == [0]
    tokens = build_ledger(rows, seen, kind=Kind.TOKEN)
    assert tokens.pieces[["row", "ns"]].tolist() == [(1, 200)]


# Names.


def test_our_own_processes_are_marked() -> None:
    records = [
        task(78, "recorder", OBSERVER),
        ON_CPU_1,
        preempted(300, 1, 78),
        enters(400, 1, 78),
        preempted(500, 1, OTHER),
    ]
    ledger = build_ledger(request(100, 900), evidence(records))
    assert {name: bool(ours) for name, ours in zip(ledger.culprits, ledger.observer, strict=True)} == {
        "": False,
        "recorder/77": True,
        "hog/99": False,
    }


def test_a_task_without_a_name_keeps_its_number() -> None:
    assert explain([ON_CPU_1, preempted(300, 1, 555), enters(400, 1)])[1] == ("preempted", "?/555", 100)


def test_the_cgroup_of_a_culprit_can_be_looked_up() -> None:
    group = (0, 0, EventKind.TASK_CGROUP, OTHER, 0, 31, 0, 0)
    assert culprit_cgroups(evidence([group], cgroups={"31": "/system.slice/hog"})) == {"hog/99": "/system.slice/hog"}


# Damage.


def test_rows_out_of_order_are_refused() -> None:
    with pytest.raises(RunFileError, match="row 0"):
        build_ledger(request(900, 100), evidence([ON_CPU_1]))


def test_a_ledger_that_does_not_close_is_a_bug() -> None:
    rows = request(100, 900)
    pieces = build_ledger(rows, evidence([ON_CPU_1])).pieces
    check_closure(pieces, rows, np.array([0]))
    pieces["ns"][0] -= 1
    with pytest.raises(AssertionError, match="row 0"):
        check_closure(pieces, rows, np.array([0]))


def test_no_requests_no_pieces() -> None:
    assert len(build_ledger(request(100, 900)[:0], evidence([ON_CPU_1])).pieces) == 0


def test_a_thread_that_was_never_switched_ran_whatever_its_number() -> None:
    # Its number is lower than that of the threads that were, and the request ends where the recording does.
    rows = request(100, 1000, tid=3, cpu=2)
    pieces = build_ledger(rows, evidence([ON_CPU_1])).pieces
    assert [(int(piece["cause"]), int(piece["ns"]), int(piece["cpu"])) for piece in pieces] == [(0, 900, 2)]
