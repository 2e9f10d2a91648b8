"""Changes to the ledger's table of pieces, made a stretch of it at a time: it is the largest there is, and is not to be
in memory three times."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.segments import Rows
from jitterprof.model.ledger import PIECE_DTYPE

#: Pieces that are worked on at once.
STRETCH = 1 << 16


def exchanged(pieces: Rows, out: npt.NDArray[np.bool_], added: Rows, stretch: int = STRETCH) -> Rows:
    """`pieces` without those that are `out` and with the `added` ones, by (row, start).

    `pieces`: PIECE_DTYPE by row. `added`: PIECE_DTYPE in any order. `stretch`: see STRETCH.
    """
    added = added.take(np.argsort(added["row"], kind="stable"))
    table = np.empty(len(pieces) - np.count_nonzero(out) + len(added), PIECE_DTYPE)
    # Every stretch begins with a row's first piece.
    rows = np.unique(pieces["row"][stretch::stretch])
    edges = zip(*(np.searchsorted(of["row"], rows) for of in (pieces, added)), strict=True)
    filled = 0
    for (first, first_added), (last, last_added) in pairwise([(0, 0), *edges, (len(pieces), len(added))]):
        kept = pieces[first:last].compress(~out[first:last])
        part = np.concatenate([kept, added[first_added:last_added]])
        place = table[filled : filled + len(part)]
        np.take(part, np.lexsort((part["start_ns"], part["row"])), out=place, mode="clip")
        filled += len(part)
    return table
