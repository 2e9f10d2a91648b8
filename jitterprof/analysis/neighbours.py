"""Whether requests ran longer while somebody else ran beside them: on the same core, or with the same cache."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.model.event import EventKind, Neighbour

#: Requests that are needed on either side of a comparison.
MIN_REQUESTS = 30
#: A look further away than this from a request says nothing about it (five ticks at 250 Hz).
NEAR_NS = 20_000_000
#: At most so many neighbours are compared, those seen most often.
CANDIDATES = 8
#: A difference below this part of the usual running time is not worth a name.
MATERIAL = 0.02
BLOCKS = 50
RESAMPLES = 400
#: The interval is [LEVEL, 1 - LEVEL] of the block bootstrap, shared among the candidates.
LEVEL = 0.025

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Beside:
    """Somebody beside whom requests ran longer: by `ns` (median against median), between `low_ns` and `high_ns`.

    `kind`: SMT where it was seen on the same core, else CACHE. `tail_share`, `body_share`: the parts of slow and of
    ordinary requests that ran beside it.
    """

    name: str
    kind: Neighbour
    ns: float
    low_ns: float
    high_ns: float
    tail_share: float
    body_share: float


def neighbours(
    requests: npt.NDArray[np.void],
    excess: Ints,
    tail: npt.NDArray[np.bool_],
    usual_ns: float,
    events: npt.NDArray[np.void],
    seed: int = 0,
) -> tuple[Beside, ...]:
    """Those whose interval excludes zero and whose difference is material, largest first.

    `requests`: REQUEST_DTYPE; `excess` (ns over the shape's median), `tail` are aligned with it. `usual_ns`: the median
    running time. A request ran beside somebody when every look from the last before it to the first after it saw them,
    and without when none did; the others are left out. `events`: the session's, NEIGHBOUR and TASK among them.
    """
    looks = events[events["kind"] == EventKind.NEIGHBOUR]
    if not len(looks):
        return ()
    process, names = _processes(events, looks["tid"])
    seen = np.unique(process[process >= 0], return_counts=True)
    candidates = seen[0][np.argsort(-seen[1], kind="stable")][:CANDIDATES].tolist()
    found = []
    for number in candidates:
        beside, without = _sides(requests, looks, process == number)
        if min(np.count_nonzero(beside), np.count_nonzero(without)) < MIN_REQUESTS:
            continue
        level = LEVEL / len(candidates)
        ns, low, high = _difference(requests["start_ns"], excess, beside, without, level, seed)
        if low <= 0 or ns < MATERIAL * usual_ns:
            continue
        smt = np.any(looks["flags"][process == number] == Neighbour.SMT)
        known = beside | without
        shares = [float(beside[known & side].sum() / max(1, (known & side).sum())) for side in (tail, ~tail)]
        found.append(Beside(names[number], Neighbour.SMT if smt else Neighbour.CACHE, ns, low, high, *shares))
    return tuple(sorted(found, key=lambda one: -one.ns))


def _processes(events: npt.NDArray[np.void], tids: npt.NDArray[np.uint32]) -> tuple[Ints, list[str]]:
    """Per look the number of the process it saw, -1 for nobody; and what to call each process."""
    tasks = events[events["kind"] == EventKind.TASK]
    comm = np.ascontiguousarray(np.stack([tasks["a"], tasks["b"]], axis=1).astype("<u8")).view("S16").reshape(-1)
    process_of = dict(zip(tasks["tid"].tolist(), tasks["other"].tolist(), strict=True))
    comm_of = dict(zip(tasks["tid"].tolist(), comm.tolist(), strict=True))
    tid, inverse = np.unique(tids, return_inverse=True)
    pids = [process_of.get(number, number) for number in tid.tolist()]
    known = sorted({pid for number, pid in zip(tid.tolist(), pids, strict=True) if number})
    index = [known.index(pid) if number else -1 for number, pid in zip(tid.tolist(), pids, strict=True)]
    names = []
    for pid in known:
        threads = (comm_of.get(number) for number, of in zip(tid.tolist(), pids, strict=True) if of == pid)
        names.append(f"{comm_of.get(pid, next(filter(None, threads), b'?')).decode('utf-8', 'replace')}/{pid}")
    return np.array(index, np.int64)[inverse], names


def _sides(
    requests: npt.NDArray[np.void], looks: npt.NDArray[np.void], seen: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which requests ran beside somebody, and which certainly did not. `seen`: the looks that saw them."""
    beside, without = np.zeros(len(requests), bool), np.zeros(len(requests), bool)
    victim = looks["a"].astype(np.int64)
    for tid in np.unique(requests["tid"]).tolist():
        of_thread = victim == tid
        times, inverse = np.unique(looks["ts"][of_thread].astype(np.int64), return_inverse=True)
        if not len(times):
            continue
        present = np.zeros(len(times), bool)
        present[inverse[seen[of_thread]]] = True
        upto = np.concatenate([[0], np.cumsum(present)])
        mine = np.flatnonzero(requests["tid"] == tid)
        start, end = requests["start_ns"][mine], requests["end_ns"][mine]
        first = np.searchsorted(times, start, "right") - 1
        last = np.searchsorted(times, end, "left")
        known = (first >= 0) & (last < len(times))
        first, last = np.maximum(first, 0), np.minimum(last, len(times) - 1)
        known &= (start - times[first] <= NEAR_NS) & (times[last] - end <= NEAR_NS)
        count = upto[last + 1] - upto[first]
        beside[mine] = known & (count == last - first + 1)
        without[mine] = known & (count == 0)
    return beside, without


def _difference(
    start: Ints, value: Ints, beside: npt.NDArray[np.bool_], without: npt.NDArray[np.bool_], level: float, seed: int
) -> tuple[float, float, float]:
    """Median of one side minus median of the other, with a block bootstrap over time (neighbours come for a while)."""
    rows = np.flatnonzero(beside | without)
    rows = rows[np.argsort(start[rows], kind="stable")]
    block = np.arange(len(rows)) * BLOCKS // len(rows)
    by_value = np.argsort(value[rows], kind="stable")
    sides = [
        (value[rows][by_value][chosen], block[by_value][chosen])
        for chosen in (beside[rows][by_value], without[rows][by_value])
    ]
    draws = np.random.default_rng(seed).integers(0, BLOCKS, (RESAMPLES, BLOCKS))
    differences = []
    for draw in (np.arange(BLOCKS), *draws):
        times = np.bincount(draw, minlength=BLOCKS)
        medians = [_weighted_median(values, times[blocks]) for values, blocks in sides]
        differences.append(medians[0] - medians[1])
    low, high = np.nanquantile(differences[1:], (level, 1 - level))
    return float(differences[0]), float(low), float(high)


def _weighted_median(values: Ints, weights: Ints) -> float:
    """Of sorted values; NaN where all weights are zero."""
    upto = np.cumsum(weights)
    if not len(upto) or not upto[-1]:
        return float("nan")
    return float(values[np.searchsorted(upto, upto[-1] / 2)])
