"""ledger.parquet: the ledger as a table that anyone can query; derived, so it can be written again at any time."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from jitterprof.errors import RunFileError
from jitterprof.model.cause import CAUSE_IDS
from jitterprof.model.ledger import Basis, Ledger
from jitterprof.store import tables


def write_ledger(path: Path, ledger: Ledger, requests: npt.NDArray[np.void]) -> None:
    """Write `path`/ledger.parquet, one row per piece: columns seq, kind, phase (of its request), start_ns, ns,
    calibrated_ns, cause, culprit, observer, tid, cpu, basis, origin_seq. Cause, culprit and basis are strings. Raises
    RunFileError (disk full).
    """
    pieces = ledger.pieces
    owner = requests[pieces["row"]] if len(pieces) else requests[:0]
    columns = {
        "seq": np.ascontiguousarray(owner["seq"]),
        "kind": np.ascontiguousarray(owner["kind"]),
        "phase": np.ascontiguousarray(owner["phase"]),
        "start_ns": np.ascontiguousarray(pieces["start_ns"]),
        "ns": np.ascontiguousarray(pieces["ns"]),
        "calibrated_ns": np.ascontiguousarray(pieces["calibrated_ns"]),
        "cause": tables.names_by_code(pieces["cause"], CAUSE_IDS),
        "culprit": tables.names_by_code(pieces["culprit"], ledger.culprits),
        "observer": np.asarray(ledger.observer, bool)[pieces["culprit"]],
        "tid": np.ascontiguousarray(pieces["tid"]),
        "cpu": np.ascontiguousarray(pieces["cpu"]),
        "basis": tables.names_by_code(pieces["basis"], tuple(basis.name.lower() for basis in Basis)),
        "origin_seq": np.where(pieces["origin"] >= 0, requests["seq"][np.maximum(pieces["origin"], 0)], -1),
    }
    try:
        tables.write_columns(path / "ledger.parquet", columns)
    except OSError as error:
        raise RunFileError(
            f"cannot write {path}/ledger.parquet: {error.strerror or error}", "free some disk space"
        ) from error
