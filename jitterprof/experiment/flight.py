"""The flight recorder (`--keep tail`): which stretches of a session are kept in full detail, decided while it runs.

Kept are the surroundings of slow requests and of a random sample, so that hours of recording stay small. "Slow" adapts:
the slowest 1.5 % of all requests so far, but of the recent ones no less than that and no more than a tenth.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.experiment.row_follower import FINISHED_DTYPE
from jitterprof.experiment.thinning import LATE_NS, GapWatch, Thinner
from jitterprof.model.event import EVENT_DTYPE, GAP_DTYPE
from jitterprof.model.request import Phase
from jitterprof.model.stream import WINDOW_DTYPE, Why
from jitterprof.units import NS_PER_MS, NS_PER_S

Rows = npt.NDArray[np.void]

#: What is kept before and after a request.
MARGIN_NS = NS_PER_MS // 2
#: The beginning of the measurement that is kept as a whole.
START_NS = 2 * NS_PER_S
#: Analysis calls those above the session's p99 spikes; the reserve covers that the running estimate is another one, the
#: more so the fewer requests it rests on.
TAIL_SHARE = 0.015
RESERVE = 100
#: However slow a stretch of the session is, no more than this part of its requests is kept for being slow.
MOST_SHARE = 0.10
RECENT = 4096
#: The sample: every request at first, then 1 %, and in between so many that any session of 500 has more than 150.
SAMPLE_SHARE = 0.01
SAMPLE_DENSE = 50
#: Records wait this long for what may still want them: a request that queued counts from its intended start.
HOLD_NS = 2 * NS_PER_S
#: Older records, or more than this, are not held back for a request that does not end, but kept.
MAX_HOLD_NS = 20 * NS_PER_S
MAX_HELD = 1_000_000

_BUCKETS_PER_OCTAVE = 64


class Threshold:
    """From which response time on a request is kept for being slow."""

    def __init__(self, slo_ns: int | None) -> None:
        self._slo_ns = slo_ns
        self._recent = np.empty(0, np.int64)
        self._counts = np.zeros(64 * _BUCKETS_PER_OCTAVE, np.int64)

    def update(self, response_ns: npt.NDArray[np.int64]) -> float:
        """The threshold, all of `response_ns` and of earlier calls considered."""
        self._recent = np.concatenate([self._recent, response_ns])[-RECENT:]
        bucket = (np.log2(np.maximum(response_ns, 1)) * _BUCKETS_PER_OCTAVE).astype(np.int64)
        np.add.at(self._counts, bucket, 1)
        below = np.cumsum(self._counts)
        if not below[-1]:
            return float("inf")
        wanted = 1 - min(MOST_SHARE, TAIL_SHARE + RESERVE / below[-1])
        most, few = np.quantile(self._recent, (1 - MOST_SHARE, wanted))
        if self._slo_ns is not None:
            return max(float(self._slo_ns), float(most))
        overall = 2.0 ** (int(np.searchsorted(below, wanted * below[-1])) / _BUCKETS_PER_OCTAVE)
        return float(np.clip(overall, most, few))


class Selection:
    """Turns finished requests into the windows that are kept for them. `decided_ns`: no window that is still to come
    begins before that."""

    def __init__(self, workers: int, slo_ns: int | None, seed: int) -> None:
        self._threshold = Threshold(slo_ns)
        self._random = np.random.default_rng(seed)
        self._last_end = dict.fromkeys(range(workers), -1)
        self._measured = 0
        self._begun = False

    @property
    def decided_ns(self) -> int:
        return min(self._last_end.values()) - MARGIN_NS

    def windows(self, finished: Rows) -> Rows:
        """WINDOW_DTYPE for `finished` (FINISHED_DTYPE)."""
        parts = [np.empty(0, WINDOW_DTYPE)]
        if len(finished) and not self._begun:
            # The probes are attached, and the canary runs, before the first request of all.
            self._begun = True
            parts.append(_whole(0, int(finished["intended_ns"].min())))
        for worker in np.unique(finished["worker"]).tolist():
            end = int(finished["end_ns"][finished["worker"] == worker].max())
            self._last_end[worker] = max(self._last_end[worker], end)
        measured = finished[finished["phase"] == Phase.MEASURED]
        if len(measured):
            if not self._measured:
                first = int(measured["intended_ns"].min()) - MARGIN_NS
                parts.append(_whole(first, first + START_NS))
            parts.append(self._of_requests(measured))
        return np.concatenate(parts)

    def _of_requests(self, measured: Rows) -> Rows:
        response = measured["end_ns"] - measured["intended_ns"]
        number = self._measured + np.arange(len(measured))
        self._measured += len(measured)
        share = np.maximum(SAMPLE_SHARE, SAMPLE_DENSE / np.maximum(number, SAMPLE_DENSE))
        drawn = self._random.random(len(measured)) < share
        slow = response > self._threshold.update(response)
        why = np.where(slow, int(Why.TAIL), 0) | np.where(drawn, int(Why.SAMPLE), 0)
        chosen = measured[why != 0]
        windows = np.zeros(len(chosen), WINDOW_DTYPE)
        windows["start_ns"] = chosen["intended_ns"] - MARGIN_NS
        windows["end_ns"] = chosen["end_ns"] + MARGIN_NS
        windows["seq"], windows["phase"], windows["tid"] = chosen["seq"], chosen["phase"], chosen["tid"]
        windows["why"] = why[why != 0]
        return windows


def _whole(start_ns: int, end_ns: int, why: Why = Why.START) -> Rows:
    return np.array([(start_ns, end_ns, -1, 0, 0, int(why))], WINDOW_DTYPE)


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be written, in this order, so that a window that is on disk has its records and losses there too.

    `events`: EVENT_DTYPE. `losses`: GAP_DTYPE. `windows`: WINDOW_DTYPE.
    """

    events: Rows
    losses: Rows
    windows: Rows


