"""Known things, a prime number of times: the records must count them exactly, and say who, where and why."""

import os
import signal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from kernel.lab import CPU, CPUS, Lab, comm_of, cpu_of, kernel_config, nr_of, state_of, transitions, wait_until

from jitterprof.model.event import (
    SOFTIRQ_NAMES,
    TASK_INTERRUPTIBLE,
    TASK_STOPPED,
    Context,
    EventKind,
    FaultFlag,
    OutFlag,
    Vector,
)

N = 23
#: include/linux/sched.h
TASK_DEAD = 0x80
#: Numbers of x86 and arm64 (asm-generic/unistd.h).
ARM = os.uname().machine == "aarch64"
CLOCK_NANOSLEEP, FUTEX, PREAD64, READ = (115, 98, 67, 63) if ARM else (230, 202, 17, 0)

two_cpus = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")


def test_sleeps(lab: Lab) -> None:
    act = lab.act(f"sleep {N} 700")
    outs = act.outs(CLOCK_NANOSLEEP)
    assert len(outs) == N
    assert (state_of(outs) & TASK_INTERRUPTIBLE).all()
    assert set(outs["flags"]) == {0}
    wakes = act.of(EventKind.WAKING)
    assert len(wakes) == N
    by_timer = (wakes["flags"] == Context.VECTOR) & (wakes["b"] == Vector.LOCAL_TIMER)
    by_timer |= (wakes["flags"] == Context.SOFTIRQ) & (wakes["b"] == SOFTIRQ_NAMES.index("HRTIMER"))
    if ARM:
        by_timer |= wakes["flags"] == Context.HARDIRQ
    assert by_timer.all()
    # Out, woken 700 us after it asked for that, then in.
    ins = act.of(EventKind.SWITCH_IN)
    after = ins["ts"][np.searchsorted(ins["ts"], wakes["ts"])]
    assert (outs["ts"] < wakes["ts"]).all() and (wakes["ts"] < after).all()
    since = np.concatenate([[np.uint64(act.begin)], after[:-1]])
    assert (wakes["ts"] - since >= 700_000).all()


