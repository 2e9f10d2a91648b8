"""A thread's own state clock against the event stream, against the kernel's accounting, and against itself."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from kernel.lab import CPU, Act, Lab, kernel_config, open_lab, state_of

from jitterprof.model.event import (
    CLOCK_SLOTS,
    CLOCK_TID,
    CLOCK_WORDS,
    TASK_FROZEN,
    TASK_STOPPED,
    TASK_TRACED,
    EventKind,
    FaultFlag,
    OutFlag,
    Vector,
)

#: State of a running thread in its slot (enum jp_state).
RUNNING = 1
INTERRUPTS = ("hardirq", "timer", "ipi", "softirq", "nmi")
OFF = ("preempted", "wakeup", "blocked", "block_io", "throttled", "stopped")


@contextmanager
def rival_on(cpu: int) -> Iterator[None]:
    """Another process that wants that CPU all the time."""
    code = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nprint(flush=True)\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def grown(act: Act) -> dict[str, int]:
    """By how much each class of the acting thread's clock grew."""
    begin, end = act.answer.clocks
    return {name: end.ns[name] - begin.ns[name] for name in begin.ns}


def summed(act: Act) -> dict[str, int]:
    """The same from the records: what each class of the acting thread took between its two snapshots."""
    total = dict.fromkeys(grown(act), 0)
    events = act.events[act.events["tid"] == act.tid]
    _sum_off(events, total)
    spans = _interrupts(events)
    for name, start, end, _ in spans:
        inner = _outermost([(a, b) for _, a, b, rank in spans if start <= a and b <= end and (a, b) != (start, end)])
        total[name] += end - start - sum(b - a for a, b in inner)
    away = _off_intervals(events)
    for fault in events[(events["kind"] == EventKind.FAULT) & (events["flags"] & FaultFlag.NO_END == 0)]:
        start, end = int(fault["a"]), int(fault["ts"])
        inside = [(a, b) for _, a, b, _ in spans if start <= a and b <= end]
        inside += [(a, b) for a, b in away if start <= a and b <= end]
        total["page_fault"] += end - start - sum(b - a for a, b in _outermost(inside))
    return total


def _sum_off(events: np.ndarray, total: dict[str, int]) -> None:
    state, since = "", 0
    for event in events:
        kind, ts = int(event["kind"]), int(event["ts"])
        if kind == EventKind.SWITCH_OUT:
            flags, prev_state = int(event["flags"]), int(state_of(event.reshape(1))[0])
            since = ts
            if flags & OutFlag.THROTTLED:
                state = "throttled"
            elif flags & OutFlag.PREEMPT or prev_state == 0:
                state = "preempted"
            elif prev_state & (TASK_STOPPED | TASK_TRACED | TASK_FROZEN):
                state = "stopped"
            else:
                state = "block_io" if flags & OutFlag.IOWAIT else "blocked"
        elif kind in (EventKind.WAKING, EventKind.WAKEUP) and state in ("blocked", "block_io", "stopped"):
            total[state] += ts - since
            state, since = "wakeup", ts
        elif kind == EventKind.SWITCH_IN and state:
            total[state] += ts - since
            state = ""


def _off_intervals(events: np.ndarray) -> list[tuple[int, int]]:
    found, out = [], 0
    for event in events:
        if event["kind"] == EventKind.SWITCH_OUT:
            out = int(event["ts"])
        elif event["kind"] == EventKind.SWITCH_IN and out:
            found.append((out, int(event["ts"])))
    return found


def _interrupts(events: np.ndarray) -> list[tuple[str, int, int, int]]:
    """(class, start, end, rank) of every interrupt of the thread."""
    found = []
    for event in events:
        kind = int(event["kind"])
        if kind == EventKind.VECTOR:
            name = "timer" if event["flags"] == Vector.LOCAL_TIMER else "ipi"
        elif kind in (EventKind.HARDIRQ, EventKind.SOFTIRQ, EventKind.NMI):
            name = EventKind(kind).name.lower()
        else:
            continue
        found.append((name, int(event["a"]), int(event["ts"]), INTERRUPTS.index(name)))
    return found


