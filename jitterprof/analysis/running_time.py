"""What counters and frequencies say about the running time of requests."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.model.cause import Cause
from jitterprof.model.event import CountersFlag, EventKind
from jitterprof.model.ledger import Ledger

#: Counters that cover less of a request's running time than this say nothing about it.
MIN_COVERED = 0.8
_LOW32 = np.uint64(0xFFFFFFFF)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RunningTime:
    """The `run` pieces of some requests: `place` is the position of the piece's request among them (int64[pieces]);
    `tid`, `cpu`, and [`start`, `end`) in ns. `requests`: how many requests there are."""

    place: npt.NDArray[np.int64]
    tid: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    requests: int

    def per_request(self, amount: Floats) -> Floats:
        """float64[requests]: an amount per piece, summed."""
        sums: Floats = np.bincount(self.place, amount, self.requests).astype(np.float64)
        return sums

    @property
    def ns(self) -> npt.NDArray[np.int64]:
        """int64[requests]: how long each ran."""
        return self.per_request((self.end - self.start).astype(np.float64)).astype(np.int64)


def running_time(ledger: Ledger, rows: npt.NDArray[np.intp], size: int) -> RunningTime:
    """The running time of the requests `rows` of a table of `size` requests."""
    place = np.full(size, -1, np.int64)
    place[rows] = np.arange(len(rows))
    pieces = ledger.pieces
    mine = np.flatnonzero((pieces["cause"] == Cause.RUN) & (place[pieces["row"]] >= 0))
    row, tid, cpu, start, ns = (pieces[name].take(mine) for name in ("row", "tid", "cpu", "start_ns", "ns"))
    return RunningTime(place[row], tid.astype(np.int64), cpu.astype(np.int64), start, start + ns, len(rows))


def ran_ns(ledger: Ledger, rows: npt.NDArray[np.intp], size: int) -> npt.NDArray[np.int64]:
    """int64[requests]: how long each of `rows` of a table of `size` requests ran."""
    run = np.flatnonzero(ledger.pieces["cause"] == Cause.RUN)
    row, ns = (ledger.pieces[name].take(run) for name in ("row", "ns"))
    ran: npt.NDArray[np.int64] = np.bincount(row, ns, size).astype(np.int64)[rows]
    return ran


@dataclass(frozen=True, slots=True)
class Counted:
    """float64[requests]: `cycles` and `instructions` of a request's running time, NaN where too little was counted."""

    cycles: Floats
    instructions: Floats


def count_work(running: RunningTime, events: npt.NDArray[np.void]) -> Counted | None:
    """What the counters (COUNTERS in EVENT_DTYPE) saw; None without any. Within a record the rate is taken as even."""
    records = events[events["kind"] == EventKind.COUNTERS]
    # A counter that was lent out, or did not fit, is known to be wrong.
    records = records[records["flags"] & (CountersFlag.SHARED | CountersFlag.LONG) == 0]
    if not len(records):
        return None
    tid = records["tid"].astype(np.int64)
    start, end = records["a"].astype(np.int64), records["ts"].astype(np.int64)
    amounts = (end - start, records["b"] & _LOW32, records["b"] >> np.uint64(32))
    covered, cycles, instructions = (
        running.per_request(_inside(running, running.tid, tid, start, end, amount.astype(np.float64)))
        for amount in amounts
    )
    ns = running.ns
    enough = (ns > 0) & (covered >= MIN_COVERED * ns)
    # What was not covered is taken to be like the rest of the request.
    scale = np.divide(ns, covered, out=np.full(len(ns), np.nan), where=enough)
    return Counted(cycles * scale, instructions * scale)


def mean_khz(running: RunningTime, events: npt.NDArray[np.void]) -> Floats | None:
    """float64[requests]: the mean frequency in kHz of the CPUs that a request ran on, over its running time; NaN where
    it is not known for all of it. None where no frequency (FREQUENCY in EVENT_DTYPE) was recorded."""
    records = events[events["kind"] == EventKind.FREQUENCY]
    if not len(records):
        return None
    order = np.lexsort((records["ts"], records["other"]))
    cpu = records["other"][order].astype(np.int64)
    start, khz = records["ts"][order].astype(np.int64), records["a"][order].astype(np.float64)
    # Each holds until the next of its CPU; the last one for ever.
    last = np.append(cpu[1:] != cpu[:-1], True)
    horizon = max(int(running.end.max(initial=0)), int(start.max())) + 1
    end = np.where(last, horizon, np.append(start[1:], horizon))
    length = (end - start).astype(np.float64)
    known = running.per_request(_inside(running, running.cpu, cpu, start, end, length))
    product = running.per_request(_inside(running, running.cpu, cpu, start, end, khz * length))
    ns = running.ns
    mean: Floats = np.divide(product, ns, out=np.full(len(ns), np.nan), where=(ns > 0) & (known > 0.999 * ns))
    return mean


def _inside(
    running: RunningTime,
    of_piece: npt.NDArray[np.int64],
    of_record: npt.NDArray[np.int64],
    start: npt.NDArray[np.int64],
    end: npt.NDArray[np.int64],
    amount: Floats,
) -> Floats:
    """float64[pieces]: how much of the records' amounts falls into each piece of the same thread or CPU."""
    found = np.zeros(len(of_piece))
    for key in np.unique(of_piece).tolist():
        mine, theirs = np.flatnonzero(of_piece == key), np.flatnonzero(of_record == key)
        if not len(theirs):
            continue
        theirs = theirs[np.argsort(start[theirs], kind="stable")]
        # The sum up to a moment, linear inside a record and level between two.
        origin = int(start[theirs[0]])
        moments = np.stack([start[theirs], end[theirs]], axis=1).reshape(-1) - origin
        total = np.cumsum(amount[theirs])
        level = np.stack([total - amount[theirs], total], axis=1).reshape(-1)
        upto = np.interp(running.end[mine] - origin, moments, level)
        found[mine] = upto - np.interp(running.start[mine] - origin, moments, level)
    return found
