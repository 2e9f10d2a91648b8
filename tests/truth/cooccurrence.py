"""The baseline that the blame is measured against: count events in a window, and name what is frequent there.

Two of them, both given the same recording. Neither says how long anything took, so only the name can be right.

`thresholds`: as Ingero 0.17 does it (internal/correlate/correlate.go): counts of the last 500 ms against fixed
thresholds, all that are exceeded are named together. Its thresholds on CPU and memory use need counters that a
recording does not have; CPU use would always be over its 90 % in a closed loop, so leaving it out can only help it.

`outlier`: the kind of event whose count in the request stands out most, as a z-score over all requests; nothing where
none reaches Z_MIN. Kinder to the method than what is in use: one window per request, off-CPU events split by whether
the task could have gone on, softirqs by vector.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.model.event import SOFTIRQ_NAMES, EventKind, FaultFlag, OutFlag, Vector
from jitterprof.store import Run

#: Ingero's window for inference, and its thresholds on what a recording shows.
WINDOW_NS = 500_000_000
SWITCHES_MIN, IO_MIN, ALLOCATED_MIN = 5, 200, 1 << 30
_PAGE = 4096
Z_MIN = 3.0

Times = npt.NDArray[np.int64]

#: The causes that a name of `outlier` counts as right for. Off the CPU by its own wish may be any kind of wait.
MEANS: dict[str, tuple[str, ...]] = {
    "preempted": ("preempted", "wakeup"),
    "blocked": ("lock", "sleep", "net", "block_io"),
    "hardirq": ("hardirq",),
    "timer": ("timer",),
    "ipi": ("ipi",),
    "page_fault": ("page_fault",),
    "block_io": ("block_io",),
    "signal": ("stopped",),
    "steal": ("steal",),
    "gc": ("gc",),
    **{f"softirq {name}": ("softirq",) for name in SOFTIRQ_NAMES},
}


@dataclass(frozen=True)
class Counts:
    """`names`: kinds of events. `times[k]`: when each of kind k happened, sorted."""

    names: tuple[str, ...]
    times: tuple[Times, ...]

    def inside(self, start_ns: Times, end_ns: Times) -> npt.NDArray[np.int64]:
        """int64[windows, kinds]: how many happened in each [start, end)."""
        return np.column_stack([np.searchsorted(t, end_ns) - np.searchsorted(t, start_ns) for t in self.times])


def counts_of(run: Run) -> Counts:
    """All events of a recording by kind."""
    events = run.events
    kind, flags, other = events["kind"], events["flags"], events["other"]
    runnable = (flags & OutFlag.PREEMPT != 0) | (events["a"] & 0xFFFFFFFF == 0)
    out = kind == EventKind.SWITCH_OUT
    local_timer = flags == Vector.LOCAL_TIMER
    chosen = {
        "preempted": out & runnable,
        "blocked": out & ~runnable,
        "hardirq": kind == EventKind.HARDIRQ,
        "timer": (kind == EventKind.VECTOR) & local_timer,
        "ipi": (kind == EventKind.VECTOR) & ~local_timer,
        "page_fault": (kind == EventKind.FAULT) & (flags & FaultFlag.KERNEL_MODE == 0),
        "block_io": kind == EventKind.BLOCK_IO,
        "signal": kind == EventKind.SIGNAL,
        "steal": kind == EventKind.STEAL,
        **{
            f"softirq {name}": (kind == EventKind.SOFTIRQ) & (other == number)
            for number, name in enumerate(SOFTIRQ_NAMES)
        },
    }
    times = {name: np.sort(events["ts"][mask].astype(np.int64)) for name, mask in chosen.items()}
    times["gc"] = np.sort(run.gc["end_ns"].astype(np.int64))
    return Counts(tuple(times), tuple(times.values()))


def thresholds(counts: Counts, end_ns: Times) -> list[tuple[str, ...]]:
    """Per request that ends at `end_ns` the causes that are named together."""
    found = counts.inside(end_ns - WINDOW_NS, end_ns)
    column = {name: found[:, number] for number, name in enumerate(counts.names)}
    # prev_state is not read: every switch away from the target is "preemption".
    named = {
        "preempted": column["preempted"] + column["blocked"] >= SWITCHES_MIN,
        "block_io": column["block_io"] >= IO_MIN,
        "page_fault": column["page_fault"] * _PAGE > ALLOCATED_MIN,
    }
    return [tuple(name for name, is_true in named.items() if is_true[row]) for row in range(len(end_ns))]


def outlier(counts: Counts, start_ns: Times, end_ns: Times) -> list[str]:
    """Per request [start, end) the kind of event that stands out most; "": none does."""
    found = counts.inside(start_ns, end_ns).astype(np.float64)
    spread = found.std(axis=0)
    z = np.divide(found - found.mean(axis=0), spread, out=np.zeros_like(found), where=spread > 0)
    best = z.argmax(axis=1)
    return [counts.names[kind] if z[row, kind] >= Z_MIN else "" for row, kind in enumerate(best.tolist())]
