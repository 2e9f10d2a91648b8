"""One step along the wake chain: what held up the thread that a blocked thread was waiting for."""

import numpy as np

from jitterprof.analysis.culprits import CulpritKind, plain
from jitterprof.analysis.segments import Ints, Rows, collect
from jitterprof.model.cause import Cause

#: States of a lock's holder that explain the wait for it better than "waiting for the holder" does.
_EXPLAINS = (
    Cause.PREEMPTED,
    Cause.WAKEUP,
    Cause.THROTTLED,
    Cause.PAGE_FAULT,
    Cause.RECLAIM,
    Cause.BLOCK_IO,
    Cause.HARDIRQ,
    Cause.TIMER,
    Cause.IPI,
    Cause.SOFTIRQ,
    Cause.NMI,
    Cause.STEAL,
    Cause.STOPPED,
)


def follow_wakers(segments: Rows, tids: Ints, waker: Ints) -> Rows:
    """Replace what a thread waited for another victim by that victim's own states, where those say more.

    `waker`: per blocked span (`segments["wait"]`) the thread that ended it. Where the holder ran, or blocked in its
    turn, the wait stays what it was; where its state was lost, so is the wait's.
    """
    wait = segments["wait"]
    holder = np.where(wait >= 0, waker[np.maximum(wait, 0)] if len(waker) else 0, 0)
    chosen = np.flatnonzero(np.isin(holder, tids) & np.isin(segments["cause"], (Cause.LOCK, Cause.NET)))
    if not len(chosen):
        return segments
    waits = segments[chosen]
    thread = np.searchsorted(tids, holder[chosen])
    owner, theirs = collect(thread, waits["start"], waits["end"], segments)
    lost = (theirs["cause"] == Cause.UNKNOWN) & (theirs["code"] == plain(CulpritKind.LOST))
    better = np.isin(theirs["cause"], _EXPLAINS)
    pieces = waits[owner]
    pieces["start"], pieces["end"] = theirs["start"], theirs["end"]
    for column in ("cause", "code", "note"):
        pieces[column] = np.where(better | lost, theirs[column], pieces[column])
    for column in ("cpu", "tid"):
        pieces[column] = np.where(better, theirs[column], pieces[column])
    pieces["via"] = np.where(better, theirs["tid"], 0)
    keep = np.ones(len(segments), bool)
    keep[chosen] = False
    merged = np.concatenate([segments[keep], pieces])
    return merged[np.lexsort((merged["start"], merged["thread"]))]
