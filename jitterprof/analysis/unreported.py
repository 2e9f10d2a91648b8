"""Switches that the kernel never reported, although no record was lost.

A thread that leaves the CPU twice in a row must have got it in between. Where that record is missing and no
sequence number is, the tracepoint did not run our program: seen on hosts whose kernel hides some of its tasks from
tracing, where every switch away from such a task is missing.
"""

import numpy as np

from jitterprof.analysis.flight import keeps_tail, within_one
from jitterprof.model.event import EventKind
from jitterprof.store import Run


def unreported_switches(run: Run) -> int:
    """How many switches of the worker threads are missing between two that were recorded."""
    missing = 0
    switches = run.events.compress(np.isin(run.events["kind"], (EventKind.SWITCH_OUT, EventKind.SWITCH_IN)))
    for tid in run.manifest.worker_tids:
        mine = switches.compress(switches["tid"] == tid)
        twice = mine["kind"][1:] == mine["kind"][:-1]
        if keeps_tail(run):
            ts = mine["ts"].astype(np.int64)
            twice &= within_one(ts[:-1], ts[1:], run.windows)
        missing += int(twice.sum())
    return missing