def _outermost(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that lie in no other; all of them are nested or disjoint."""
    kept: list[tuple[int, int]] = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def sleeping(lab: Lab) -> Act:
    return lab.act("sleep 23 700")


def faulting(lab: Lab) -> Act:
    return lab.act("fault 997")


def sharing_a_cpu(lab: Lab) -> Act:
    lab.act(f"pin {CPU}")
    try:
        with rival_on(CPU):
            return lab.act("spin 400")
    finally:
        lab.act("pin -1")


def sharing_and_sleeping(lab: Lab) -> Act:
    lab.act(f"pin {CPU}")
    try:
        with rival_on(CPU):
            return lab.act("sleep 37 3000")
    finally:
        lab.act("pin -1")


ACTS = (sleeping, faulting, sharing_a_cpu, sharing_and_sleeping)


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_the_clock_and_the_records_agree(lab: Lab, act: Callable[[Lab], Act]) -> None:
    done = act(lab)
    clock, records = grown(done), summed(done)
    for name in (*OFF, *INTERRUPTS):
        assert clock[name] == records[name], name
    # An interrupt that comes between the two readings of a fault's edge counts on one side only.
    assert clock["page_fault"] == pytest.approx(records["page_fault"], abs=5_000)
    begin, end = done.answer.clocks
    assert begin.state == end.state == RUNNING
    assert end.counts["switches"] - begin.counts["switches"] == len(done.outs())
    assert end.counts["faults"] - begin.counts["faults"] >= len(done.of(EventKind.FAULT))
    if act is not faulting:
        assert sum(clock[name] for name in OFF) > 0.2 * (done.end - done.begin)


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_the_clock_and_the_scheduler_agree(lab: Lab, act: Callable[[Lab], Act]) -> None:
    """What is on no class that took the thread off its CPU is what CLOCK_THREAD_CPUTIME_ID counts; and schedstat's run
    delay is the two kinds of waiting for a CPU.

    Of `wakeup` the scheduler leaves out the way from the waking to the run queue; and a woken thread that finds its CPU
    idle is on the CPU, for the scheduler, since then (it does not read the clock again, see rq_clock_skip_update()).
    """
    done = act(lab)
    clock = grown(done)
    on_cpu = done.end - done.begin - sum(clock[name] for name in OFF) - clock["steal"]
    if kernel_config("CONFIG_IRQ_TIME_ACCOUNTING") == "y":
        on_cpu -= sum(clock[name] for name in INTERRUPTS)
    cpu, delay = done.answer["cpu"], done.answer["delay"]
    # Per switch the scheduler reads its clock some 100 ns before the tracepoint; the readings at the edges take 30 us.
    slack = 50_000 + 2_000 * len(done.outs()) + 0.01 * on_cpu
    assert on_cpu - slack <= cpu <= on_cpu + clock["wakeup"] + slack
    assert clock["preempted"] - slack <= delay <= clock["preempted"] + clock["wakeup"] + slack
    both = on_cpu + clock["preempted"]
    assert both - slack <= cpu + delay <= both + clock["wakeup"] + slack


def test_snapshots_are_whole(lab: Lab) -> None:
    """Taken back to back while the thread is interrupted and preempted: never torn, never backwards, never faster than
    time, always the thread's own."""
    lab.act(f"pin {CPU}")
    try:
        with rival_on(CPU):
            done = lab.act("snapshots 500")
    finally:
        lab.act("pin -1")
    answer = done.answer
    assert answer["taken"] > 10_000
    assert (answer["wrong"], answer["backwards"], answer["faster"]) == (0, 0, 0)
    assert len(done.outs()) > 20


def test_threads_have_slots_of_their_own(lab: Lab) -> None:
    first, second = lab.act("thread sleep 3 300"), lab.act("thread fault 3")
    assert first.tid != second.tid
    assert [clock.words[CLOCK_TID] for clock in (*first.answer.clocks, *second.answer.clocks)] == [
        first.tid,
        first.tid,
        second.tid,
        second.tid,
    ]
    assert grown(second)["blocked"] == 0 < grown(first)["blocked"]


def test_clocks_without_the_event_stream(program: Path) -> None:
    with open_lab(program, events=False) as lab:
        assert lab.session.ring is None
        lab.victim.do(f"clocks {os.getpid()} {lab.session.clock_fd}")
        answer = lab.victim.do("sleep 11 2000")
        begin, end = answer.clocks
        slept = end.ns["blocked"] - begin.ns["blocked"]
        assert 11 * 2_000_000 * 0.95 <= slept <= answer.end - answer.begin
        assert end.counts["switches"] - begin.counts["switches"] >= 11


def test_the_table_is_as_large_as_the_contract_says(lab: Lab) -> None:
    text = Path(f"/proc/self/fdinfo/{lab.session.clock_fd}").read_text()
    info = dict(line.split(":", 1) for line in text.splitlines())
    assert (int(info["max_entries"]), int(info["value_size"])) == (CLOCK_SLOTS, CLOCK_WORDS * 8)
