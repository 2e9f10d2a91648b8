"""Hand-written traces: a few records and one request, and what the ledger makes of them."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.evidence import Evidence, find_gaps
from jitterprof.analysis.ledger import build_ledger
from jitterprof.model.cause import CAUSE_IDS
from jitterprof.model.event import EVENT_DTYPE, Context, EventKind, OutFlag
from jitterprof.model.ledger import Ledger
from jitterprof.model.request import REQUEST_DTYPE

Record = tuple[int, int, EventKind, int, int, int, int, int]
Part = tuple[str, str, int]

#: The victim, its sibling, their process; another task; jitterprof itself.
ME, SIBLING, PROCESS, OTHER, OBSERVER = 11, 12, 10, 99, 77
FUTEX, NANOSLEEP, EPOLL_WAIT, READ, FSYNC, MUNMAP, IO_URING_ENTER = 202, 35, 232, 0, 74, 11, 426
EXCEPTION = 0xFFFF


def out(
    ts: int, cpu: int, to: int = 0, flags: int = 0, state: int = 0, nr: int = 0, b: int = 0, tid: int = ME
) -> Record:
    return (ts, cpu, EventKind.SWITCH_OUT, tid, to, state | nr << 32, b, flags)


def preempted(ts: int, cpu: int, by: int, tid: int = ME, state: int = 0) -> Record:
    return out(ts, cpu, by, OutFlag.PREEMPT, state, EXCEPTION, 0, tid)


def blocked(
    ts: int, cpu: int, nr: int, to: int = 0, state: int = 1, flags: int = 0, b: int = 0, tid: int = ME
) -> Record:
    return out(ts, cpu, to, flags, state, nr, b, tid)


def enters(ts: int, cpu: int, after: int = 0, tid: int = ME) -> Record:
    return (ts, cpu, EventKind.SWITCH_IN, tid, after, 0, 0, 0)


def waking(
    ts: int, cpu: int, by: int, on: int, behind: int = 0, context: Context = Context.TASK, b: int = 0, tid: int = ME
) -> Record:
    return (ts, cpu, EventKind.WAKING, tid, by, on | behind << 32, b, context)


def wakeup(ts: int, cpu: int, on: int, behind: int = 0, tid: int = ME) -> Record:
    return (ts, cpu, EventKind.WAKEUP, tid, 0, on | behind << 32, 0, 0)


def migrate(ts: int, cpu: int, source: int, to: int, behind: int = 0, tid: int = ME) -> Record:
    return (ts, cpu, EventKind.MIGRATE, tid, source, to | behind << 32, 0, 0)


def occupy(ts: int, cpu: int, tid: int, after: int) -> Record:
    return (ts, cpu, EventKind.OCCUPY, tid, after, 0, 0, 0)


def interval(
    kind: EventKind, start: int, end: int, cpu: int, other: int = 0, b: int = 0, flags: int = 0, tid: int = 0
) -> Record:
    return (end, cpu, kind, tid, other, start, b, flags)


def task(tid: int, comm: str, process: int = 0, kernel: bool = False) -> Record:
    a, b = np.frombuffer(comm.encode().ljust(16, b"\0"), "<u8").tolist()
    return (0, 0, EventKind.TASK, tid, process or tid, a, b, int(kernel))


NAMES = (task(ME, "model", PROCESS), task(SIBLING, "pool", PROCESS), task(OTHER, "hog"), task(OBSERVER, "jitterprof"))


def events_of(records: Iterable[Record]) -> npt.NDArray[np.void]:
    """Records in order of time, with the sequence numbers that their CPUs would have given."""
    rows = sorted((*NAMES, *records), key=lambda record: record[0])
    next_seq: dict[int, int] = {}
    table = np.zeros(len(rows), EVENT_DTYPE)
    for row, (ts, cpu, kind, tid, other, a, b, flags) in zip(table, rows, strict=True):
        seq = next_seq.get(cpu, 0)
        next_seq[cpu] = seq + 1
        for name, value in zip(EVENT_DTYPE.names or (), (ts, seq, cpu, kind, flags, tid, other, a, b), strict=True):
            row[name] = value
    return table


def request(
    start: int, end: int, intended: int | None = None, tid: int = ME, cpu: int = -1, worker: int = 0
) -> npt.NDArray[np.void]:
    table = np.zeros(1, REQUEST_DTYPE)
    table["intended_ns"], table["start_ns"], table["end_ns"] = start if intended is None else intended, start, end
    table["tid"], table["worker"], table["cpu_start"], table["cpu_end"] = tid, worker, cpu, cpu
    table["parent"] = -1
    return table


def evidence(
    records: Iterable[Record], lost: Sequence[int] = (), window: tuple[int, int] = (0, 1000), **more: object
) -> Evidence:
    """`lost`: times of the records that did not make it."""
    events = events_of(records)
    last = {int(cpu): int(events["seq"][events["cpu"] == cpu].max()) for cpu in np.unique(events["cpu"])}
    kept = events[~np.isin(events["ts"], lost)]
    assert len(events) - len(kept) >= len(lost)
    defaults: dict[str, object] = {"pids": (PROCESS,), "observer_pids": (OBSERVER,), "irq_names": {"24": "nvme0q1"}}
    return Evidence(events=kept, gaps=find_gaps(kept, last), window=window, **(defaults | more))  # type: ignore[arg-type]


def parts(ledger: Ledger, row: int = 0) -> list[Part]:
    """(cause, culprit, ns) of one request, in order of time; neighbours that differ only in CPU or thread are one."""
    found: list[Part] = []
    for piece in ledger.pieces[ledger.pieces["row"] == row]:
        cause, culprit, ns = CAUSE_IDS[piece["cause"]], ledger.culprits[piece["culprit"]], int(piece["ns"])
        if found and found[-1][:2] == (cause, culprit):
            ns += found.pop()[2]
        found.append((cause, culprit, ns))
    return found


def explain(
    records: Iterable[Record],
    requests: npt.NDArray[np.void] | None = None,
    lost: Sequence[int] = (),
    row: int = 0,
    **more: object,
) -> list[Part]:
    """The ledger of one request, by default [100, 900)."""
    table = request(100, 900) if requests is None else requests
    return parts(build_ledger(table, evidence(records, lost, **more)), row)  # type: ignore[arg-type]
