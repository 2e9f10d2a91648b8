"""Where records are missing: holes in the sequence numbers that each CPU gives its records."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from jitterprof.model.event import GAP_DTYPE

#: "to the end of time": an open end of a gap or of a search.
FOREVER = int(np.iinfo(np.int64).max)


def find_gaps(
    events: npt.NDArray[np.void], cpu_seq: Mapping[int, int], first_seq: int | None = 0
) -> npt.NDArray[np.void]:
    """Holes in each CPU's sequence numbers, as GAP_DTYPE rows by (cpu, start).

    A gap lies between the records around the hole. `cpu_seq`: the last number that each CPU handed out, so that a loss
    at the end shows (its gap never ends); `first_seq`: the first one, so that a loss at the start does (that gap has
    always been). Numbers are u32 and wrap; one may come twice, and neighbours may be out of order (an interrupt
    between taking the time and taking the number).
    """
    parts: list[npt.NDArray[np.void]] = []
    cpus = {*np.unique(events["cpu"]).tolist(), *cpu_seq}
    order = np.argsort(events["cpu"], kind="stable")
    by_cpu = events["cpu"][order]
    for cpu in sorted(cpus):
        mine = order[np.searchsorted(by_cpu, cpu, "left") : np.searchsorted(by_cpu, cpu, "right")]
        ts, seq = events["ts"][mine].astype(np.int64), events["seq"][mine].astype(np.int64)
        last = cpu_seq.get(cpu)
        holes: list[tuple[int, int, int, int]] = []
        if not len(mine):
            if last is not None and last >= 0 and first_seq is not None:
                holes.append((cpu, 0, FOREVER, _forward(first_seq, last) + 1))
            parts.append(np.array(holes, GAP_DTYPE))
            continue
        # Numbers without the wrap, from the smallest step that explains each.
        number = np.concatenate([[0], np.cumsum((np.diff(seq) + 2**31) % 2**32 - 2**31)])
        known, where = np.unique(number, return_inverse=True)
        earliest, latest = np.full(len(known), FOREVER), np.zeros(len(known), np.int64)
        np.minimum.at(earliest, where, ts)
        np.maximum.at(latest, where, ts)
        before = np.flatnonzero(np.diff(known) > 1)
        inner = np.empty(len(before), GAP_DTYPE)
        inner["cpu"] = cpu
        inner["start_ns"] = np.minimum(earliest[before], earliest[before + 1])
        inner["end_ns"] = np.maximum(latest[before], latest[before + 1])
        inner["lost"] = known[before + 1] - known[before] - 1
        origin = int(seq[0])
        if first_seq is not None and (missing := _forward(first_seq, origin + int(known[0]))) > 0:
            holes.append((cpu, 0, int(earliest[0]), missing))
        head = np.array(holes, GAP_DTYPE)
        tail = np.empty(0, GAP_DTYPE)
        if last is not None and (missing := _forward(origin + int(known[-1]), last)) > 0:
            tail = np.array([(cpu, int(latest[-1]), FOREVER, missing)], GAP_DTYPE)
        parts += [head, inner, tail]
    return np.concatenate([np.empty(0, GAP_DTYPE), *parts])


def _forward(from_seq: int, to_seq: int) -> int:
    """How many u32 steps lead from one number to a later one; negative where it is the earlier one."""
    return (to_seq - from_seq + 2**31) % 2**32 - 2**31
