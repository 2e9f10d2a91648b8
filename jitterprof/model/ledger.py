"""The ledger: requests cut into pieces, each with one cause. Columns, never an object per piece."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: One row per piece, ordered by (request, start). `ns` of one request's pieces sum exactly to its response time.
#: `culprit` indexes `Ledger.culprits` (0 is "", nobody). `calibrated_ns` <= `ns`: the part that was billed by a
#: calibrated cost per event and not by a measured span. `row` is the index into the request table.
PIECE_DTYPE = np.dtype(
    [
        ("row", "<i8"),
        ("start_ns", "<i8"),
        ("ns", "<i8"),
        ("calibrated_ns", "<i8"),
        ("culprit", "<i4"),
        ("tid", "<i4"),
        ("cpu", "<i2"),
        ("cause", "u1"),
    ]
)


@dataclass(frozen=True, slots=True)
class Ledger:
    """`pieces`: PIECE_DTYPE rows. `culprits`: names, index 0 = "". `observer`: True where the culprit is jitterprof."""

    pieces: npt.NDArray[np.void]
    culprits: tuple[str, ...]
    observer: npt.NDArray[np.bool_]
