"""Changes to the ledger's table of pieces, made a stretch of it at a time: it is the largest there is, and is not to be
in memory three times."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from jitterprof.analysis.memory import give_back
from jitterprof.analysis.parallel import one_by_one
from jitterprof.analysis.segments import Ints, Rows
from jitterprof.model.ledger import PIECE_DTYPE

#: Pieces that are worked on at once: few enough to stay in the CPU's cache.
STRETCH = 1 << 15


def rebuilt(pieces: Rows, change: Callable[[Rows], Rows], more: int, stretch: int = STRETCH) -> Rows:
    """What `change` makes of each stretch of `pieces` (PIECE_DTYPE by row), on all CPUs, one after the other.

    A row's pieces are in one stretch. `more`: by so many pieces the table grows at most.
    """
    # What is not filled of it takes no memory.
    table = empty_table(len(pieces) + more)
    filled = 0
    for part in one_by_one(lambda some: change(pieces[some]), stretches(pieces, stretch)):
        np.take(part, np.arange(len(part)), out=table[filled : filled + len(part)], mode="clip")
        filled += len(part)
    return table[:filled]


def empty_table(size: int) -> Rows:
    """A table for so many pieces, not filled."""
    give_back()
    return np.empty(size, PIECE_DTYPE)


def stretches(pieces: Rows, stretch: int = STRETCH) -> list[slice]:
    """Stretches of about so many pieces, each of which begins with a row's first piece."""
    row = np.ascontiguousarray(pieces["row"])
    edges = np.unique([0, *np.searchsorted(row, row[stretch::stretch]).tolist(), len(row)]).tolist()
    return [slice(first, last) for first, last in pairwise(edges)]


def cut_at(pieces: Rows, edges: Ints) -> Rows:
    """`pieces` cut where they are cut by `edges`: ns, in order, on an axis on which the pieces follow each other."""
    ends = np.cumsum(pieces["ns"])
    bounds = np.sort(np.concatenate([ends, edges]), kind="stable")
    begin = np.concatenate([[0], bounds[:-1]])
    kept = begin < bounds
    begin, bounds = begin[kept], bounds[kept]
    source = np.searchsorted(ends, begin, "right")
    parts = pieces.take(source)
    parts["start_ns"] += begin - (ends - pieces["ns"])[source]
    parts["ns"] = bounds - begin
    return parts
