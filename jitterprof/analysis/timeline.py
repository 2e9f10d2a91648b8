"""The timeline: for every thread of the target one cause at every moment."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.chain import Waits, follow_wakers
from jitterprof.analysis.culprits import Coder, CulpritKind, plain
from jitterprof.analysis.evidence import Evidence
from jitterprof.analysis.losses import Anchors, Losses, find_losses
from jitterprof.analysis.occupancy import Occupancy
from jitterprof.analysis.overlays import Layer, layers
from jitterprof.analysis.segments import SEGMENT_DTYPE, Ints, Role, Rows, Stretch, clipped, collect, ordered
from jitterprof.analysis.states import States, thread_states
from jitterprof.model.cause import Cause


@dataclass(frozen=True, slots=True)
class Timeline:
    """`tids`: the threads, sorted. `own`: what each of them did itself, SEGMENT_DTYPE rows by (thread, start),
    contiguous over `span` for each. `waits`: on whom they waited. `coder` decodes culprits together with `evidence`."""

    tids: Ints
    own: Rows
    waits: Waits
    span: tuple[int, int]
    coder: Coder
    evidence: Evidence

    def thread(self, tid: Ints) -> Ints:
        """Index of each tid in `tids`, -1 for threads that were never seen."""
        if not len(self.tids):
            return np.full(len(tid), -1)
        at = np.minimum(np.searchsorted(self.tids, tid), len(self.tids) - 1)
        return np.where(self.tids[at] == tid, at, -1)

    @property
    def segments(self) -> Rows:
        """`own`, with waits for other threads replaced by what held those up. Much of that is of no use: between two
        jobs a pool waits for all that the thread does which gives it jobs. For single windows take `pieces`."""
        return follow_wakers(self.own, self.own, self.tids, self.waits)[1]

    def pieces(self, tid: Ints, start: Ints, end: Ints) -> tuple[Ints, Rows]:
        """What each thread did in each window, as in `segments`: (index of the window, pieces cut to it), in order."""
        window, parts = collect(self.thread(tid), start, end, self.own)
        of_part, pieces = follow_wakers(parts, self.own, self.tids, self.waits)
        return window[of_part], pieces


@dataclass(frozen=True, slots=True)
class Recording:
    """A session sorted out, ready to be painted for any stretch of time: the timeline of all of it need not fit into
    memory. `states`: of every thread over the whole `span`; `stretch` finds them."""

    states: States
    occupancy: Occupancy
    layers: tuple[Layer, ...]
    span: tuple[int, int]
    coder: Coder
    evidence: Evidence
    stretch: Stretch

    @property
    def tids(self) -> Ints:
        """The threads, sorted."""
        return self.states.tids

    def timeline(self, start: int, end: int) -> Timeline:
        """The timeline of every thread over [start, end), which lies in the recording's span."""
        segments = clipped(self.states.segments.take(self.stretch.during(start, end)), start, end)
        segments = self.occupancy.blame(segments, start, end)
        for layer in self.layers:
            segments = layer.paint(segments, start, end)
        return Timeline(self.states.tids, segments, self.states.waits, (start, end), self.coder, self.evidence)


def sort_out(requests: npt.NDArray[np.void], evidence: Evidence) -> Recording:
    """Find out what every thread that the scheduler records name did, over the recording and all of `requests`.

    `requests`: REQUEST_DTYPE; their edges say where and when a thread ran. Outside the recording, and before a thread's
    first record, its time is `unknown`.
    """
    events, window = evidence.events, evidence.window
    if len(events):
        window = (min(window[0], int(events["ts"][0])), max(window[1], int(events["ts"][-1])))
    evidence = replace(evidence, window=window)
    lowest = min(window[0], int(requests["intended_ns"].min(initial=window[0])))
    highest = max(window[1], int(requests["end_ns"].max(initial=window[1])))
    coder = Coder.of(evidence)
    losses = find_losses(evidence, *window)
    states = thread_states(evidence, request_edges(requests), losses, coder)
    if evidence.sees_scheduling:
        states = _with_steady_threads(states, requests, evidence, losses)
    states = _extended(states, window, lowest, highest)
    return Recording(
        states,
        Occupancy.of(evidence, coder, highest),
        layers(evidence, losses, states.doubts, coder),
        (lowest, highest),
        coder,
        evidence,
        Stretch(*(states.segments[name].copy() for name in ("thread", "start", "end"))),
    )


def build_timeline(requests: npt.NDArray[np.void], evidence: Evidence) -> Timeline:
    """The timeline of all threads over all of the session, as `sort_out` describes it."""
    recording = sort_out(requests, evidence)
    return recording.timeline(*recording.span)


def request_edges(requests: npt.NDArray[np.void]) -> Anchors:
    """The edges of requests (and tokens): moments at which a thread certainly ran its own code. `thread` is its tid."""
    tid = np.concatenate([requests["tid"], requests["tid"]]).astype(np.int64)
    time = np.concatenate([requests["start_ns"], requests["end_ns"]])
    cpu = np.concatenate([requests["cpu_start"], requests["cpu_end"]]).astype(np.int64)
    order = np.lexsort((time, tid))
    return Anchors(tid[order], time[order], cpu[order])


def _with_steady_threads(states: States, requests: npt.NDArray[np.void], evidence: Evidence, losses: Losses) -> States:
    """Add the threads that served requests, all on one CPU, without ever being switched: they ran all the time."""
    if len(losses.anywhere):
        return states
    tid, first = np.unique(requests["tid"], return_index=True)
    steady = []
    for one, row in zip(tid.tolist(), first.tolist(), strict=True):
        mine = requests[requests["tid"] == one] if one not in states.tids else requests[:0]
        cpus = np.unique(np.concatenate([mine["cpu_start"], mine["cpu_end"]]))
        if len(cpus) == 1 and cpus[0] >= 0:
            steady.append((one, int(requests["cpu_start"][row])))
    if not steady:
        return states
    added = np.zeros(len(steady), SEGMENT_DTYPE)
    added["tid"] = [one for one, _ in steady]
    added["cpu"] = [cpu for _, cpu in steady]
    added["start"], added["end"] = evidence.window
    added["cause"], added["role"], added["wait"] = Cause.RUN, Role.RUNNING, -1
    tids = np.union1d(states.tids, added["tid"].astype(np.int64))
    segments = np.concatenate([states.segments, added])
    segments["thread"] = np.searchsorted(tids, segments["tid"])
    # Nothing was lost, so there are no doubts, whose threads would have to be renumbered.
    return States(tids, ordered(segments), states.doubts, states.waits)


def _extended(states: States, window: tuple[int, int], lowest: int, highest: int) -> States:
    """The states, and what lies before and after the recording."""
    parts = [states.segments]
    for start, end in ((lowest, window[0]), (window[1], highest)):
        if start < end:
            outside = np.zeros(len(states.tids), SEGMENT_DTYPE)
            outside["thread"], outside["tid"] = np.arange(len(states.tids)), states.tids
            outside["start"], outside["end"] = start, end
            outside["cause"], outside["code"] = Cause.UNKNOWN, plain(CulpritKind.OUTSIDE)
            outside["cpu"], outside["wait"] = -1, -1
            parts.append(outside)
    if len(parts) == 1:
        return states
    return replace(states, segments=ordered(np.concatenate(parts)))
