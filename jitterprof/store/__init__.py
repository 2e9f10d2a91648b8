"""The run directory: what acquisition writes and interpretation reads."""

from jitterprof.store.ledger_table import write_ledger
from jitterprof.store.manifest import read_manifest, write_manifest
from jitterprof.store.run_directory import CLOCK_DTYPE, Run, create_run, finish_run, open_run
from jitterprof.store.streams import EVENT_STREAM, GC_STREAM, PROCFS_STREAM, EventStream, read_events

__all__ = [
    "CLOCK_DTYPE",
    "EVENT_STREAM",
    "GC_STREAM",
    "PROCFS_STREAM",
    "EventStream",
    "Run",
    "create_run",
    "finish_run",
    "open_run",
    "read_events",
    "read_manifest",
    "write_ledger",
    "write_manifest",
]
