"""Threads that were seen running although no record says that they got their CPU back.

Some kernels hide tasks from tracing: a victim leaves its CPU to such a task, and its return is not reported. But what
interrupts a CPU names the task that it interrupted, a fault names its thread, and at the edges of its requests a thread
certainly runs. The first of these after the switch-out says that the thread is back by then.
"""

import numpy as np

from jitterprof.analysis.evidence import Evidence
from jitterprof.analysis.losses import Anchors
from jitterprof.analysis.segments import Finder, Rows
from jitterprof.model.event import EVENT_DTYPE, EventKind

#: Flag of a SWITCH_IN record that was inferred: the thread got its CPU some time before.
INFERRED = 1
_INTERRUPTS = (EventKind.HARDIRQ, EventKind.SOFTIRQ, EventKind.VECTOR, EventKind.NMI)
_OWN_WORK = (EventKind.FAULT, EventKind.RECLAIM)


def with_sightings(records: Rows, evidence: Evidence, anchors: Anchors) -> Rows:
    """`records` (EVENT_DTYPE by (tid, ts)) with an inferred SWITCH_IN for each return that is missing and was noticed.

    `anchors` name threads by tid.
    """
    switches = np.flatnonzero(np.isin(records["kind"], (EventKind.SWITCH_OUT, EventKind.SWITCH_IN)))
    out = records["kind"][switches] == EventKind.SWITCH_OUT
    tid = records["tid"][switches].astype(np.int64)
    twice = np.flatnonzero(out[:-1] & out[1:] & (tid[:-1] == tid[1:]))
    if not len(twice):
        return records
    left, until = (records["ts"][switches[at]].astype(np.int64) for at in (twice, twice + 1))
    seen = _seen(np.unique(tid[twice]), evidence, anchors)
    at = Finder(seen["tid"].astype(np.int64), seen["ts"].astype(np.int64)).after(tid[twice], left)
    inside = np.minimum(at, len(seen) - 1)
    noticed = (at < len(seen)) & (seen["tid"][inside] == tid[twice]) & (seen["ts"][inside] < until) if len(seen) else []
    found = seen[inside[np.flatnonzero(noticed)]]
    # Behind every record of its thread until then: a wake-up that came before it belongs to the wait that it ends.
    keys = Finder(records["tid"].astype(np.int64), records["ts"].astype(np.int64))
    return np.insert(records, keys.after(found["tid"].astype(np.int64), found["ts"].astype(np.int64)), found)


def _seen(tids: np.ndarray, evidence: Evidence, anchors: Anchors) -> Rows:
    """Moments at which one of `tids` certainly ran, by (tid, ts), as SWITCH_IN records."""
    events = evidence.events
    rows = evidence.rows(*_INTERRUPTS, *_OWN_WORK)
    rows = rows[np.isin(events["tid"][rows], tids)]
    known = np.flatnonzero((anchors.cpu >= 0) & np.isin(anchors.thread, tids))
    seen = np.zeros(len(rows) + len(known), EVENT_DTYPE)
    seen["tid"] = np.concatenate([events["tid"][rows], anchors.thread[known].astype(np.uint32)])
    seen["ts"] = np.concatenate([events["a"][rows], anchors.time[known].astype(np.uint64)])
    seen["cpu"] = np.concatenate([events["cpu"][rows], anchors.cpu[known].astype(np.uint16)])
    seen["kind"], seen["flags"] = EventKind.SWITCH_IN, INFERRED
    return seen[np.lexsort((seen["ts"], seen["tid"]))]
