"""The critical path of a wait: what held up the thread that was waited for, and the one that it waited for in turn.

A bounded backward walk over the wake-ups (Giraldeau & Dagenais, "Wait analysis of distributed systems using kernel
tracing", TPDS 2016): a wait [a, b) that a thread W ended is what W did in [a, b), and where W waited in that time, what
the one that woke W did in that part. Each step looks at a shorter window, so the walk ends. A wake-up from an interrupt
ends it: whoever was interrupted had no part in it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.culprits import LOCK_NOTE, CulpritKind, plain
from jitterprof.analysis.segments import Ints, Role, Rows, collect
from jitterprof.model.cause import HELD_UP, Cause

#: States of the thread that was waited for which explain the wait better than "waiting for it" does.
_EXPLAINS = (*HELD_UP, Cause.GC)
#: States in which it waited itself, so that the walk goes on with the one that woke it.
_WAITS = (Cause.LOCK, Cause.NET)
#: More steps than this are not taken; the wait then names the last thread that was reached.
MAX_STEPS = 32
#: A thread that goes back to the same lock after running for no longer than this was woken for nothing (wPerf, OSDI
#: 2018): a timed wait that is tried again, or a lock that somebody else took first.
FALSE_WAKE_NS = 50_000


@dataclass(frozen=True, slots=True)
class Waits:
    """Per blocked span (`segments["wait"]`): `waker`, the thread that ended it, 0 where no thread did; `lock`, a number
    that is the same for waits on the same lock (Coder.locks), 0 where it was none."""

    waker: Ints
    lock: Ints


def join_false_wakes(segments: Rows, waits: Waits) -> None:
    """Give a wait that was ended for nothing the cause of the wait for the same lock that follows it, in place.

    `segments`: by (thread, start). Where what follows was lost, so is the cause.
    """
    if not len(waits.lock):
        return
    off = np.flatnonzero(segments["role"] == Role.OFF)
    wait = segments["wait"][off]
    lock = np.where(wait >= 0, waits.lock[np.maximum(wait, 0)], 0)
    if not lock.any():
        return
    ran = np.cumsum(np.where(segments["role"] == Role.RUNNING, segments["end"] - segments["start"], 0))[off]
    thread = segments["thread"][off]
    follows = np.zeros(len(off), bool)
    follows[:-1] = (lock[:-1] != 0) & (thread[1:] == thread[:-1]) & (np.diff(ran) <= FALSE_WAKE_NS)
    lost = _is_lost(segments[off])
    same = np.zeros(len(off), bool)
    same[:-1] = lock[:-1] == lock[1:]
    # Two pieces of one wait are one wait.
    same[:-1] &= wait[:-1] != wait[1:]
    doubtful = np.zeros(len(off), bool)
    doubtful[:-1] = lost[1:]
    joined = follows & (same | doubtful)
    # The last of each row of joined waits says what all of them were for.
    last = np.where(joined, len(off), np.arange(len(off)))
    last = np.minimum.accumulate(last[::-1])[::-1]
    target, source = off[joined], off[last[joined]]
    for column in ("cause", "code", "note", "wait"):
        segments[column][target] = segments[column][source]


def follow_wakers(parts: Rows, segments: Rows, tids: Ints, waits: Waits) -> tuple[Ints, Rows]:
    """Replace what a thread waited for another victim by what that one did, and by what it waited for in turn.

    `parts`: (parts of) segments of which this is wanted; `segments`: of all threads, by (thread, start), over the time
    of all parts; `tids`: the threads. Where the thread that was waited for ran or slept by its own wish, the wait stays
    a wait for it; where its state was lost, so is the wait's. Returns (index of the part, pieces of it) in order.
    """
    next_thread = _next_thread(parts, tids, waits)
    chosen = np.flatnonzero(next_thread >= 0)
    if not len(chosen):
        return np.arange(len(parts)), parts
    pieces, holder, origin = parts.take(chosen), next_thread[chosen], chosen
    lock = _lock_note(pieces, waits)
    done: list[Rows] = []
    origins: list[Ints] = []
    for _ in range(MAX_STEPS):
        owner, theirs = collect(holder, pieces["start"], pieces["end"], segments)
        pieces, lock, origin = pieces.take(owner), lock[owner], origin[owner]
        pieces["start"], pieces["end"] = theirs["start"], theirs["end"]
        further = _next_thread(theirs, tids, waits)
        # A thread that was woken for nothing may itself have let go on the one that it came back to wait for.
        circle = (further >= 0) & (further == pieces["thread"])
        lost, waited = _is_lost(theirs), np.isin(theirs["cause"], _WAITS) & ~circle
        better = np.isin(theirs["cause"], _EXPLAINS) | waited
        for column in ("cause", "code"):
            pieces[column] = np.where(better | lost, theirs[column], pieces[column])
        for column in ("cpu", "tid"):
            pieces[column] = np.where(better, theirs[column], pieces[column])
        pieces["via"] = np.where(better, theirs["tid"], np.where(lost, 0, pieces["via"]))
        note = np.where(theirs["note"] > 0, theirs["note"], lock)
        pieces["note"] = np.where(better, note, np.where(lost, 0, pieces["note"]))
        on = (further >= 0) & ~circle
        done.append(pieces.compress(~on))
        origins.append(origin[~on])
        pieces, origin, holder = pieces.compress(on), origin[on], further[on]
        lock = _lock_note(theirs.compress(on), waits)
        if not len(pieces):
            break
    kept = np.flatnonzero(next_thread < 0)
    of_part = np.concatenate([kept, *origins, origin])
    merged = np.concatenate([parts.take(kept), *done, pieces])
    order = np.lexsort((merged["start"], of_part))
    return of_part[order], merged.take(order)


def _next_thread(segments: Rows, tids: Ints, waits: Waits) -> Ints:
    """Index into `tids` of the thread that ended the wait of each segment, -1 where the walk ends here."""
    wait = segments["wait"].astype(np.int64)
    waker = np.where(wait >= 0, waits.waker[np.maximum(wait, 0)] if len(waits.waker) else 0, 0)
    at = np.minimum(np.searchsorted(tids, waker), max(len(tids) - 1, 0))
    known = np.isin(segments["cause"], _WAITS) & (waker > 0)
    known &= (tids[at] == waker) if len(tids) else False
    return np.where(known, at, -1)


def _lock_note(segments: Rows, waits: Waits) -> Ints:
    """What to add to the culprit of those who hold the lock that each segment waits for: 0 where it is none."""
    wait = segments["wait"].astype(np.int64)
    lock = np.where(wait >= 0, waits.lock[np.maximum(wait, 0)] if len(waits.lock) else 0, 0)
    return np.where(lock > 0, LOCK_NOTE + lock, 0)


def _is_lost(segments: Rows) -> npt.NDArray[np.bool_]:
    lost: npt.NDArray[np.bool_] = (segments["cause"] == Cause.UNKNOWN) & (segments["code"] == plain(CulpritKind.LOST))
    return lost
