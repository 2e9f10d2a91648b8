"""A session on disk: created, finished, opened. The layout is docs/reference/run-format.md."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jitterprof.errors import RunFileError, SpecError
from jitterprof.model.event import CLOCK_WORDS, EVENT_DTYPE, GAP_DTYPE, EventKind
from jitterprof.model.request import GC_DTYPE, REQUEST_DTYPE, Kind, Phase, Status
from jitterprof.model.run import Health, Manifest
from jitterprof.model.stream import (
    CANARY_DTYPE,
    PROCFS_ROW,
    SAMPLE_DTYPE,
    STATE_DTYPE,
    WINDOW_DTYPE,
    WORD_SEQ,
    WORD_STATE,
)
from jitterprof.store import histogram_log, tables
from jitterprof.store.manifest import MANIFEST_NAME, STATE_COMPLETE, read_manifest, write_manifest
from jitterprof.store.requests import SeqMap, assemble_requests, dispatch_lag_ns
from jitterprof.store.streams import (
    CANARY_STREAM,
    EVENT_STREAM,
    LOSS_STREAM,
    SAMPLE_STREAM,
    STATE_STREAM,
    WINDOW_STREAM,
    RowFile,
    read_clocks,
    read_events,
    read_records,
    read_rows,
    read_states,
)
from jitterprof.store.threads import thread_columns
from jitterprof.units import NS_PER_S

#: State clocks around each request (model.event CLOCK_*): `begin` and `end` are snapshots of the worker's own slot.
CLOCK_DTYPE = np.dtype(
    [
        ("seq", "<i8"),
        ("tid", "<i4"),
        ("phase", "u1"),
        ("begin", "<u8", (CLOCK_WORDS,)),
        ("end", "<u8", (CLOCK_WORDS,)),
    ]
)

#: Tables that only some sessions have; each is a field of Run, NAME.parquet on disk.
OPTIONAL_TABLES = ("gc", "clocks", "procfs", "canary", "samples", "windows", "losses", "states")
_FREE_SPACE = "free some space, or give another --out"
CUT_CAVEAT = "the recording was cut: it was not closed, and holds what had reached the disk"


@dataclass(frozen=True, slots=True)
class Run:
    """One opened session.

    `requests`: REQUEST_DTYPE of all phases, tokens included, by intended start. `events`: EVENT_DTYPE by ts.
    `gc`: GC_DTYPE. `clocks`: CLOCK_DTYPE. `procfs`: PROCFS_ROW; both with the `seq` of the request table.
    `canary`: CANARY_DTYPE. `samples`: SAMPLE_DTYPE. Only with `keep` "tail": `windows`: WINDOW_DTYPE; `losses`:
    GAP_DTYPE, the holes among all records, kept or not; `states`: STATE_DTYPE. Tables that the session did not record
    are empty.
    """

    path: Path
    manifest: Manifest
    requests: npt.NDArray[np.void]
    events: npt.NDArray[np.void]
    gc: npt.NDArray[np.void]
    clocks: npt.NDArray[np.void]
    procfs: npt.NDArray[np.void]
    canary: npt.NDArray[np.void] = field(default_factory=lambda: np.empty(0, CANARY_DTYPE))
    samples: npt.NDArray[np.void] = field(default_factory=lambda: np.empty(0, SAMPLE_DTYPE))
    windows: npt.NDArray[np.void] = field(default_factory=lambda: np.empty(0, WINDOW_DTYPE))
    losses: npt.NDArray[np.void] = field(default_factory=lambda: np.empty(0, GAP_DTYPE))
    states: npt.NDArray[np.void] = field(default_factory=lambda: np.empty(0, STATE_DTYPE))


def create_run(path: Path, manifest: Manifest) -> Path:
    """Make the directory `path` and its first manifest.json. Raises SpecError where something is there already,
    RunFileError where the disk is full; nothing is left behind then."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = any(path.iterdir())
    except FileExistsError as error:
        raise SpecError(f"{path} exists and is not a directory", "give another --out") from error
    except OSError as error:
        raise SpecError(f"cannot create {path}: {error.strerror}", "give another --out") from error
    if occupied:
        what = "already holds a run" if (path / MANIFEST_NAME).exists() else "exists and is not empty"
        raise SpecError(f"{path} {what}", "give another --out, or remove it first")
    try:
        write_manifest(path, manifest)
    except OSError as error:
        path.rmdir()
        raise RunFileError(f"cannot write into {path}: {error.strerror}", _FREE_SPACE) from error
    return path


