"""Who else took a victim's CPU, read off the records alone: which pulses the machine itself disturbed.

This must not lean on the ledger that is being scored.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.model.event import EventKind, OutFlag
from jitterprof.store import Run

_LOW32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Foreign:
    """Spans in which a task that does not belong to the trial had a CPU that a victim wanted."""

    start_ns: npt.NDArray[np.int64]
    end_ns: npt.NDArray[np.int64]

    def inside(self, start_ns: npt.NDArray[np.int64], end_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64[windows]: ns of such time in each; time on two CPUs counts twice."""
        return self._until(end_ns) - self._until(start_ns)

    def _until(self, at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        begin, end = np.sort(self.start_ns), np.sort(self.end_ns)
        before, over = np.searchsorted(begin, at), np.searchsorted(end, at)
        begun, ended = np.append(0, np.cumsum(begin)), np.append(0, np.cumsum(end))
        total: npt.NDArray[np.int64] = (before - over) * at + ended[over] - begun[before]
        return total


def names_of(run: Run) -> dict[int, str]:
    """tid -> comm."""
    tasks = run.events[run.events["kind"] == EventKind.TASK]
    return {
        int(task["tid"]): (task["a"].tobytes() + task["b"].tobytes()).split(b"\0")[0].decode(errors="replace")
        for task in tasks
    }


def foreign_spans(run: Run, helpers: tuple[str, ...] = ()) -> Foreign:
    """`helpers`: parts of the names of tasks that belong to the trial, beside jp-* and the victim itself."""
    events = run.events
    tasks = events[events["kind"] == EventKind.TASK]
    ours = set(tasks["tid"][np.isin(tasks["other"], run.manifest.pids)].tolist()) | set(run.manifest.pids) | {0}
    # The sham's own timer is something, where nothing is to happen: its wake-ups count as foreign.
    names = {tid: comm for tid, comm in names_of(run).items() if not comm.startswith("jp-sham")}
    ours |= {tid for tid, comm in names.items() if any(part in comm for part in ("jp-", *helpers))}

    kind = events["kind"]
    away = kind == EventKind.SWITCH_OUT
    runnable = away & ((events["flags"] & OutFlag.PREEMPT != 0) | (events["a"] & _LOW32 == 0))
    queued = np.isin(kind, (EventKind.WAKING, EventKind.WAKEUP, EventKind.MIGRATE))
    chosen = np.flatnonzero(away | queued | np.isin(kind, (EventKind.SWITCH_IN, EventKind.OCCUPY)))
    # Who has the CPU from this record on, 0 where no victim wants it or a victim has it.
    occupant = np.zeros(len(events), np.int64)
    occupant[runnable] = events["other"][runnable]
    occupant[kind == EventKind.OCCUPY] = events["tid"][kind == EventKind.OCCUPY]
    occupant[queued] = (events["a"][queued] >> np.uint64(32)).astype(np.int64)
    cpu = np.where(queued, events["a"] & _LOW32, events["cpu"]).astype(np.int64)

    order = chosen[np.lexsort((events["ts"][chosen], cpu[chosen]))]
    start = events["ts"][order].astype(np.int64)
    end = np.append(start[1:], start[-1:])
    foreign = ~np.isin(occupant[order], sorted(ours))
    foreign &= np.append(cpu[order][1:] == cpu[order][:-1], False)
    return Foreign(start[foreign], end[foreign])
