"""Cumulative time per cause: the blame of a window is a difference of two readings, for any number of windows."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.segments import Ints
from jitterprof.analysis.timeline import Timeline
from jitterprof.model.cause import Cause


@dataclass(frozen=True, slots=True)
class CauseClock:
    """One thread's F(t): `reading[i]` is the time per cause up to `edge[i]`, and `cause[i]` runs from there on.

    `edge`: int64[n + 1], the bounds of the thread's n segments. `reading`: int64[n + 1, k] for the causes in
    `present`.
    """

    edge: Ints
    cause: Ints
    reading: Ints
    present: Ints

    @staticmethod
    def of(timeline: Timeline, tid: int) -> "CauseClock":
        """The clock of a thread of `timeline`. A thread that it does not know has spent all its time in `unknown`."""
        thread = int(timeline.thread(np.array([tid]))[0])
        mine = timeline.segments[timeline.segments["thread"] == thread] if thread >= 0 else timeline.segments[:0]
        if not len(mine):
            edge = np.array(timeline.span)
            cause = np.array([int(Cause.UNKNOWN)])
        else:
            edge = np.append(mine["start"], mine["end"][-1])
            cause = mine["cause"].astype(np.int64)
        present, column = np.unique(cause, return_inverse=True)
        reading = np.zeros((len(edge), len(present)), np.int64)
        reading[np.arange(1, len(edge)), column] = np.diff(edge)
        np.cumsum(reading, axis=0, out=reading)
        return CauseClock(edge, column.astype(np.int64), reading, present)

    def read(self, at: Ints) -> Ints:
        """Time per cause up to each moment, which is clipped to the span: int64[n, k], by `present`."""
        at = np.clip(at, self.edge[0], self.edge[-1])
        index = np.clip(np.searchsorted(self.edge, at, "right") - 1, 0, len(self.cause) - 1)
        reading = self.reading[index]
        reading[np.arange(len(at)), self.cause[index]] += at - self.edge[index]
        return reading

    def between(self, starts: Ints, ends: Ints) -> Ints:
        """Time per cause in each window [start, end): int64[n, len(Cause)]. What lies beyond the span is `unknown`."""
        spent = np.zeros((len(starts), len(Cause)), np.int64)
        spent[:, self.present] = self.read(ends) - self.read(starts)
        spent[:, Cause.UNKNOWN] += (ends - starts) - spent.sum(axis=1)
        return spent

    def shifted(self, starts: Ints, ends: Ints, shift: int, window: tuple[int, int]) -> Ints:
        """`between` with all windows moved by `shift` ns around the circle `window`, as a null test wants it.

        Windows must lie within `window`. int64[n, len(Cause)].
        """
        first, length = window[0], window[1] - window[0]
        begin = (starts - first + shift) % length + first
        end = begin + (ends - starts)
        over = np.maximum(end - window[1], 0)
        return self.between(begin, end - over) + self.between(np.full(len(over), first), first + over)


def spent_by_cause(pieces: npt.NDArray[np.void], rows: int) -> Ints:
    """Ledger pieces summed per request row and cause: int64[rows, len(Cause)]."""
    spent = np.zeros((rows, len(Cause)), np.int64)
    np.add.at(spent, (pieces["row"], pieces["cause"]), pieces["ns"])
    return spent