def finish_run(path: Path, manifest: Manifest) -> Run:
    """Turn the streams of `path` into tables, mark the session complete and remove the streams.

    A crash at any point leaves a directory that opens. Raises RunFileError when the disk is full or fails; the streams
    are then kept.
    """
    run = _open_streams(path, manifest, manifest.health.cut)
    run = replace(run, manifest=replace(_complete_from_rows(run, run.manifest.health), state=STATE_COMPLETE))
    optional = {name: getattr(run, name) for name in OPTIONAL_TABLES if len(getattr(run, name))}
    try:
        tables.write_array(path / "requests.parquet", run.requests)
        tables.write_array(path / "events.parquet", run.events)
        tables.write_columns(path / "threads.parquet", thread_columns(run.events, run.manifest))
        for name, table in optional.items():
            tables.write_array(path / f"{name}.parquet", table)
        _write_latency(run)
        write_manifest(path, run.manifest)
    except OSError as error:
        for table_file in (*path.glob("*.parquet"), path / "latency.hlog"):
            table_file.unlink(missing_ok=True)
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise RunFileError(
            f"cannot write the tables of {path}: {reason}", f"the recording itself is kept and opens; {_FREE_SPACE}"
        ) from error
    for stream in path.glob("*.stream"):
        stream.unlink()
    return run


