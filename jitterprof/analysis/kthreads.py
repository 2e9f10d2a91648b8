"""Kernel threads that do the work of an interrupt: the same work under another name, so it has the same cause.

Threaded interrupts (request_threaded_irq, or all of them with `threadirqs`), ksoftirqd under load, threaded NAPI, and
the timer and RCU threads of PREEMPT_RT.
"""

import re
from dataclasses import dataclass

import numpy as np

from jitterprof.analysis.culprits import CulpritKind, Tasks, coded
from jitterprof.analysis.segments import Ints, Rows
from jitterprof.model.cause import Cause
from jitterprof.model.event import SOFTIRQ_NAMES, Context

#: Names (kernel/irq/manage.c, kernel/softirq.c, net/core/dev.c, kernel/rcu/tree.c), the cause, and the softirq vector,
#: where it is always the same one.
_NAMES: tuple[tuple[re.Pattern[str], Cause, str], ...] = (
    (re.compile(r"irq/(\d+)-"), Cause.HARDIRQ, ""),
    (re.compile(r"ksoftirqd/\d+$"), Cause.SOFTIRQ, ""),
    (re.compile(r"napi/"), Cause.SOFTIRQ, "NET_RX"),
    (re.compile(r"ktimers/\d+$"), Cause.SOFTIRQ, "TIMER"),
    (re.compile(r"rcuc/\d+$"), Cause.SOFTIRQ, "RCU"),
)


@dataclass(frozen=True, slots=True)
class InterruptThreads:
    """`tid`s, sorted; `cause` and culprit `code` of their time; `context` and `detail` as a WAKING record from the
    interrupt itself would have them (context TASK where that is not known)."""

    tid: Ints
    cause: Ints
    code: Ints
    context: Ints
    detail: Ints

    @staticmethod
    def of(tasks: Tasks) -> "InterruptThreads":
        """Find them by their names among the kernel's threads."""
        rows = sorted(row for tid in tasks.kernel for row in [_sorted_out(tid, tasks.comm[tid])] if row is not None)
        columns = np.array(rows, np.int64).reshape(len(rows), 5).T
        return InterruptThreads(*columns)

    def place(self, tid: Ints) -> Ints:
        """Index of each thread among these, -1 for any other."""
        if not len(self.tid):
            return np.full(len(tid), -1)
        at = np.minimum(np.searchsorted(self.tid, tid), len(self.tid) - 1)
        return np.where(self.tid[at] == tid, at, -1)

    def as_interrupts(self, waking: Rows) -> Rows:
        """WAKING records, those by these threads as if their interrupt had done it."""
        place = self.place(waking["other"].astype(np.int64))
        theirs = np.flatnonzero((place >= 0) & (waking["flags"] == Context.TASK))
        theirs = theirs[self.context[place[theirs]] != Context.TASK]
        if not len(theirs):
            return waking
        waking = waking.copy()
        waking["flags"][theirs] = self.context[place[theirs]]
        waking["b"][theirs] = self.detail[place[theirs]]
        return waking


def _sorted_out(tid: int, comm: str) -> tuple[int, int, int, int, int] | None:
    for pattern, cause, vector in _NAMES:
        match = pattern.match(comm)
        if match is None:
            continue
        if cause == Cause.HARDIRQ:
            number = int(match[1])
            return tid, int(cause), int(coded(CulpritKind.IRQ, np.array([number]))[0]), int(Context.HARDIRQ), number
        if vector:
            number = SOFTIRQ_NAMES.index(vector)
            return tid, int(cause), int(coded(CulpritKind.SOFTIRQ, np.array([number]))[0]), int(Context.SOFTIRQ), number
        # Which vector it works off, the softirq's own records say.
        return tid, int(cause), int(coded(CulpritKind.TASK, np.array([tid]))[0]), int(Context.TASK), 0
    return None
