"""What the events of requests cost them beyond the usual, in whole ns and never more than they may."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.event_counts import EVENT_CLASSES
from jitterprof.analysis.parallel import on_all_cpus

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class UsualCounts:
    """The medians of each shape, float64[shapes, EVENT_CLASSES]: these events are in its usual running time. A missing
    record may have been one more of the class, and then this is `most`. Or one of the class may be counted that was not
    the longest interval of its interruption, since that one is missing: then it is `least`."""

    least: Floats
    most: Floats

    @staticmethod
    def of(counts: Counts, lost: Ints, shape: npt.NDArray[np.intp]) -> "UsualCounts":
        """`counts`: int32[requests, EVENT_CLASSES]; `lost`: records that may be missing from each request; `shape`:
        its number, from 0."""
        shapes = int(shape.max(initial=-1)) + 1
        members = [np.flatnonzero(shape == number) for number in range(shapes)]
        least, most = (np.zeros((shapes, len(EVENT_CLASSES))) for _ in range(2))

        def find(place: tuple[int, int]) -> None:
            number, event_class = place
            met = counts[members[number], event_class]
            least[place] = most[place] = np.median(met)
            if lost.any():
                most[place] = np.median(met + lost[members[number]])
                least[place] = np.median(np.maximum(met - lost[members[number]], 0))

        on_all_cpus(find, [(number, one) for number in range(shapes) for one in range(len(EVENT_CLASSES))])
        return UsualCounts(least, most)


def event_costs(counts: Counts, lost: Ints, shape: npt.NDArray[np.intp], usual: UsualCounts, price: Floats) -> Floats:
    """float64[requests, EVENT_CLASSES + 1], ns: what the events beyond the usual ones cost, at `price` each; and last,
    what those may cost that are missing, of which there may be `lost` per request."""
    certain = np.maximum(counts - lost[:, None] - np.ceil(usual.most)[shape], 0) * price
    possible = np.maximum(counts - np.ceil(usual.least)[shape], 0) * price
    missing = (possible - certain).sum(axis=1) + lost * price.max(initial=0.0)
    return np.column_stack([certain, missing])


def fitting(bill: Floats, allowed: Ints) -> Ints:
    """`bill` (requests, classes) in whole ns, each row scaled down to what it is `allowed`."""
    total = bill.sum(axis=1)
    share = np.divide(np.minimum(total, allowed), total, out=np.zeros(len(total)), where=total > 0)
    whole: Ints = np.floor(bill * share[:, None]).astype(np.int64)
    return whole
