"""What a thread that left the CPU by its own wish was waiting for: one cause per blocked span."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.culprits import Coder, CulpritKind, Tasks, coded, fault_codes, plain
from jitterprof.analysis.evidence import FOREVER, Evidence
from jitterprof.analysis.segments import Finder, Intervals, Ints, Rows
from jitterprof.analysis.syscalls import NO_SYSCALL, Family, families
from jitterprof.model.cause import Cause
from jitterprof.model.event import SOFTIRQ_NAMES, TASK_UNINTERRUPTIBLE, Context, EventKind, FaultFlag, OutFlag, Vector

_LOW32 = np.uint64(0xFFFFFFFF)
_TIMER_SOFTIRQS = (SOFTIRQ_NAMES.index("TIMER"), SOFTIRQ_NAMES.index("HRTIMER"))
_NET_RX = SOFTIRQ_NAMES.index("NET_RX")
_BLOCK = SOFTIRQ_NAMES.index("BLOCK")


@dataclass(frozen=True, slots=True)
class Blocked:
    """Per blocked span: its cause, culprit code and note; `waker`: the thread that ended it (0: no task did).
    `by_waker`: cause or culprit follow from the WAKING record, so they hold only if that record is certain.
    `doubtful`: the SWITCH_OUT record contradicts the rest unless a record was lost."""

    cause: npt.NDArray[np.uint8]
    code: Ints
    note: Ints
    waker: Ints
    by_waker: npt.NDArray[np.bool_]
    doubtful: npt.NDArray[np.bool_]


def state_of(out: Rows) -> Ints:
    """prev_state of SWITCH_OUT records."""
    return (out["a"] & _LOW32).astype(np.int64)


def timer_irqs(evidence: Evidence) -> npt.NDArray[np.uint64]:
    """Device interrupts that are the local timer: on arm64 it comes as one, by the name of arch_timer."""
    return np.array([int(irq) for irq, name in evidence.irq_names.items() if "arch_timer" in name], np.uint64)


def woken_by_timer(waking: Rows, evidence: Evidence) -> npt.NDArray[np.bool_]:
    """Whether WAKING records come from a timer that expired."""
    context, detail = waking["flags"], waking["b"]
    by_timer: npt.NDArray[np.bool_] = (
        ((context == Context.VECTOR) & (detail == Vector.LOCAL_TIMER))
        | ((context == Context.SOFTIRQ) & np.isin(detail, _TIMER_SOFTIRQS))
        | ((context == Context.HARDIRQ) & np.isin(detail, timer_irqs(evidence)))
    )
    return by_timer


def covering(among: Intervals, thread: Ints, time: Ints) -> Ints:
    """For each (thread, time) the interval of that thread that was under way then: an index, -1 for none."""
    if not len(among):
        return np.full(len(time), -1)
    at = Finder(among.group, among.end).after(thread, time)
    inside = np.minimum(at, len(among) - 1)
    found = (at < len(among)) & (among.group[inside] == thread) & (among.start[inside] <= time)
    return np.where(found, inside, -1)


def next_end(among: Intervals, thread: Ints, time: Ints) -> Ints:
    """For each (thread, time) the end of that thread's next interval, FOREVER for none."""
    if not len(among):
        return np.full(len(time), FOREVER)
    at = Finder(among.group, among.end).after(thread, time)
    inside = np.minimum(at, len(among) - 1)
    return np.where((at < len(among)) & (among.group[inside] == thread), among.end[inside], FOREVER)


