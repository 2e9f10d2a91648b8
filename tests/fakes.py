"""Sessions made from literals: ledgers, request tables and whole run directories, for any test that needs one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jitterprof.model.cause import Cause
from jitterprof.model.event import EVENT_DTYPE, EventKind
from jitterprof.model.ledger import PIECE_DTYPE, Ledger
from jitterprof.model.request import GC_DTYPE, REQUEST_DTYPE, Kind, Phase
from jitterprof.model.run import Manifest, Quantiles, RunSpec
from jitterprof.model.stream import (
    ROW_HEADER,
    ROW_MAGIC,
    ROW_PAGE,
    ROW_VERSION,
    ROW_WORDS,
    WORD_CPUS,
    WORD_END,
    WORD_INTENDED,
    WORD_PARENT,
    WORD_SEQ,
    WORD_SHAPE,
    WORD_START,
    WORD_STATE,
)
from jitterprof.store import EVENT_STREAM, EventStream, Run, create_run

MS = 1_000_000
#: CLOCK_MONOTONIC of the session's first moment.
START_NS = 1_000_000_000_000

WORKER_TID = 4242
PID = 4200


def manifest(**changes: object) -> Manifest:
    """A manifest of a session that is still being recorded."""
    plain = Manifest(
        schema=1,
        state="recording",
        spec=RunSpec(workload="mlp", backend="null"),
        started_ns=START_NS,
        started_wall="2025-01-02T03:04:05+00:00",
        host="testhost",
        pids=(PID,),
        worker_tids=(WORKER_TID,),
        shapes=("1x8",),
        environment={"kernel": "6.18.0-test", "hz": 250},
        probe_mode="bpf",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def request_table(
    response_ns: Sequence[int] | npt.NDArray[np.int64],
    gap_ns: int = MS,
    shape: Sequence[int] | npt.NDArray[np.int64] | int = 0,
    wait_ns: int = 0,
    tid: int = WORKER_TID,
) -> npt.NDArray[np.void]:
    """Measured requests one after the other, `gap_ns` apart, each starting `wait_ns` after its intended start."""
    response = np.asarray(response_ns, np.int64)
    table = np.zeros(len(response), REQUEST_DTYPE)
    table["seq"] = np.arange(len(response))
    table["intended_ns"] = START_NS + np.concatenate([[0], np.cumsum(response + gap_ns)[:-1]])[: len(response)]
    table["start_ns"] = table["intended_ns"] + wait_ns
    table["end_ns"] = table["intended_ns"] + response
    table["parent"] = -1
    table["tid"] = tid
    table["shape"] = shape
    table["kind"], table["phase"] = Kind.REQUEST, Phase.MEASURED
    return table


def ledger_of(
    requests: npt.NDArray[np.void], parts: Mapping[int, Iterable[tuple[Cause, str, int]]], observer: Iterable[str] = ()
) -> Ledger:
    """A ledger: per row of `parts` its (cause, culprit, ns) in time order; the rest of a request is `run`, first."""
    culprits = [""]
    rows: list[tuple[int, ...]] = []
    response = (requests["end_ns"] - requests["intended_ns"]).tolist()
    for row, total in enumerate(response):
        mine = list(parts.get(row, ()))
        pieces = [(Cause.RUN, "", total - sum(ns for _, _, ns in mine)), *mine]
        at = int(requests["intended_ns"][row])
        for cause, culprit, ns in pieces:
            if culprit not in culprits:
                culprits.append(culprit)
            if ns:
                rows.append((row, at, ns, 0, -1, culprits.index(culprit), int(requests["tid"][row]), 1, cause, 0))
            at += ns
    ours = set(observer)
    return Ledger(np.array(rows, PIECE_DTYPE), tuple(culprits), np.array([name in ours for name in culprits], bool))


def run_of(requests: npt.NDArray[np.void], described: Manifest | None = None) -> Run:
    """An opened session in memory; nothing is on disk."""
    window = (int(requests["intended_ns"].min()), int(requests["end_ns"].max())) if len(requests) else (0, 0)
    empty = np.empty(0, EVENT_DTYPE)
    described = replace(described or manifest(), state="complete", window_ns=window)
    return Run(Path("/none.jprof"), described, requests, empty, np.empty(0, GC_DTYPE), empty[:0], empty[:0])


def task_event(tid: int, tgid: int, comm: str, kernel: bool = False, ts: int = START_NS) -> npt.NDArray[np.void]:
    """One TASK record."""
    a, b = np.frombuffer(comm.encode().ljust(16, b"\0"), "<u8")
    return np.array([(ts, 0, 0, EventKind.TASK, int(kernel), tid, tgid, a, b)], EVENT_DTYPE)


def switch_events(count: int, step_ns: int = 1000) -> npt.NDArray[np.void]:
    """`count` SWITCH_OUT records of the worker, `step_ns` apart."""
    events = np.zeros(count, EVENT_DTYPE)
    events["ts"] = START_NS + np.arange(count) * step_ns
    events["seq"] = np.arange(count)
    events["kind"], events["tid"], events["flags"] = EventKind.SWITCH_OUT, WORKER_TID, 1
    return events


def write_row_stream(
    path: Path, worker: int, tid: int, words: npt.NDArray[np.int64], kind: Kind = Kind.REQUEST, spare: int = 4
) -> None:
    """A `requests.N.stream` as the generator leaves it: `words` (int64[n, ROW_WORDS]), then `spare` unwritten rows."""
    room = np.zeros((len(words) + spare, ROW_WORDS), "<i8")
    room[: len(words)] = words
    header = ROW_HEADER.pack(ROW_MAGIC, ROW_VERSION, worker, tid, kind, len(room))
    path.write_bytes(header.ljust(ROW_PAGE, b"\0") + room.tobytes())


def words_of(requests: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """The stream rows from which the store rebuilds `requests`."""
    words = np.zeros((len(requests), ROW_WORDS), np.int64)
    words[:, WORD_INTENDED] = requests["intended_ns"]
    words[:, WORD_START] = requests["start_ns"]
    words[:, WORD_END] = requests["end_ns"]
    words[:, WORD_CPUS] = requests["cpu_start"].astype(np.int64) | requests["cpu_end"].astype(np.int64) << 16
    words[:, WORD_STATE] = requests["status"].astype(np.int64) | requests["phase"].astype(np.int64) << 8
    words[:, WORD_SHAPE] = requests["shape"]
    words[:, WORD_SEQ] = requests["seq"]
    words[:, WORD_PARENT] = requests["parent"]
    return words


def recording(
    path: Path, requests: npt.NDArray[np.void], events: npt.NDArray[np.void], described: Manifest | None = None
) -> Manifest:
    """A run directory as a session leaves it before `finish_run`: manifest and streams."""
    described = described or manifest(health=replace(manifest().health, floor=Quantiles(100, 500, 600, 700, 800, 900)))
    create_run(path, described)
    for worker in np.unique(requests["worker"]).tolist():
        mine = requests[(requests["worker"] == worker) & (requests["kind"] == Kind.REQUEST)]
        write_row_stream(path / f"requests.{worker}.stream", worker, int(mine["tid"][0]), words_of(mine))
    with EventStream(path / EVENT_STREAM) as stream:
        for start in range(0, len(events), 1000):
            stream.write_batch(events[start : start + 1000])
    return described
