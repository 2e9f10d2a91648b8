"""The ledger: requests cut into pieces, each with one cause. Columns, never an object per piece."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Basis(IntEnum):
    """Why a piece has its cause."""

    MEASURED = 0
    """A span that the kernel reported on the thread that served the request, or on one that it waited for."""
    CALIBRATED = 1
    """The cost of an event beyond its span, as measured on this host."""
    POOL = 2
    """The serving thread was busy; a thread of its pool was held up meanwhile, and the request took that much longer.
    In this session requests do take longer when that thread is held up."""
    POOL_GUESS = 3
    """The same, where the session has too few such requests to tell."""


#: One row per piece, ordered by (request, start). `ns` of one request's pieces sum exactly to its response time.
#: `culprit` indexes `Ledger.culprits` (0 is "", nobody). `calibrated_ns` <= `ns`: the part that was billed by a
#: calibrated cost per event and not by a measured span. `row` is the index into the request table. `origin`: the row of
#: the earlier request in whose service this time was lost, so that this one had to queue for it; -1: its own loss.
#: `basis`: Basis. `tid` is the thread that was held up: where it is not the one that served the request, the request
#: waited for it.
PIECE_DTYPE = np.dtype(
    [
        ("row", "<i8"),
        ("start_ns", "<i8"),
        ("ns", "<i8"),
        ("calibrated_ns", "<i8"),
        ("origin", "<i8"),
        ("culprit", "<i4"),
        ("tid", "<i4"),
        ("cpu", "<i2"),
        ("cause", "u1"),
        ("basis", "u1"),
    ]
)


@dataclass(frozen=True, slots=True)
class Ledger:
    """`pieces`: PIECE_DTYPE rows. `culprits`: names, index 0 = "". `observer`: True where the culprit is jitterprof."""

    pieces: npt.NDArray[np.void]
    culprits: tuple[str, ...]
    observer: npt.NDArray[np.bool_]
