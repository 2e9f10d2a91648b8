"""Ledgers from less than an event stream: counters around each request. They close just as exactly, and say `unknown`
for what counters cannot tell. Aggregates have no moments, so their pieces are laid end to end from the start."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.culprits import Coder, CulpritKind, Namer, plain
from jitterprof.analysis.evidence import Evidence
from jitterprof.analysis.ledger import Pieces, assemble, check_closure, merged, previous_end
from jitterprof.analysis.segments import Ints
from jitterprof.model.cause import Cause
from jitterprof.model.event import CLOCK_CLASSES, CLOCK_NS
from jitterprof.model.ledger import Ledger
from jitterprof.model.request import Kind

Amount = tuple[Cause, CulpritKind, Ints]

#: What each clock of CLOCK_CLASSES counts. Nobody says what a blocked thread waited for.
_CLOCKS: dict[str, tuple[Cause, CulpritKind]] = {
    "preempted": (Cause.PREEMPTED, CulpritKind.UNKNOWN_TASK),
    "wakeup": (Cause.WAKEUP, CulpritKind.UNKNOWN_TASK),
    "blocked": (Cause.UNKNOWN, CulpritKind.OFF_CPU),
    "block_io": (Cause.BLOCK_IO, CulpritKind.NOBODY),
    "throttled": (Cause.THROTTLED, CulpritKind.NOBODY),
    "stopped": (Cause.STOPPED, CulpritKind.NOBODY),
    "hardirq": (Cause.HARDIRQ, CulpritKind.NOBODY),
    "timer": (Cause.TIMER, CulpritKind.NOBODY),
    "ipi": (Cause.IPI, CulpritKind.NOBODY),
    "softirq": (Cause.SOFTIRQ, CulpritKind.NOBODY),
    "nmi": (Cause.NMI, CulpritKind.NMI),
    "page_fault": (Cause.PAGE_FAULT, CulpritKind.NOBODY),
    "reclaim": (Cause.RECLAIM, CulpritKind.NOBODY),
    "steal": (Cause.STEAL, CulpritKind.HYPERVISOR),
}


def ledger_from_procfs(
    requests: npt.NDArray[np.void], procfs: npt.NDArray[np.void], evidence: Evidence, kind: Kind = Kind.REQUEST
) -> Ledger:
    """The ledger of a session without BPF: CPU time is `run`, run-queue delay is `preempted` by an unknown task.

    `procfs`: PROCFS_ROW, joined by (phase, seq, tid); a request without a row is `unknown`. Rows of another kind than
    `kind` get no pieces.
    """
    rows = np.flatnonzero(requests["kind"] == kind)
    mine = requests[rows]
    at = _join(_keys(mine), _keys(procfs))
    service = mine["end_ns"] - mine["start_ns"]
    run = np.minimum(_taken(procfs, "cpu_ns", at), service)
    delay = np.minimum(_taken(procfs, "run_delay_ns", at), service - run)
    amounts: list[Amount] = [
        (Cause.RUN, CulpritKind.NOBODY, run),
        (Cause.PREEMPTED, CulpritKind.UNKNOWN_TASK, delay),
        (Cause.UNKNOWN, CulpritKind.OFF_CPU, np.where(at >= 0, service - run - delay, 0)),
        (Cause.UNKNOWN, CulpritKind.UNOBSERVED, np.where(at >= 0, 0, service)),
    ]
    return _laid_out(requests, rows, amounts, evidence)


def ledger_from_clocks(
    requests: npt.NDArray[np.void], clocks: npt.NDArray[np.void], evidence: Evidence, kind: Kind = Kind.REQUEST
) -> Ledger:
    """The ledger from state clocks: the growth of each class over the request, the rest is `run`.

    `clocks`: rows with `begin` and `end` snapshots (CLOCK_WORDS u64 each) and the request's `seq`, `tid` and `phase`
    where there are any (store.CLOCK_DTYPE); their growth (STATE_DTYPE); else CLOCK_ROW in the order of the rows
    of `requests` of this `kind`.
    Where the classes exceed the request (its snapshots lie a little outside it), the largest gives way by twice the
    excess, half of which becomes `unknown`; clocks that exceed by more than that explain nothing, and all is `unknown`.
    So is a request without a snapshot.
    """
    rows = np.flatnonzero(requests["kind"] == kind)
    mine = requests[rows]
    if "seq" in (clocks.dtype.names or ()):
        at = _join(_keys(mine), _keys(clocks))
    else:
        at = np.where(np.arange(len(rows)) < len(clocks), np.arange(len(rows)), -1)
    service = mine["end_ns"] - mine["start_ns"]
    words = slice(CLOCK_NS, CLOCK_NS + len(CLOCK_CLASSES))
    taken = np.maximum(at, 0)
    known = [number for number, name in enumerate(CLOCK_CLASSES) if name in _CLOCKS]
    if len(clocks) and "begin" not in (clocks.dtype.names or ()):
        grown = np.zeros((len(rows), len(CLOCK_CLASSES)), np.int64)
        for number in known:
            grown[:, number] = clocks[CLOCK_CLASSES[number]][taken]
    elif len(clocks):
        grown = (clocks["end"][taken, words] - clocks["begin"][taken, words]).astype(np.int64)
        # A slot that was never written has no thread: its clocks stood still because nobody wound them.
        at = np.where(clocks["end"][taken].any(axis=1), at, -1)
    else:
        grown = np.zeros((len(rows), len(CLOCK_CLASSES)), np.int64)
    grown = grown[:, known]
    excess = np.maximum(grown.sum(axis=1) - service, 0)
    largest = grown.argmax(axis=1)
    each = np.arange(len(rows))
    fits = (at >= 0) & (grown >= 0).all(axis=1) & (grown[each, largest] >= 2 * excess)
    grown[each, largest] -= 2 * excess
    grown[~fits] = 0
    excess = np.where(fits, excess, np.where(at >= 0, service, 0))
    run = np.where(fits, service - grown.sum(axis=1) - excess, 0)
    amounts: list[Amount] = [(Cause.RUN, CulpritKind.NOBODY, run)]
    for column, number in enumerate(known):
        cause, culprit = _CLOCKS[CLOCK_CLASSES[number]]
        amounts.append((cause, culprit, grown[:, column]))
    amounts.append((Cause.UNKNOWN, CulpritKind.EXCESS, excess))
    amounts.append((Cause.UNKNOWN, CulpritKind.UNOBSERVED, np.where(at < 0, service, 0)))
    return _laid_out(requests, rows, amounts, evidence)


def _keys(table: npt.NDArray[np.void]) -> Ints:
    key: Ints = np.stack([table["phase"], table["seq"], table["tid"]], axis=1).astype(np.int64)
    return key


def _join(wanted: Ints, among: Ints) -> Ints:
    """For each key the row of `among` that has it, -1 for none."""
    both = np.concatenate([among, wanted])
    _, number = np.unique(both, axis=0, return_inverse=True)
    number = number.reshape(-1)
    row_of = np.full(len(both), -1)
    row_of[number[: len(among)]] = np.arange(len(among))
    found: Ints = row_of[number[len(among) :]]
    return found


def _taken(table: npt.NDArray[np.void], name: str, at: Ints) -> Ints:
    if not len(table):
        return np.zeros(len(at), np.int64)
    return np.where(at >= 0, np.maximum(table[name][np.maximum(at, 0)], 0), 0).astype(np.int64)


def _laid_out(requests: npt.NDArray[np.void], rows: Ints, amounts: Sequence[Amount], evidence: Evidence) -> Ledger:
    mine = requests[rows]
    intended, start = mine["intended_ns"], mine["start_ns"]
    ready = np.clip(previous_end(mine), intended, start)
    none = np.zeros(len(rows), np.int64)
    tid = mine["tid"].astype(np.int64)
    spans: list[tuple[Cause, CulpritKind, Ints, Ints]] = [
        (Cause.QUEUE, CulpritKind.NOBODY, intended, ready),
        (Cause.DISPATCH, CulpritKind.NOBODY, ready, start),
    ]
    at = start
    for cause, culprit, ns in amounts:
        spans.append((cause, culprit, at, at + ns))
        at = at + ns
    parts = [
        Pieces(rows, begin, end, none + int(cause), none + plain(culprit), none, none, tid, none - 1)
        for cause, culprit, begin, end in spans
    ]
    namer = Namer.of(evidence, Coder.of(evidence))
    ledger = merged([assemble(parts, namer)], namer)
    check_closure(ledger.pieces, requests, rows)
    return ledger