class Flight:
    """Takes what the ring gave and which requests have finished; hands back what is to be written."""

    def __init__(self, workers: int, slo_ns: int | None, seed: int) -> None:
        self._selection = Selection(workers, slo_ns, seed)
        self._thinner, self._gaps = Thinner(), GapWatch()
        self._held = [np.empty(0, EVENT_DTYPE)]
        self._count = 0
        self._released_ns = 0
        self._windows = np.empty(0, WINDOW_DTYPE)

    @property
    def held(self) -> int:
        """Records that are not decided yet."""
        return self._count

    def take(self, events: Rows, finished: Rows, now_ns: int) -> Batch:
        """`events` (EVENT_DTYPE) were drained, `finished` (FINISHED_DTYPE) ended, by the time `now_ns`."""
        self._held.append(events)
        self._count += len(events)
        self._add(self._selection.windows(finished))
        decided = self._selection.decided_ns
        until = decided - HOLD_NS
        if self._count > MAX_HELD:
            # Half of them, so that this is not done for every batch.
            held = np.sort(self._all()["ts"].astype(np.int64))
            until = max(until, int(held[len(held) // 2]))
        until = max(until, now_ns - MAX_HOLD_NS)
        since = max(decided, self._released_ns)
        if until > since and np.any(self._all()["ts"] < until):
            self._add(_whole(since, until, Why.LONG))
        return self._release(until)

    def finish(self, finished: Rows, cpu_seq: Mapping[int, int]) -> Batch:
        """The rest. `cpu_seq`: the last number that each CPU handed out."""
        self._add(self._selection.windows(finished))
        last = self._release(int(np.iinfo(np.int64).max))
        return Batch(last.events, np.concatenate([last.losses, self._gaps.finish(cpu_seq)]), last.windows)

    def _all(self) -> Rows:
        held = np.concatenate(self._held)
        self._held = [held]
        return held

    def _add(self, windows: Rows) -> None:
        # What was let go is gone, unless it was kept for another reason.
        start, end = windows["start_ns"], windows["end_ns"]
        windows["start_ns"] = np.where(end > self._released_ns, np.maximum(start, self._released_ns), start)
        there = (end > self._released_ns) | self._thinner.kept.cover(start, end)
        windows = windows[there]
        self._thinner.kept.add(windows["start_ns"], windows["end_ns"])
        self._windows = np.concatenate([self._windows, windows])

    def _release(self, until_ns: int) -> Batch:
        """Let go of all that came before `until_ns`."""
        nothing = np.empty(0, WINDOW_DTYPE)
        if until_ns <= self._released_ns:
            return Batch(np.empty(0, EVENT_DTYPE), np.empty(0, GAP_DTYPE), nothing)
        held = self._all()
        due = held["ts"] < until_ns
        self._held, released = [held[~due]], held[due]
        self._count = len(self._held[0])
        kept = self._thinner.thin(released, until_ns)
        losses = self._gaps.watch(released, until_ns)
        # A hole shows only when the records around it are there.
        whole = self._windows["end_ns"] < until_ns - LATE_NS
        windows, self._windows = self._windows[whole], self._windows[~whole]
        self._released_ns = until_ns
        return Batch(kept, losses, windows)


__all__ = ["FINISHED_DTYPE", "Batch", "Flight", "Selection", "Threshold"]
