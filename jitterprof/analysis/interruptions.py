"""Interrupts that come back to back are one interruption: one entry, one exit, one cold cache."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.model.event import EventKind

#: A softirq starts within this time of the end of the interrupt that raised it, or it is another matter.
ADJACENT_NS = 5_000

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interruptions:
    """One element per interruption. `leader`: index (into the events) of its longest interval, which names it;
    `start`, `end`: of all of it; `visible`: ns that its intervals cover; `tid`: the task that was interrupted."""

    leader: Ints
    start: Ints
    end: Ints
    visible: Ints
    tid: Ints


def interruptions(events: npt.NDArray[np.void]) -> Interruptions:
    """Join the interrupt intervals of `events` (EVENT_DTYPE) per CPU and interrupted task."""
    kinds = (EventKind.HARDIRQ, EventKind.SOFTIRQ, EventKind.VECTOR, EventKind.NMI)
    chosen = np.flatnonzero(np.isin(events["kind"], kinds))
    start, end = events["a"][chosen].astype(np.int64), events["ts"][chosen].astype(np.int64)
    cpu, tid = events["cpu"][chosen].astype(np.int64), events["tid"][chosen].astype(np.int64)
    order = np.lexsort((-end, start, tid, cpu))
    chosen, start, end, cpu, tid = chosen[order], start[order], end[order], cpu[order], tid[order]
    if not len(chosen):
        none = np.empty(0, np.int64)
        return Interruptions(none, none, none, none, none)
    owner = np.concatenate([[0], np.cumsum((np.diff(cpu) != 0) | (np.diff(tid) != 0))])
    # One running maximum for all owners: times of the next one are lifted above everything before.
    base, span = int(start.min()), int(end.max() - start.min()) + 2 * ADJACENT_NS + 1
    lift = owner * span - base
    reached = np.maximum.accumulate(end + lift)
    opens = np.concatenate([[True], start[1:] + lift[1:] > reached[:-1] + ADJACENT_NS])
    group = np.cumsum(opens) - 1
    first = np.flatnonzero(opens)
    # What an interval adds to what is covered already; nested ones add nothing.
    covered_to = np.concatenate([[np.iinfo(np.int64).min], reached[:-1]])
    adds = np.maximum(0, end + lift - np.maximum(start + lift, covered_to))
    visible = np.add.reduceat(adds, first)
    # The longest by its own time: an interval is longer than what nests in it, and that is what we want named.
    by_length = np.lexsort((end - start, group))
    leader = by_length[np.concatenate([first[1:], [len(chosen)]]) - 1]
    return Interruptions(
        chosen[leader], start[first], np.maximum.reduceat(end, first), visible.astype(np.int64), tid[first]
    )