def test_every_switch_out_is_followed_by_a_switch_in(lab: Lab) -> None:
    act = lab.act(f"sleep {N} 300")
    events = act.events[np.isin(act.events["kind"], (EventKind.SWITCH_OUT, EventKind.SWITCH_IN))]
    mine = events[events["tid"] == act.tid]
    assert mine["kind"].tolist() == [EventKind.SWITCH_OUT, EventKind.SWITCH_IN] * (len(mine) // 2)


@pytest.mark.parametrize("thread", ["", "thread "], ids=["main thread", "thread made after attaching"])
def test_page_faults(lab: Lab, thread: str) -> None:
    act = lab.act(f"{thread}fault {N}")
    faults = act.of(EventKind.FAULT)
    mine = faults[faults["b"] // 4096 == act.answer["address"] // 4096]
    assert len(mine) == N
    assert set(mine["flags"]) == {0}
    assert (mine["a"] < mine["ts"]).all() and (mine["a"] >= act.begin).all()
    assert (mine["a"][1:] > mine["ts"][:-1]).all()
    assert not np.any(mine["flags"] & FaultFlag.NO_END)


def test_a_fault_that_never_ends_is_not_taken_for_one(lab: Lab) -> None:
    """A segmentation fault has no end event. What follows must not look as if it happened inside it."""
    act = lab.act("segv 2000")
    assert not np.any(act.of(EventKind.FAULT)["b"] < 4096)
    sleep = act.outs(CLOCK_NANOSLEEP)
    assert len(sleep) == 1
    later = lab.act("fault 1")
    assert (later.of(EventKind.FAULT)["a"] >= later.begin).all()


def test_futex_handovers_name_the_waker(lab: Lab) -> None:
    act = lab.act(f"futex {N} {CPU}")
    partner = act.answer["partner"]
    for sleeper, waker in ((act.tid, partner), (partner, act.tid)):
        wakes = act.of(EventKind.WAKING, sleeper)
        by_task = wakes[wakes["flags"] == Context.TASK]
        assert len(by_task) == len(wakes) == N
        assert set(by_task["other"]) == {waker}
        assert set(cpu_of(by_task)) == {CPU}
        # Who is on the CPU that it waits for: the waker.
        assert set(by_task["a"] >> np.uint64(32)) == {waker}
    outs = act.outs(FUTEX)
    assert len(outs) == N
    assert set(outs["b"]) == {act.answer["word"]}
    assert set(outs["other"]) == {partner}


def test_cold_reads_wait_for_the_disk(lab: Lab) -> None:
    path = Path("/var/tmp") / f"jp-cold-{os.getpid()}"
    try:
        with path.open("wb") as file:
            file.write(os.urandom(N * (1 << 18)))
            os.fsync(file.fileno())
        device = path.stat().st_dev
        act = lab.act(f"read {N} {path}")
    finally:
        path.unlink()
    outs = act.outs(PREAD64)
    waits = outs[outs["flags"] & OutFlag.IOWAIT != 0]
    assert len(waits) == N
    bios = act.of(EventKind.BLOCK_IO)
    assert len(bios) == N
    assert set(waits["b"]) == set(bios["other"].astype(np.uint64))
    assert set(bios["b"]) == {4096}
    number = int(bios["other"][0])
    block = Path(f"/sys/dev/block/{number >> 20}:{number & 0xFFFFF}")
    assert block.exists()
    if os.major(device):
        assert (number >> 20, number & 0xFFFFF) == (os.major(device), os.minor(device))
    wakes = act.of(EventKind.WAKING)
    from_disk = (wakes["flags"] == Context.HARDIRQ) | (wakes["flags"] == Context.SOFTIRQ)
    assert from_disk.sum() >= N - 1  # one may be completed by the task that reaps another's


def test_a_stop_names_its_sender(lab: Lab) -> None:
    pid = lab.victim.pid

    def stop_and_go() -> None:
        wait_until(lambda: lab.victim.state() == "R", "the victim spins")
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: lab.victim.state() == "T", "the victim stops")
        os.kill(pid, signal.SIGCONT)

    # The signal may come before the victim has looked at the clock.
    act = lab.act("spin 300", stop_and_go).all_since_asked()
    outs = act.outs()
    stopped = outs[state_of(outs) & TASK_STOPPED != 0]
    assert len(stopped) == 1
    signals = act.of(EventKind.SIGNAL, pid)
    assert signals["a"].tolist() == [signal.SIGSTOP, signal.SIGCONT]
    assert set(signals["other"]) == {os.getpid()}
    assert signals["ts"][0] < stopped["ts"][0] < signals["ts"][1]
    wakes = act.of(EventKind.WAKING)
    continued = wakes[wakes["ts"] > stopped["ts"][0]]
    assert continued["other"][0] == os.getpid() and continued["flags"][0] == Context.TASK
    assert "python" in {comm_of(task) for task in lab.tasks() if task["tid"] == os.getpid()}.pop()


def test_threads_on_one_cpu_preempt_each_other(lab: Lab) -> None:
    act = lab.act(f"rivals {CPU} 120")
    a, b = act.answer["a"], act.answer["b"]
    ran = {}
    for mine, theirs in ((a, b), (b, a)):
        outs, ins = act.outs(tid=mine), act.of(EventKind.SWITCH_IN, mine)
        runnable = outs[((outs["flags"] & OutFlag.PREEMPT) != 0) | (state_of(outs) == 0)]
        runnable = runnable[runnable["cpu"] == CPU]
        assert len(runnable) >= 5
        rivals_in = act.of(EventKind.SWITCH_IN, theirs)
        # Both records of one switch carry one time.
        assert np.isin(runnable["ts"][runnable["other"] == theirs], rivals_in["ts"]).all()
        gone = act.of(EventKind.EXIT, mine)["ts"].astype(np.int64)
        left = outs["ts"].astype(np.int64)
        ran[mine] = int(np.append(left[left < gone], gone).sum() - ins["ts"].astype(np.int64).sum())
    assert min(ran.values()) > 0.2 * max(ran.values())
    # One of the two always waits, so every switch of that CPU is recorded: each leaves off where the last arrived.
    arrivals = [act.of(EventKind.SWITCH_IN, tid) for tid in (a, b)]
    both_there = max(ins["ts"][ins["cpu"] == CPU][0] for ins in arrivals)
    one_gone = min(act.of(EventKind.EXIT, tid)["ts"][0] for tid in (a, b))
    chain = [step for step in transitions(act, CPU) if both_there <= step[0] < one_gone]
    assert len(chain) >= 10
    assert all(earlier[2] == later[1] for earlier, later in pairwise(chain))


def test_fifo_tasks_are_victims_too(lab: Lab) -> None:
    rounds = 13
    act = lab.act(f"fifo {CPU} {rounds}")
    low, high = act.answer["low"], act.answer["high"]
    outs = act.outs(tid=low)
    # Its arrival on this CPU preempts too.
    taken = outs[outs["other"] == high][1:]
    assert len(taken) == rounds
    assert (taken["flags"] & OutFlag.PREEMPT).all() or set(state_of(taken)) == {0}
    back = act.of(EventKind.SWITCH_IN, low)
    back = back["ts"][np.searchsorted(back["ts"], taken["ts"])]
    away = (back - taken["ts"]).astype(np.int64)
    # A burst of 200 us, and what the two switches and the next sleep take.
    assert (away >= 200_000).all() and np.median(away) < 260_000
    assert len(act.outs(CLOCK_NANOSLEEP, high)) == rounds


@two_cpus
def test_migrations(lab: Lab) -> None:
    act = lab.act(f"migrate {N} {CPUS[0]} {CPUS[1]}")
    moves = act.of(EventKind.MIGRATE)
    assert len(moves) == N
    assert cpu_of(moves).tolist() == [CPUS[(i + 1) % 2] for i in range(N)]
    assert moves["other"].tolist() == [CPUS[i % 2] for i in range(N)]


def test_a_new_name_is_heard_of(lab: Lab) -> None:
    lab.act("name jp-renamed")
    try:
        names = [comm_of(task) for task in lab.tasks() if task["tid"] == lab.victim.pid]
        assert names[-1] == "jp-renamed"
    finally:
        lab.act("name jp-victim")


def test_exec_gives_a_waker_its_new_name(lab: Lab) -> None:
    act = lab.act("child")
    child = act.answer["child"]
    wakes = act.of(EventKind.WAKING)
    by_child = wakes[(wakes["other"] == child) & (wakes["flags"] == Context.TASK)]
    assert len(by_child) >= 2
    tasks = lab.tasks()
    tasks = tasks[tasks["tid"] == child]
    assert [comm_of(task) for task in tasks] == ["jp-victim", "exe"]
    assert tasks["other"].tolist() == [child, child]
    assert tasks["ts"][0] < by_child["ts"][-1] and tasks["ts"][1] < by_child["ts"][-1]
    # The child is a process of the target: its two naps are recorded like ours.
    assert len(act.outs(CLOCK_NANOSLEEP, child)) == 2


def test_thread_churn_leaks_nothing(lab: Lab) -> None:
    before = lab.slots()
    count = 2003
    act = lab.act(f"churn {count}")
    assert len(act.events[act.events["kind"] == EventKind.FORK]) == count
    assert len(act.events[act.events["kind"] == EventKind.EXIT]) == count
    assert lab.slots() == before
    wait_until(lambda: lab.victim.state() == "S", "the victim sleeps")
    assert lab.watched() == [0] * len(lab.watched())
    # Every slot is either somebody's or free to be given: as many threads again find theirs.
    again = lab.act(f"churn {count}")
    made = again.events[again.events["kind"] == EventKind.FORK]["tid"]
    assert len(made) == count
    died = again.since_asked[again.since_asked["kind"] == EventKind.SWITCH_OUT]
    assert np.isin(made, died["tid"][state_of(died) & TASK_DEAD != 0]).all()
    assert lab.slots() == before


def test_nothing_but_victims_is_recorded_as_victim(lab: Lab) -> None:
    act = lab.act("spin 50")
    kinds = (EventKind.SWITCH_OUT, EventKind.SWITCH_IN, EventKind.WAKING, EventKind.WAKEUP, EventKind.FAULT)
    assert set(act.events[np.isin(act.events["kind"], kinds)]["tid"]) <= {lab.victim.pid}
    assert (nr_of(act.outs()) <= 0xFFFF).all()


def test_interrupts_of_a_spinning_victim(lab: Lab) -> None:
    """The ticks of the CPU that it spins on are all there: HZ of them a second."""
    lab.act(f"pin {CPU}")
    try:
        act = lab.act("spin 400")
    finally:
        lab.act("pin -1")
    ticks = act.events[(act.events["kind"] == EventKind.VECTOR) & (act.events["flags"] == Vector.LOCAL_TIMER)]
    mine = ticks[ticks["cpu"] == CPU]
    assert (mine["a"] < mine["ts"]).all()
    # It runs or waits there all the time, so all ticks of that CPU are due; other timers may come on top, and a
    # hypervisor that takes the CPU away swallows some.
    due = (act.end - act.begin) / 1e9 * int(kernel_config("CONFIG_HZ"))
    assert 0.95 * due - 1 <= len(mine)
