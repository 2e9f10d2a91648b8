"""What came of a load: rates, saturation, floor and dispatch lag, computed from the rows after the fact."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitterprof.load.hygiene import Hygiene
from jitterprof.load.request_file import read_rows
from jitterprof.load.stop import StopCell
from jitterprof.model.request import Phase, Status
from jitterprof.model.run import Quantiles
from jitterprof.units import NS_PER_S

if TYPE_CHECKING:
    from jitterprof.load.worker import Worker

Rows = npt.NDArray[np.void]
Times = npt.NDArray[np.int64]

#: The backlog counts as one when even the luckiest of the last tenth of requests waited this many service times.
_BACKLOG_SERVICES = 3
_LAST_PART = 0.1


@dataclass(frozen=True, slots=True)
class GeneratorResult:
    """The generator's own account of a session. Rates are requests per second.

    `window_ns`: [first intended start, last end) of the measured part, (0, 0) when nothing was measured.
    `served` and `errors` are measured requests that ended well and badly; `not_served` were scheduled but never
    started. `max_rate`: what the workers could have served at most, going by their busy time. `final_lag_ns`: how late
    the last measured request started. `margin_ns`: how early the workers woke to spin. `stopped`: why the session
    ended before its time, "" if it did not. `aborted`: it ended because every request failed.
    `dispatch_lag` is empty for a closed loop, which has no intended start to be late for.
    """

    window_ns: tuple[int, int]
    served: int
    errors: int
    first_error: str
    not_served: int
    offered_rate: float
    achieved_rate: float
    max_rate: float
    saturated: bool
    final_lag_ns: int
    floor: Quantiles
    dispatch_lag: Quantiles
    hygiene: Hygiene
    tids: tuple[int, ...]
    margin_ns: int
    stopped: str
    aborted: bool
    caveats: tuple[str, ...]


def quantiles(values: Times) -> Quantiles:
    """Order statistics of `values` in ns: each quantile is a value that occurred."""
    if not len(values):
        return Quantiles()
    p50, p90, p99, p99_9 = np.quantile(values, (0.5, 0.9, 0.99, 0.999), method="inverted_cdf")
    return Quantiles(len(values), int(p50), int(p90), int(p99), int(p99_9), int(values.max()), float(values.mean()))


def phase_of(rows: Rows) -> npt.NDArray[np.int64]:
    """Phase of each row."""
    return np.asarray(rows["state"] >> 8 & 0xFF)


@dataclass(frozen=True, slots=True)
class Account:
    """The measured rows of all workers in order of intended start, with each row's time since its worker was free.

    `lag`: start - max(intended, end of the worker's request before). `busy`: end - the same point.
    """

    rows: Rows
    lag: Times
    busy: Times
    floor: Times


def account(files: Sequence[Rows]) -> Account:
    """Joins the rows of the workers, each in the order in which they were served."""
    parts: list[tuple[Rows, Times]] = []
    floor: list[Times] = []
    for rows in files:
        phase = phase_of(rows)
        floor.append((rows["end"] - rows["intended"])[phase == Phase.FLOOR])
        load = rows[phase != Phase.FLOOR]
        free = np.maximum(load["intended"], np.concatenate([[0], load["end"][:-1]])) if len(load) else load["end"]
        keep = phase_of(load) == Phase.MEASURED
        parts.append((load[keep], free[keep]))
    rows = np.concatenate([rows for rows, _ in parts])
    free = np.concatenate([free for _, free in parts])
    order = np.lexsort((rows["seq"], rows["intended"]))
    rows, free = rows[order], free[order]
    return Account(rows, rows["start"] - free, rows["end"] - free, np.concatenate(floor))


def is_saturated(seen: Account, offered: float, capacity: float, not_served: int) -> bool:
    """More was asked for than the workers can serve: the queue never cleared, and would have grown for ever."""
    if not_served:
        return True
    if not len(seen.rows) or offered <= capacity:
        return False
    tail = seen.rows[-max(5, int(len(seen.rows) * _LAST_PART)) :]
    wait = int((tail["start"] - tail["intended"]).min())
    return wait > _BACKLOG_SERVICES * float(np.median(seen.busy))


def summarise(
    duration_ns: int | None,
    offsets: Times,
    measure_ns: int,
    workers: "Sequence[Worker]",
    stop: StopCell,
    out_dir: Path,
    gc: str,
    caveats: tuple[str, ...],
) -> GeneratorResult:
    """Reads the rows back and draws the balance. `offsets`: the measured schedule (empty: closed loop), from
    `measure_ns` on; `duration_ns` None where a number of requests was asked for."""
    seen = account([read_rows(out_dir / f"requests.{worker.number}.stream") for worker in workers])
    count, paced = len(seen.rows), bool(len(offsets))
    failed = int(((seen.rows["state"] & 0xFF) == Status.ERROR).sum())
    begin = measure_ns if paced or not count else int(seen.rows["start"].min())
    last_end = int(seen.rows["end"].max()) if count else 0
    capacity = len(workers) * NS_PER_S / float(seen.busy.mean()) if count and seen.busy.mean() else 0.0
    span = last_end - begin if count else 0
    if paced and duration_ns is not None and not stop.requested:
        span = max(span, duration_ns)
    achieved = count * NS_PER_S / span if span > 0 else 0.0
    offered = _offered(offsets, duration_ns) if paced else achieved
    not_served = len(offsets) - count if paced and not stop.requested else 0
    failures = [worker.failures for worker in workers if worker.failures.count]
    first = min(failures, key=lambda seen: seen.first_ns).first if failures else ""
    hygiene = Hygiene(
        timer_slack_ns=max((worker.slack_ns for worker in workers), default=-1),
        locked=all(worker.locked for worker in workers),
        gc=gc,
        cpus=tuple(sorted(os.sched_getaffinity(0))),
        cpu_source=workers[0].cpu.source if workers else "none",
    )
    return GeneratorResult(
        window_ns=(begin, last_end) if count else (0, 0),
        served=count - failed,
        errors=failed,
        first_error=first,
        not_served=not_served,
        offered_rate=offered,
        achieved_rate=achieved,
        max_rate=capacity if paced else achieved,
        saturated=paced and is_saturated(seen, offered, capacity, not_served),
        final_lag_ns=int(seen.rows["start"][-1] - seen.rows["intended"][-1]) if count else 0,
        floor=quantiles(seen.floor),
        dispatch_lag=quantiles(seen.lag) if paced else Quantiles(),
        hygiene=hygiene,
        tids=tuple(worker.tid for worker in workers),
        margin_ns=max((worker.margin_ns for worker in workers), default=0),
        stopped=stop.reason,
        aborted=bool(failures) and all(w.failures.count == w.rows.rows - w.floor_rows for w in workers),
        caveats=tuple(dict.fromkeys((*caveats, *_doubts(hygiene), *(note for w in workers for note in w.caveats)))),
    )


def _doubts(hygiene: Hygiene) -> list[str]:
    doubts = []
    if hygiene.cpu_source == "sched_getcpu":
        doubts.append("the CPU of a request is read with a call at both of its edges (no rseq area here)")
    if hygiene.cpu_source == "none":
        doubts.append("the CPU of a request is not known here")
    if hygiene.timer_slack_ns > 1:
        doubts.append(f"the timer slack of {hygiene.timer_slack_ns} ns could not be lowered")
    return doubts


def _offered(offsets: Times, duration_ns: int | None) -> float:
    if duration_ns is not None:
        return len(offsets) * NS_PER_S / duration_ns
    span = int(offsets[-1] - offsets[0])
    return (len(offsets) - 1) * NS_PER_S / span if span else 0.0
