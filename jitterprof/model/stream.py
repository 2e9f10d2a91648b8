"""The crash-safe files of a session that is still being recorded: layouts shared by their writers and the store.

`events.stream`: batches, each a BATCH_HEADER and then `count` records of EVENT_DTYPE. A torn last batch is dropped.
`requests.N.stream`, `tokens.N.stream`: one file per worker thread, preallocated, mmap'ed by the worker: a header of one
page and then rows of ROW_WORDS int64. A row is complete when its END word is not zero; the kernel keeps the pages of a
killed process, so the file is readable up to its last complete row.
"""

import struct
from enum import IntFlag

import numpy as np

from jitterprof.model.event import CLOCK_CLASSES

#: magic, count, crc32 of the payload, reserved
BATCH_HEADER = struct.Struct("<4sIII")
BATCH_MAGIC = b"JPEV"

ROW_PAGE = 4096
ROW_MAGIC = b"JPRQ"
#: magic, layout version, worker, tid, kind (model.request.Kind), capacity in rows
ROW_HEADER = struct.Struct("<4sIiiiq")
ROW_VERSION = 1
ROW_WORDS = 8
#: Words of a row. SEQ: position in the arrival schedule, unique within a phase (for a token: its index in the request).
#: CPUS = cpu_start | cpu_end << 16. STATE = status | phase << 8 (model.request). PARENT: the request's SEQ for a token.
#: SEQ of requests in phase MEASURED is what the request table calls `seq`.
WORD_INTENDED, WORD_START, WORD_END, WORD_CPUS, WORD_STATE, WORD_SHAPE, WORD_SEQ, WORD_PARENT = range(ROW_WORDS)

#: gc.stream: rows of model.request.GC_DTYPE appended as raw bytes.
#: clocks.N.stream: per row of requests.N.stream two snapshots of the worker's state clock (CLOCK_WORDS u64 each).
CLOCK_ROW = np.dtype([("begin", "<u8", 24), ("end", "<u8", 24)])
#: With `--keep tail` those of row r are at r % CLOCK_RING: the recorder takes from there what the clocks grew by, and
#: writes it to states.stream: batches, each a STATE_HEADER and then `size` bytes, the zlib of `count` STATE_DTYPE.
CLOCK_RING = 1 << 15
#: magic, count, crc32 of the payload, its size
STATE_HEADER = struct.Struct("<4sIII")
STATE_MAGIC = b"JPST"
#: How long the serving thread was in each state during a request. `seq` and `phase`: as in WINDOW_DTYPE.
STATE_DTYPE = np.dtype(
    [
        ("seq", "<i8"),
        ("tid", "<i4"),
        ("phase", "u1"),
        *((name, "<i8") for name in CLOCK_CLASSES if not name.startswith("reserved")),
    ]
)

#: samples.stream: what the fallback saw of the host every 20 ms (probe mode "procfs"). `ts_ns`: CLOCK_MONOTONIC after
#: the reading. Values are cumulative. `kind` says what `key` and a..d are:
#: SAMPLE_THREAD: key = tid, a = on-CPU ns, b = run delay ns, c = times scheduled
#: SAMPLE_CPU: key = cpu, a = device interrupts, b = softirqs, c = steal ns (10 ms steps), d = vectors (timer, IPI ...)
#: SAMPLE_QUOTA: key = position in oracles["quota_paths"] of the manifest, a = throttled ns, b = periods cut short,
#:   c = periods
SAMPLE_DTYPE = np.dtype(
    [("ts_ns", "<i8"), ("key", "<i4"), ("kind", "<i4"), ("a", "<i8"), ("b", "<i8"), ("c", "<i8"), ("d", "<i8")]
)
SAMPLE_THREAD, SAMPLE_CPU, SAMPLE_QUOTA = 1, 2, 3

#: procfs.stream: what the fallback measured for one request (probe mode "procfs"), appended in row order per worker.
#: cpu_ns: thread CPU time; run_delay_ns: from schedstat; counts of context switches and faults. All deltas over the
#: request, read outside its timed window.
PROCFS_ROW = np.dtype(
    [
        ("seq", "<i8"),
        ("tid", "<i4"),
        ("phase", "<i4"),
        ("cpu_ns", "<i8"),
        ("run_delay_ns", "<i8"),
        ("nvcsw", "<i4"),
        ("nivcsw", "<i4"),
        ("minflt", "<i4"),
        ("majflt", "<i4"),
    ]
)

#: canary.stream: what a spinning thread saw just before the session, on a CPU of the workload and with the same probes.
#: what = CANARY_GAP: the clock stood still from start to end. CANARY_FAULTS: `count` pages were touched for the first
#: time in [start, end); CANARY_TOUCHES: the same pages, touched again.
CANARY_GAP, CANARY_FAULTS, CANARY_TOUCHES = range(3)
CANARY_DTYPE = np.dtype([("start_ns", "<i8"), ("end_ns", "<i8"), ("tid", "<i4"), ("count", "<i4"), ("what", "u1")])


class Why(IntFlag):
    """Why the flight recorder (`--keep tail`) kept a window in full detail."""

    START = 1
    """The beginning: the canary's phase, and the first seconds of the measurement."""
    TAIL = 2
    """Its request was slow."""
    SAMPLE = 4
    """Its request was drawn, whatever it turned out to be."""
    LONG = 8
    """Whether a request under way was slow could not be awaited."""


#: windows.stream: all records of all CPUs in [start_ns, end_ns] were kept, and what was known just before. `seq`: the
#: request that the window is for, as in the rows of its worker (WORD_SEQ, with `phase`; as in the request table once
#: the session is opened); -1 for none. `tid`: its thread. `why`: Why. losses.stream: GAP_DTYPE, the holes that the
#: recorder saw; its own discards are none.
WINDOW_DTYPE = np.dtype(
    [("start_ns", "<i8"), ("end_ns", "<i8"), ("seq", "<i8"), ("tid", "<i4"), ("phase", "u1"), ("why", "u1")]
)
