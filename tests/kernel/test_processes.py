"""The target is a tree of processes: those that it has, those that it starts, and nobody else."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
from kernel.lab import CPU, Lab, Victim, comm_of, open_lab, wait_until
from kernel.test_counts import CLOCK_NANOSLEEP, READ

from jitterprof.model.event import Context, EventKind
from jitterprof.trace.session import TraceSession

N = 19
#: Kinds whose `tid` is a thread of the target.
OF_VICTIMS = (
    EventKind.SWITCH_OUT,
    EventKind.SWITCH_IN,
    EventKind.WAKING,
    EventKind.WAKEUP,
    EventKind.MIGRATE,
    EventKind.FORK,
    EventKind.FAULT,
)


def ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_child_and_its_child_are_recorded_from_their_first_moment(lab: Lab) -> None:
    act = lab.act(f"family {N} {CPU}")
    child, grandchild = act.answer["child"], act.answer["grandchild"]
    family = [act.tid, child, grandchild]
    forks = act.events[(act.events["kind"] == EventKind.FORK) & np.isin(act.events["tid"], family)]
    assert forks[["tid", "other", "a"]].tolist() == [(child, act.tid, child), (grandchild, child, grandchild)]
    for pid in (child, grandchild):
        # Runnable, on the CPU, off it: the first wake-up comes before anything else.
        mine = act.events[(act.events["tid"] == pid) & np.isin(act.events["kind"], OF_VICTIMS)]
        assert mine["kind"][:3].tolist() == [EventKind.FORK, EventKind.WAKEUP, EventKind.SWITCH_IN]
        assert len(act.of(EventKind.EXIT, pid)) == 1
        assert len(act.of(EventKind.FAULT, pid))
    assert len(act.outs(CLOCK_NANOSLEEP, grandchild)) == N
    assert set(lab.session.followed()) >= {*family}
    wait_until(lambda: {*lab.slots()} == {act.tid}, "the dead have given their slots back")


def test_turns_between_processes_name_the_waker(lab: Lab) -> None:
    act = lab.act(f"family {N} {CPU}")
    child = act.answer["child"]
    for sleeper, waker in ((act.tid, child), (child, act.tid)):
        # One more for the number of the grandchild, and for the first turn.
        assert N <= len(act.outs(READ, sleeper)) <= N + 1
        wakes = act.of(EventKind.WAKING, sleeper)
        by_task = wakes[wakes["flags"] == Context.TASK]
        assert N <= np.count_nonzero(by_task["other"] == waker) <= N + 2


def test_processes_that_are_there_already_are_found(program: Path) -> None:
    with Victim(program) as victim:
        helper = victim.do("helper")["child"]
        session = TraceSession(victim.pid, ring_bytes=1 << 20)
        try:
            assert session.followed() == tuple(sorted((victim.pid, helper)))
            wait_until(lambda: helper in session.read()["tid"], "records of the helper")
        finally:
            session.close()


def test_several_processes_make_one_target(program: Path) -> None:
    with Victim(program) as other, open_lab(program, more_pids=(other.pid,)) as lab:
        done = other.do(f"sleep {N} 300")
        events = lab.drain()
        mine = events[(events["tid"] == other.pid) & (events["kind"] == EventKind.SWITCH_OUT)]
        assert np.count_nonzero((mine["ts"] > done.begin) & (mine["ts"] < done.end)) >= N
        assert lab.session.followed() == tuple(sorted((lab.victim.pid, other.pid)))


def test_a_stranger_and_its_children_are_not(program: Path) -> None:
    """It starts processes and sleeps, all the time, next to the victim, and wakes nobody."""
    code = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(0.001); os._exit(0)\n    os.wait()"
    with Victim(program) as helped, open_lab(program) as lab:
        stranger = subprocess.Popen([sys.executable, "-c", code])
        try:
            lab.victim.do("sleep 97 3000")
            helped.do("helper")
            lab.victim.do("sleep 97 1000")
        finally:
            stranger.kill()
            stranger.wait()
        events = lab.drain()
        assert {*events["tid"][np.isin(events["kind"], OF_VICTIMS)].tolist()} == {lab.victim.pid}
        assert lab.session.followed() == (lab.victim.pid,)


def test_children_of_the_canary_are_not(program: Path) -> None:
    with Victim(program) as canary, open_lab(program, canary_pid=canary.pid) as lab:
        done = canary.do(f"family {N} {CPU}")
        events = lab.drain()
        victims = {*events["tid"][np.isin(events["kind"], OF_VICTIMS)].tolist()}
        assert canary.pid in victims
        assert not victims & {done["child"], done["grandchild"]}
        assert canary.pid not in lab.session.followed()


def test_a_number_that_goes_to_a_stranger_is_not_followed_any_more(lab: Lab) -> None:
    """ns_last_pid decides which number the next process gets, unless another takes it first."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    reused = 0
    for _ in range(50):
        dead = lab.act(f"family 1 {CPU}").answer["child"]
        wait_until(lambda dead=dead: ended(dead), "the child is gone")
        lab.drain()
        last.write_text(str(dead - 1))
        stranger = subprocess.Popen(["sleep", "0.05"])
        stranger.wait()
        if stranger.pid == dead:
            reused = dead
            break
    assert reused, "the number was never given again"
    events = lab.drain()
    assert reused not in events["tid"][np.isin(events["kind"], OF_VICTIMS)]
    assert reused in lab.session.followed()


def test_processes_that_are_killed_leave_no_slot(program: Path) -> None:
    with open_lab(program) as lab:
        helper = lab.victim.do("helper")["child"]
        wait_until(lambda: helper in lab.slots(), "the helper has a slot")
        with suppress(ProcessLookupError):
            os.kill(helper, signal.SIGKILL)
        wait_until(lambda: helper not in lab.slots(), "it has given its slot back")
        assert lab.victim.pid in lab.slots() or lab.act("sleep 1 300")


def test_a_process_has_a_name(lab: Lab) -> None:
    child = lab.act(f"family 2 {CPU}").answer["child"]
    named = lab.tasks()
    named = named[named["tid"] == child]
    assert [comm_of(task) for task in named] == ["jp-victim"]
    assert named["other"].tolist() == [child]
