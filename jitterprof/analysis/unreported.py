"""Switches that the kernel never reported, although no record was lost.

A thread that leaves the CPU twice in a row must have got it in between. Where that record is missing and no
sequence number is, the tracepoint did not run our program: seen on hosts whose kernel hides some of its tasks from
tracing, where every switch away from such a task is missing.
"""

import numpy as np

from jitterprof.model.event import EventKind
from jitterprof.store import Run


def unreported_switches(run: Run) -> int:
    """How many switches of the worker threads are missing between two that were recorded."""
    missing = 0
    switches = run.events[np.isin(run.events["kind"], (EventKind.SWITCH_OUT, EventKind.SWITCH_IN))]
    for tid in run.manifest.worker_tids:
        kinds = switches["kind"][switches["tid"] == tid]
        missing += int((kinds[1:] == kinds[:-1]).sum())
    return missing
