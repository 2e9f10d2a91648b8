"""The request table of a session, put together from the workers' row streams."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.model.request import REQUEST_DTYPE, Kind, Phase
from jitterprof.model.stream import (
    WORD_CPUS,
    WORD_END,
    WORD_INTENDED,
    WORD_PARENT,
    WORD_SEQ,
    WORD_SHAPE,
    WORD_START,
    WORD_STATE,
)
from jitterprof.store.streams import RowFile

_SEQ_BITS = 48


@dataclass(frozen=True, slots=True)
class SeqMap:
    """From (phase, schedule position) as the streams have it to the `seq` of the request table."""

    keys: npt.NDArray[np.int64]
    seq: npt.NDArray[np.int64]

    def lookup(self, phase: npt.NDArray[np.integer], position: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """`seq` per entry; -1 where there is no such complete request."""
        if not len(self.keys):
            return np.full(len(position), -1, np.int64)
        wanted = _key(phase, position)
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[at] == wanted, self.seq[at], -1)


def assemble_requests(files: Sequence[RowFile]) -> tuple[npt.NDArray[np.void], SeqMap]:
    """REQUEST_DTYPE rows of all workers in order of intended start, and the map that other streams need.

    `seq` is the schedule position where that is already the order of intended starts, else (closed loops of several
    workers) the rank in that order, per phase. Tokens are numbered by themselves, per phase; tokens of a request that
    was not completed are left out.
    """
    requests = _table([file for file in files if file.kind == Kind.REQUEST])
    positions = requests["seq"].copy()
    order = np.lexsort((requests["worker"], positions, requests["intended_ns"]))
    requests, positions = requests[order], positions[order]
    for phase in Phase:
        mine = np.flatnonzero(requests["phase"] == phase)
        if np.any(np.diff(positions[mine]) <= 0):
            requests["seq"][mine] = np.arange(len(mine))
    keys = _key(requests["phase"], positions)
    sorting = np.argsort(keys, kind="stable")
    seq_map = SeqMap(keys[sorting], requests["seq"][sorting])

    tokens = _table([file for file in files if file.kind == Kind.TOKEN])
    if not len(tokens):
        return requests, seq_map
    tokens["parent"] = seq_map.lookup(tokens["phase"], tokens["parent"])
    tokens = tokens[tokens["parent"] >= 0]
    tokens = tokens[np.lexsort((tokens["seq"], tokens["parent"], tokens["intended_ns"]))]
    for phase in Phase:
        mine = np.flatnonzero(tokens["phase"] == phase)
        tokens["seq"][mine] = np.arange(len(mine))
    table = np.concatenate([requests, tokens])
    return table[np.lexsort((table["kind"], table["intended_ns"]))], seq_map


def dispatch_lag_ns(requests: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """Per row: how long a *free* worker was late in starting it (waiting behind its previous request is not lag)."""
    order = np.lexsort((requests["start_ns"], requests["worker"]))
    mine = requests[order]
    free = mine["intended_ns"].copy()
    if len(mine) > 1:
        same = mine["worker"][1:] == mine["worker"][:-1]
        free[1:] = np.where(same, np.maximum(free[1:], mine["end_ns"][:-1]), free[1:])
    lag = np.empty(len(mine), np.int64)
    lag[order] = np.maximum(0, mine["start_ns"] - free)
    return lag


def _table(files: Sequence[RowFile]) -> npt.NDArray[np.void]:
    table = np.zeros(sum(len(file.rows) for file in files), REQUEST_DTYPE)
    at = 0
    for file in files:
        part, words = table[at : at + len(file.rows)], file.rows
        at += len(file.rows)
        part["seq"] = words[:, WORD_SEQ]
        part["intended_ns"] = words[:, WORD_INTENDED]
        part["start_ns"] = words[:, WORD_START]
        part["end_ns"] = words[:, WORD_END]
        part["parent"] = words[:, WORD_PARENT] if file.kind == Kind.TOKEN else -1
        part["tid"] = file.tid
        part["worker"] = file.worker
        part["cpu_start"] = words[:, WORD_CPUS] & 0xFFFF
        part["cpu_end"] = words[:, WORD_CPUS] >> 16 & 0xFFFF
        part["shape"] = words[:, WORD_SHAPE]
        part["kind"] = file.kind
        part["phase"] = words[:, WORD_STATE] >> 8 & 0xFF
        part["status"] = words[:, WORD_STATE] & 0xFF
    return table


def _key(phase: npt.NDArray[np.integer], position: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return phase.astype(np.int64) << _SEQ_BITS | position
