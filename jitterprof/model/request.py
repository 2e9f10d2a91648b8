"""Requests as columns: what the generator writes and everything else reads."""

from enum import IntEnum

import numpy as np


class Kind(IntEnum):
    """What a row stands for."""

    REQUEST = 0
    TOKEN = 1


class Phase(IntEnum):
    """Which part of the session a request belongs to; analysis looks at MEASURED alone."""

    FLOOR = 0
    WARMUP = 1
    MEASURED = 2


class Status(IntEnum):
    """How a request ended. A failure is data: it never stops the session."""

    OK = 0
    ERROR = 1


#: One row per request or token. Times are CLOCK_MONOTONIC ns. `seq` counts the measured requests from 0 in order of
#: intended start; a token has the `seq` of its own row and `parent` the seq of its request (-1 for a request).
#: `shape` indexes `Manifest.shapes`: requests of one shape do the same amount of work and share a baseline.
#: For a token, `intended_ns` is the end of the token before it (the request's start for the first).
REQUEST_DTYPE = np.dtype(
    [
        ("seq", "<i8"),
        ("intended_ns", "<i8"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("parent", "<i8"),
        ("tid", "<i4"),
        ("worker", "<i2"),
        ("cpu_start", "<i2"),
        ("cpu_end", "<i2"),
        ("shape", "<i2"),
        ("kind", "u1"),
        ("phase", "u1"),
        ("status", "u1"),
    ]
)

#: Garbage collections seen by gc.callbacks in the workload process.
GC_DTYPE = np.dtype([("start_ns", "<i8"), ("end_ns", "<i8"), ("tid", "<i4"), ("generation", "u1")])