def open_run(path: Path) -> Run:
    """Open a complete session, or one whose recording was cut (`manifest.health.cut`). Never writes.

    Raises RunFileError: missing, foreign, newer schema, truncated or damaged.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if manifest.state != STATE_COMPLETE:
        run = _open_streams(path, manifest, cut=True)
        health = run.manifest.health
        cut = replace(health, cut=True, caveats=(*health.caveats, CUT_CAVEAT))
        return replace(run, manifest=_complete_from_rows(run, cut))
    if not (path / "requests.parquet").is_file():
        raise RunFileError(f"{path} has no requests.parquet", "the run is damaged; record it again")
    return Run(
        path,
        manifest,
        tables.read_array(path / "requests.parquet", REQUEST_DTYPE),
        tables.read_array(path / "events.parquet", EVENT_DTYPE),
        tables.read_array(path / "gc.parquet", GC_DTYPE),
        tables.read_array(path / "clocks.parquet", CLOCK_DTYPE),
        tables.read_array(path / "procfs.parquet", PROCFS_ROW),
        tables.read_array(path / "canary.parquet", CANARY_DTYPE),
        tables.read_array(path / "samples.parquet", SAMPLE_DTYPE),
        tables.read_array(path / "windows.parquet", WINDOW_DTYPE),
        tables.read_array(path / "losses.parquet", GAP_DTYPE),
        tables.read_array(path / "states.parquet", STATE_DTYPE),
    )


def _open_streams(path: Path, manifest: Manifest, cut: bool) -> Run:
    files: dict[str, RowFile] = {}
    for pattern in ("requests.*.stream", "tokens.*.stream"):
        for file in sorted(path.glob(pattern)):
            rows = read_rows(file)
            if rows is not None:
                files[file.name] = rows
    requests, seq_map = assemble_requests(list(files.values()))
    recorded = read_events(path / EVENT_STREAM)
    events = recorded.events
    # The ring hands out records nearly in order: a stable sort is cheap then, and none is needed when they are. The
    # flight recorder writes some late; then the sequence tells which of two at one moment came first.
    if manifest.spec.keep == "tail":
        events = events[np.lexsort((events["seq"], events["ts"]))]
    elif np.any(events["ts"][1:] < events["ts"][:-1]):
        events = events[np.argsort(events["ts"], kind="stable")]
    if recorded.dropped_bytes:
        lost = (
            f"the last batch of events was torn: {recorded.dropped_bytes} bytes at the end of the stream were dropped"
        )
        health = replace(manifest.health, caveats=(*manifest.health.caveats, lost))
        manifest = replace(manifest, health=health)
    tail = manifest.spec.keep == "tail"
    gc = [read_records(file, GC_DTYPE) for file in sorted(path.glob("gc*.stream"))]
    procfs = [read_records(file, PROCFS_ROW) for file in sorted(path.glob("procfs*.stream"))]
    measured = _renumbered(np.concatenate([np.empty(0, PROCFS_ROW), *procfs]), seq_map)
    states = _renumbered(read_states(path / STATE_STREAM), seq_map)
    return Run(
        path,
        manifest,
        requests,
        events,
        np.concatenate([np.empty(0, GC_DTYPE), *gc]),
        np.empty(0, CLOCK_DTYPE) if tail else _clocks(path, files, seq_map, cut),
        measured[measured["seq"] >= 0],
        read_records(path / CANARY_STREAM, CANARY_DTYPE),
        read_records(path / SAMPLE_STREAM, SAMPLE_DTYPE),
        _renumbered(read_records(path / WINDOW_STREAM, WINDOW_DTYPE), seq_map),
        read_records(path / LOSS_STREAM, GAP_DTYPE),
        states[states["seq"] >= 0],
    )


def _clocks(path: Path, files: dict[str, RowFile], seq_map: SeqMap, cut: bool) -> npt.NDArray[np.void]:
    """`cut`: the probes may have gone before the workload. Clocks that stand still to the end then say nothing."""
    parts = [np.empty(0, CLOCK_DTYPE)]
    for name, file in files.items():
        if file.kind != Kind.REQUEST:
            continue
        snapshots = read_clocks(path / name.replace("requests", "clocks", 1), len(file.rows))
        if cut and len(snapshots):
            last = snapshots["end"][-1]
            moved = np.flatnonzero(((snapshots["begin"] != last) | (snapshots["end"] != last)).any(axis=1))
            snapshots = snapshots[: moved[-1] + 1 if len(moved) else 0]
        state, position = file.rows[: len(snapshots), WORD_STATE], file.rows[: len(snapshots), WORD_SEQ]
        part = np.zeros(len(snapshots), CLOCK_DTYPE)
        part["phase"] = state >> 8 & 0xFF
        part["seq"] = seq_map.lookup(part["phase"], position)
        part["tid"] = file.tid
        part["begin"], part["end"] = snapshots["begin"], snapshots["end"]
        parts.append(part)
    return np.concatenate(parts)


def _renumbered(rows: npt.NDArray[np.void], seq_map: SeqMap) -> npt.NDArray[np.void]:
    rows["seq"] = seq_map.lookup(rows["phase"], rows["seq"])
    return rows


def _complete_from_rows(run: Run, health: Health) -> Manifest:
    """What the coordinator could not write any more: the window, the threads and processes, the names of the shapes."""
    manifest, requests = run.manifest, run.requests
    measured = requests[requests["phase"] == Phase.MEASURED]
    window = manifest.window_ns
    if window[1] <= window[0] and len(measured):
        window = (int(measured["intended_ns"].min()), int(measured["end_ns"].max()))
    tids = manifest.worker_tids or tuple(np.unique(requests["tid"]).tolist())
    tasks = run.events[run.events["kind"] == EventKind.TASK]
    pids = manifest.pids or tuple(np.unique(tasks["other"][np.isin(tasks["tid"], tids)]).tolist())
    known = len(manifest.shapes)
    highest = int(requests["shape"].max(initial=-1))
    shapes = (*manifest.shapes, *(f"shape {number}" for number in range(known, highest + 1)))
    return replace(manifest, window_ns=window, worker_tids=tids, pids=pids, shapes=shapes, health=health)


def _write_latency(run: Run) -> None:
    requests = run.requests[run.requests["status"] == Status.OK]
    lag = dispatch_lag_ns(requests)
    measured = (requests["phase"] == Phase.MEASURED) & (requests["kind"] == Kind.REQUEST)
    token = (requests["phase"] == Phase.MEASURED) & (requests["kind"] == Kind.TOKEN)
    floor = (requests["phase"] == Phase.FLOOR) & (requests["kind"] == Kind.REQUEST)
    response, service = requests["end_ns"] - requests["intended_ns"], requests["end_ns"] - requests["start_ns"]
    end = requests["end_ns"]
    series = {
        "response": (end[measured], response[measured]),
        "service": (end[measured], service[measured]),
        "dispatch_lag": (end[measured], lag[measured]),
        "floor": (end[floor], response[floor]),
        "token": (end[token], response[token]),
    }
    origin = run.manifest.started_ns
    if len(requests):
        # Time stamps of the format are not negative.
        origin = min(origin, int(end.min()))
    started = datetime.fromisoformat(run.manifest.started_wall).timestamp()
    epoch = started + (origin - run.manifest.started_ns) / NS_PER_S
    histogram_log.write_histogram_log(run.path / "latency.hlog", series, origin, epoch)
