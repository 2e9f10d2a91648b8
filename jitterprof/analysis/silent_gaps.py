"""Time that is taken without a word: gaps of the spin canary in which no kernel event lies.

The osnoise rule (Documentation/trace/osnoise-tracer.rst): a gap without any interference that the kernel counts is the
hardware's, or the hypervisor's where it does not tell of its steal.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.model.event import EventKind
from jitterprof.model.stream import CANARY_GAP

#: Fewer gaps than this, or a shorter time between the first and the last, say too little.
MIN_GAPS = 8
MIN_SPAN_NS = 50_000_000
#: An event's record is written up to this long after the gap that it made.
_SLACK_NS = 5_000


@dataclass(frozen=True, slots=True)
class SilentGaps:
    """`share` of the canary's time in gaps without any event; how many a second; the longest in ns."""

    share: float = 0.0
    per_second: float = 0.0
    longest_ns: int = 0


def silent_gaps(canary: npt.NDArray[np.void], events: npt.NDArray[np.void]) -> SilentGaps | None:
    """From the canary's rows (CANARY_DTYPE) and the session's events (EVENT_DTYPE); None where gaps are too few."""
    gaps = canary[canary["what"] == CANARY_GAP]
    if len(gaps) < MIN_GAPS:
        return None
    span = int(gaps["end_ns"].max() - gaps["start_ns"].min())
    if span < MIN_SPAN_NS:
        return None
    told = np.zeros(len(gaps), bool)
    for tid in np.unique(gaps["tid"]).tolist():
        mine = events[events["tid"] == tid]
        moments = np.unique(mine["ts"].astype(np.int64))
        of_thread = gaps["tid"] == tid
        first = np.searchsorted(moments, gaps["start_ns"][of_thread], "left")
        last = np.searchsorted(moments, gaps["end_ns"][of_thread] + _SLACK_NS, "right")
        told[of_thread] = last > first
        # Steal is told at the next tick or switch: somewhere in [a, ts).
        steal = events[(events["kind"] == EventKind.STEAL) & np.isin(events["cpu"], np.unique(mine["cpu"]))]
        for row in steal:
            told |= of_thread & (gaps["start_ns"] < row["ts"]) & (gaps["end_ns"] > row["a"])
    length = (gaps["end_ns"] - gaps["start_ns"])[~told]
    return SilentGaps(float(length.sum() / span), len(length) / span * 1e9, int(length.max(initial=0)))