def classify(
    out: Rows, waking: Rows, woken: npt.NDArray[np.bool_], cover: Ints, faults: Rows, evidence: Evidence, coder: Coder
) -> Blocked:
    """Say for each SWITCH_OUT in `out` what the thread waited for.

    `waking`: the WAKING record that ended each span (any row where `woken` is False). `cover`: the row in `faults`
    (FAULT records) that was under way, -1 for none. Where the evidence is not enough for a cause, the span is `unknown`
    and its culprit says where it was blocked.
    """
    flags, state = out["flags"], state_of(out)
    number = (out["a"] >> np.uint64(32)).astype(np.int64) & NO_SYSCALL
    family = families(number, evidence.machine)
    context = np.where(woken, waking["flags"], 255)
    detail = waking["b"]
    by_timer = woken & woken_by_timer(waking, evidence)
    by_task = context == Context.TASK
    by_device = (context == Context.HARDIRQ) | ((context == Context.SOFTIRQ) & (detail == _BLOCK))
    iowait = flags & OutFlag.IOWAIT != 0
    kernel_wait = state & TASK_UNINTERRUPTIBLE != 0
    # Before 6.18 throttling is a property of the queue: the thread sleeps by its own wish, and in what is not recorded.
    throttled = flags & OutFlag.THROTTLED != 0
    fault = (cover >= 0) | (number == NO_SYSCALL)

    rules: tuple[tuple[npt.NDArray[np.bool_], Cause, bool], ...] = (
        (throttled, Cause.UNKNOWN, False),
        (flags & OutFlag.IN_RECLAIM != 0, Cause.RECLAIM, False),
        (fault, Cause.PAGE_FAULT, False),
        (iowait, Cause.BLOCK_IO, False),
        (family == Family.SLEEP, Cause.SLEEP, False),
        (kernel_wait & by_timer, Cause.UNKNOWN, True),
        (kernel_wait, Cause.LOCK, True),
        ((family == Family.LOCK) & by_timer, Cause.SLEEP, True),
        (family == Family.LOCK, Cause.LOCK, True),
        ((family == Family.NET) & by_timer, Cause.SLEEP, True),
        (family == Family.NET, Cause.NET, True),
        ((family == Family.STREAM) & by_timer, Cause.SLEEP, True),
        ((family == Family.STREAM) & (context == Context.SOFTIRQ) & (detail == _NET_RX), Cause.NET, True),
        (family == Family.STREAM, Cause.LOCK, True),
        ((family == Family.COMPLETION) & by_device, Cause.BLOCK_IO, True),
        (family == Family.COMPLETION, Cause.UNKNOWN, True),
    )
    conditions = [condition for condition, _, _ in rules]
    cause = np.select(
        conditions, [np.full(len(out), cause, np.uint8) for _, cause, _ in rules], np.uint8(Cause.UNKNOWN)
    )
    by_waker = np.select(conditions, [np.full(len(out), by_waker) for _, _, by_waker in rules], False)

    waker_code = np.where(woken, coder.waker(waking), 0)
    named = (cause == Cause.LOCK) | (cause == Cause.NET) | ((cause == Cause.BLOCK_IO) & by_waker)
    code = np.select(
        [
            cause == Cause.PAGE_FAULT,
            (cause == Cause.BLOCK_IO) & ~by_waker,
            named,
            (cause == Cause.SLEEP) & by_waker,
            throttled,
            cause == Cause.UNKNOWN,
        ],
        [
            _fault_codes(cover, faults, iowait, evidence),
            coded(CulpritKind.DEVICE, out["b"].astype(np.int64)),
            waker_code,
            np.full(len(out), plain(CulpritKind.TIMER)),
            np.full(len(out), plain(CulpritKind.SLEPT)),
            coded(CulpritKind.BLOCKED, number),
        ],
        0,
    )
    return Blocked(
        cause=cause,
        code=code,
        note=np.where(kernel_wait & (cause == Cause.LOCK), number + 1, 0),
        waker=np.where(by_task & ((cause == Cause.LOCK) | (cause == Cause.NET)), waking["other"], 0).astype(np.int64),
        by_waker=by_waker,
        # A fault that was under way leaves a record when it ends, unless that record was lost; a flag without one is
        # what a fault leaves behind that ended without being counted (copy_from_user_nofault).
        doubtful=(flags & OutFlag.IN_FAULT != 0) & (cover < 0) & (number != NO_SYSCALL),
    )


def _fault_codes(cover: Ints, faults: Rows, iowait: npt.NDArray[np.bool_], evidence: Evidence) -> Ints:
    if not len(faults):
        return fault_codes(np.zeros(len(cover), np.uint64), iowait, evidence)
    record = faults[np.maximum(cover, 0)]
    known = cover >= 0
    major = np.where(known, record["flags"] & FaultFlag.MAJOR != 0, iowait)
    return fault_codes(np.where(known, record["b"], np.uint64(0)), major, evidence)


def stop_codes(out: Rows, process: Ints, evidence: Evidence, tasks: Tasks) -> Ints:
    """Who stopped a thread: the sender of the last stop signal to its process before the switch-out, else by its state.

    `process`: of each row of `out`.
    """
    state = state_of(out)
    signals = evidence.of_kind(EventKind.SIGNAL)
    # SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU (asm-generic/signal.h)
    signals = signals[np.isin(signals["a"], (19, 20, 21, 22))]
    process_of = tasks.processes(signals["tid"])
    otherwise = np.where(
        state & 0x8000 != 0,
        plain(CulpritKind.FREEZER),
        np.where(state & 0x8 != 0, plain(CulpritKind.TRACER), plain(CulpritKind.NOBODY)),
    )
    if not len(signals):
        return otherwise
    order = np.lexsort((signals["ts"], process_of))
    signals, process_of = signals[order], process_of[order]
    at = Finder(process_of, signals["ts"].astype(np.int64)).after(process, out["ts"].astype(np.int64)) - 1
    inside = np.maximum(at, 0)
    found = (at >= 0) & (process_of[inside] == process) & (state & 0x8000 == 0)
    return np.where(found, coded(CulpritKind.TASK, signals["other"][inside].astype(np.int64)), otherwise)
