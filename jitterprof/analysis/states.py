"""From a thread's own scheduler records to its states: running, queued, blocked, throttled, stopped, unknown."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.blocking import Blocked, classify, covering, next_end, state_of, stop_codes
from jitterprof.analysis.chain import Waits, join_false_wakes
from jitterprof.analysis.culprits import Coder, CulpritKind, Tasks, coded, plain
from jitterprof.analysis.evidence import FOREVER, Evidence
from jitterprof.analysis.kthreads import InterruptThreads
from jitterprof.analysis.losses import Anchors, Doubts, Losses, doubts, last_end
from jitterprof.analysis.parallel import on_all_cpus
from jitterprof.analysis.segments import (
    SEGMENT_DTYPE,
    Intervals,
    Ints,
    Role,
    Rows,
    cut,
    intervals,
    near,
    ordered,
    union,
)
from jitterprof.analysis.sightings import INFERRED, with_sightings
from jitterprof.model.cause import Cause
from jitterprof.model.event import (
    EVENT_DTYPE,
    TASK_FROZEN,
    TASK_STOPPED,
    TASK_TRACED,
    EventKind,
    FaultFlag,
    OutFlag,
)

Flags = npt.NDArray[np.bool_]
_LOW32 = np.uint64(0xFFFFFFFF)
_SWITCHES = (EventKind.SWITCH_OUT, EventKind.SWITCH_IN)
_QUEUE = (EventKind.WAKING, EventKind.WAKEUP, EventKind.MIGRATE)
#: EXIT_DEAD, EXIT_ZOMBIE, TASK_DEAD (include/linux/sched.h): the thread will not come back.
_DEAD = 0x10 | 0x20 | 0x80
#: Stands before a thread's first record: the beginning of the recording.
_HEAD = 0


@dataclass(frozen=True, slots=True)
class History:
    """`records`: the scheduler records of all threads by (thread, ts), a _HEAD before each thread's first. `tids`: the
    threads. `left`: index in `records` of the switches and heads. `end`: of the recording."""

    tids: Ints
    records: Rows
    left: Ints
    end: int

    @staticmethod
    def of(evidence: Evidence, anchors: Anchors) -> "History":
        """Sort out the records of every thread that was ever switched in or out. `anchors` name threads by tid."""
        events = evidence.events
        tids = np.unique(events["tid"][evidence.rows(*_SWITCHES)])
        rows = evidence.rows(*_SWITCHES, *_QUEUE)
        tid = events["tid"][rows]
        thread = np.searchsorted(tids, tid)
        known = tids[np.minimum(thread, len(tids) - 1)] == tid if len(tids) else np.zeros(0, bool)
        rows, thread = rows[: len(known)][known], thread[: len(known)][known]
        # numpy sorts small numbers by their digits.
        order = np.argsort(thread.astype(np.uint16) if len(tids) < 1 << 16 else thread, kind="stable")
        thread = thread[order]
        records = np.zeros(len(tids) + len(rows), EVENT_DTYPE)
        records[np.arange(len(rows)) + thread + 1] = events.take(rows[order])
        heads = np.searchsorted(thread, np.arange(len(tids))) + np.arange(len(tids))
        records["tid"][heads], records["ts"][heads], records["kind"][heads] = tids, evidence.window[0], _HEAD
        records = with_sightings(records, evidence, anchors)
        left = np.flatnonzero(np.isin(records["kind"], (_HEAD, *_SWITCHES)))
        return History(tids.astype(np.int64), records, left, evidence.window[1])

    def parts(self, size: int) -> Iterator["Episodes"]:
        """The episodes, some `size` at a time."""
        for first in range(0, len(self.left), size):
            yield self._part(first, min(first + size, len(self.left)))

    def _part(self, first: int, last: int) -> "Episodes":
        before = min(first, 1)
        begin = self.left[first - before]
        beyond = self.left[last] if last < len(self.left) else len(self.records)
        records = self.records[begin : beyond + 1]
        left = self.left[first - before : last] - begin
        limit = np.append(left[1:], beyond - begin)
        opener = records.take(left)
        after = records.take(np.minimum(limit, len(records) - 1))
        inner = (limit < len(records)) & (after["tid"] == opener["tid"])
        return Episodes(
            tids=self.tids,
            records=records,
            before=before,
            left=left,
            limit=limit,
            opener=opener,
            thread=np.searchsorted(self.tids, opener["tid"]).astype(np.int64),
            start=opener["ts"].astype(np.int64),
            end=np.where(inner, after["ts"].astype(np.int64), self.end),
            right=np.where(inner, after["kind"], 0).astype(np.int64),
            right_cpu=np.where(inner, after["cpu"], -1).astype(np.int64),
            inferred=inner & (after["kind"] == EventKind.SWITCH_IN) & (after["flags"] == INFERRED),
        )


@dataclass(frozen=True, slots=True)
class Episodes:
    """Spans between a thread's consecutive switches, from the beginning of the recording to its end.

    `records`: theirs, and the one after them. `left`: index in `records` of the switch (or _HEAD) that opens an
    episode, `limit`: one past the last record that belongs to it. `opener`: the record that opens it. `right`: kind of
    the switch that ends it (0: the recording ends), `right_cpu`: its CPU, `inferred`: it came before that, nobody knows
    when. `thread`: index into `tids`. `before`: how many episodes stand at the beginning only to show what came before
    the others.
    """

    tids: Ints
    records: Rows
    before: int
    left: Ints
    limit: Ints
    opener: Rows
    thread: Ints
    start: Ints
    end: Ints
    right: Ints
    right_cpu: Ints
    inferred: Flags

    def those(self, chosen: Flags) -> Ints:
        """Which episodes are chosen, without those that only stand before the others."""
        return np.flatnonzero(chosen[self.before :]) + self.before


@dataclass(frozen=True, slots=True)
class States:
    """`segments`: SEGMENT_DTYPE rows, contiguous from the beginning to the end of the recording for each of `tids`.
    `doubts`: see losses. `waits`: per blocked span (`segments["wait"]`) who ended it."""

    tids: Ints
    segments: Rows
    doubts: Doubts
    waits: Waits


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else is known of the threads. `anchors`, `faults`, `reclaims` are grouped by thread index; the `row` of a
    fault indexes `fault_records`."""

    evidence: Evidence
    losses: Losses
    coder: Coder
    tasks: Tasks
    interrupts: InterruptThreads
    anchors: Anchors
    fault_records: Rows
    faults: Intervals
    reclaims: Intervals

    @staticmethod
    def of(tids: Ints, evidence: Evidence, anchors: Anchors, losses: Losses, coder: Coder) -> "Circumstances":
        """Those of the threads `tids`. `anchors` name threads by tid."""
        known = np.flatnonzero(np.isin(anchors.thread, tids))
        faults, reclaims = evidence.of_kind(EventKind.FAULT), evidence.of_kind(EventKind.RECLAIM)
        tasks = Tasks.of(evidence)
        return Circumstances(
            evidence,
            losses,
            coder,
            tasks,
            InterruptThreads.of(tasks),
            Anchors(np.searchsorted(tids, anchors.thread[known]), anchors.time[known], anchors.cpu[known]),
            faults,
            _by_thread(faults, tids),
            _by_thread(reclaims, tids),
        )

    def around(self, episodes: Episodes) -> "Circumstances":
        """What matters for some episodes."""
        if not len(episodes.start):
            return self
        first = (int(episodes.thread[0]), int(episodes.start[0]))
        last = (int(episodes.thread[-1]), int(episodes.end[-1]))
        faults, reclaims, anchors = self.faults, self.reclaims, self.anchors
        return replace(
            self,
            losses=self.losses.around(int(episodes.start.min()), int(episodes.end.max())),
            anchors=anchors.rows(near(anchors.thread, anchors.time, first, last)),
            faults=faults.rows(near(faults.group, faults.end, first, last)),
            reclaims=reclaims.rows(near(reclaims.group, reclaims.end, first, last)),
        )


#: Episodes that are worked on at once: what is made of them stays in the CPU's cache.
PART = 1 << 16


def thread_states(evidence: Evidence, anchors: Anchors, losses: Losses, coder: Coder, part: int = PART) -> States:
    """The states of every victim thread. `anchors` name threads by tid. `part`: see PART."""
    history = History.of(evidence, anchors)
    known = Circumstances.of(history.tids, evidence, anchors, losses, coder)
    found = on_all_cpus(lambda episodes: _states(episodes, known.around(episodes)), history.parts(part))
    rows = [np.zeros(0, SEGMENT_DTYPE)]
    count = 0
    for states in found:
        states.segments["wait"][states.segments["wait"] >= 0] += count
        count += len(states.waits.waker)
        rows.append(states.segments)
    segments = np.concatenate(rows)
    none = np.zeros(0, np.int64)
    waits = Waits(
        np.concatenate([none, *(states.waits.waker for states in found)]),
        np.concatenate([none, *(states.waits.lock for states in found)]),
    )
    join_false_wakes(segments, waits)
    doubt = Doubts(*(_all([getattr(states.doubts, name) for states in found]) for name in Doubts.__slots__))
    return States(history.tids, segments, doubt, waits)


def _states(episodes: Episodes, known: Circumstances) -> States:
    off, waits = _off_cpu(episodes, known)
    running, doubt = _running(episodes, known)
    segments = ordered(np.concatenate([running, off]))
    segments = segments.compress(segments["start"] < segments["end"])
    segments["tid"] = episodes.tids[segments["thread"]]
    segments, at = cut(segments, np.where(segments["role"] == Role.RUNNING, segments["thread"], -1), doubt.hard)
    _forget(segments, np.flatnonzero(at >= 0))
    return States(episodes.tids, segments, doubt, waits)


def _forget(segments: Rows, which: Ints) -> None:
    segments["cause"][which] = Cause.UNKNOWN
    segments["code"][which] = plain(CulpritKind.LOST)
    segments["role"][which] = Role.OFF
    segments["cpu"][which] = -1
    segments["wait"][which] = -1


def _rows(thread: Ints, start: Ints, end: Ints, cause: int | Ints, code: int | Ints) -> Rows:
    rows = np.zeros(len(thread), SEGMENT_DTYPE)
    rows["thread"], rows["start"], rows["end"] = thread, start, end
    rows["cause"], rows["code"], rows["cpu"], rows["wait"] = cause, code, -1, -1
    return rows


# Running.


def _running(episodes: Episodes, known: Circumstances) -> tuple[Rows, Doubts]:
    """Stints on a CPU: after a switch-in; and before a first record that is a switch-out, since the beginning."""
    opener = episodes.opener
    inferred = (opener["kind"] == _HEAD) & (episodes.right == EventKind.SWITCH_OUT)
    chosen = episodes.those((opener["kind"] == EventKind.SWITCH_IN) | inferred)
    inferred = inferred[chosen]
    right, right_cpu = episodes.right[chosen], episodes.right_cpu[chosen]
    cpu = np.where(inferred, right_cpu, opener["cpu"][chosen].astype(np.int64))
    thread, start, end = episodes.thread[chosen], episodes.start[chosen], episodes.end[chosen]
    consistent = (right == 0) | ((right == EventKind.SWITCH_OUT) & (right_cpu == cpu))
    rows = _rows(thread, start, end, Cause.RUN, 0)
    rows["role"], rows["cpu"] = Role.RUNNING, cpu
    doubt = doubts(known.losses, known.anchors, known.faults, thread, cpu, start, end, inferred, consistent)
    return rows, replace(doubt, soft=_all([doubt.soft, _unended(episodes, known, chosen)]))


def _by_thread(records: Rows, tids: Ints) -> Intervals:
    """Interval records of victims by thread index; those without an end are left out. `row`: into `records`."""
    known = np.flatnonzero(
        np.isin(records["tid"], tids)
        & ((records["kind"] != EventKind.FAULT) | (records["flags"] & FaultFlag.NO_END == 0))
    )
    mine = records.take(known)
    thread = np.searchsorted(tids, mine["tid"]).astype(np.int64)
    spans = intervals(thread, mine["a"].astype(np.int64), mine["ts"].astype(np.int64))
    return Intervals(spans.group, spans.start, spans.end, known[spans.row])


def _unended(episodes: Episodes, known: Circumstances, stints: Ints) -> Intervals:
    """Ends of stints in a fault or reclaim whose own record is missing because something was lost: which part of the
    stint was spent in it is not known."""
    stints = stints[episodes.right[stints] == EventKind.SWITCH_OUT]
    closing = episodes.records.take(episodes.limit[stints])
    thread, out = episodes.thread[stints], episodes.end[stints]
    start = np.zeros(0, np.int64)
    parts: list[tuple[Ints, Ints, Ints]] = [(start, start, start)]
    for flag, spans in ((OutFlag.IN_FAULT, known.faults), (OutFlag.IN_RECLAIM, known.reclaims)):
        flagged = (closing["flags"] & flag != 0) & (covering(spans, thread, out) < 0)
        open_end = np.minimum(next_end(spans, thread, out), known.evidence.window[1])
        which = np.flatnonzero(flagged & (known.losses.first(out, np.maximum(open_end, out)) != FOREVER))
        # A fault's end rules out reclaim too, but not the other way round: reclaim happens inside a fault.
        begin = last_end(known.faults, thread[which], out[which], episodes.start[stints[which]])
        since = known.anchors.last(thread[which], out[which], begin)
        parts.append((thread[which], since, out[which]))
    return union(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _all(parts: list[Intervals]) -> Intervals:
    none = np.zeros(0, np.int64)
    columns = ((none, *(getattr(part, name) for part in parts)) for name in ("group", "start", "end"))
    return union(*(np.concatenate(column) for column in columns))


# Off the CPU.


@dataclass(frozen=True, slots=True)
class _Spans:
    """Off-CPU episodes: `episode` (index), bounds, and how the thread came out of its sleep: `wake` is where the wait
    for a CPU begins (== `end`: never), `cpu` the queue that it begins in, `waking` the record (-1: none). `early`: a
    WAKING came before the switch-out; `raced`: it is the one that counts."""

    episode: Ints
    start: Ints
    end: Ints
    wake: Ints
    cpu: Ints
    waking: Ints
    early: Flags
    raced: Flags


def _off_cpu(episodes: Episodes, known: Circumstances) -> tuple[Rows, Waits]:
    evidence, tasks, opener = known.evidence, known.tasks, episodes.opener
    head = opener["kind"] == _HEAD
    chosen = episodes.those((opener["kind"] == EventKind.SWITCH_OUT) | (head & (episodes.right == EventKind.SWITCH_IN)))
    out, thread = opener.take(chosen), episodes.thread[chosen]
    is_head = head[chosen]
    state = state_of(out)
    queued = ~is_head & ((out["flags"] & OutFlag.PREEMPT != 0) | (state == 0))
    throttled = queued & (out["flags"] & OutFlag.THROTTLED != 0)
    preempted = queued & ~throttled
    dead = ~is_head & ~queued & (state & _DEAD != 0)
    stopped = ~is_head & ~queued & ~dead & (state & (TASK_STOPPED | TASK_TRACED | TASK_FROZEN) != 0)
    asleep = ~is_head & ~queued & ~dead & ~stopped
    spans = _wakes(episodes, chosen, preempted, throttled | dead)

    cover = covering(known.faults, thread, spans.start)
    cover_row = np.where(cover >= 0, known.faults.row[np.maximum(cover, 0)] if len(known.faults) else -1, -1)
    woken = spans.waking >= 0
    waking = episodes.records.take(np.maximum(spans.waking, 0))
    waking = known.interrupts.as_interrupts(waking)
    blocked = classify(out, waking, woken, cover_row, known.fault_records, evidence, known.coder)

    cause = np.select(
        [is_head | dead, throttled, stopped], [Cause.UNKNOWN, Cause.THROTTLED, Cause.STOPPED], blocked.cause
    )
    code = np.select(
        [is_head, dead, throttled, stopped],
        [
            np.full(len(out), plain(CulpritKind.UNCOVERED)),
            np.full(len(out), plain(CulpritKind.EXITED)),
            coded(CulpritKind.CGROUP, np.where(out["b"] > 0, out["b"].astype(np.int64), tasks.cgroup_ids(out["tid"]))),
            stop_codes(out, tasks.processes(out["tid"]), evidence, tasks),
        ],
        blocked.code,
    )
    sleep_from, wait_from = _certain_until(episodes, spans, known, blocked, asleep, asleep | stopped)

    first = _rows(thread, spans.start, np.minimum(sleep_from, spans.wake), cause, code)
    first["note"] = np.where(asleep, blocked.note, 0)
    first["wait"] = np.where(asleep, np.arange(len(out)), -1)
    lost = plain(CulpritKind.LOST)
    after = _rows(thread, np.clip(sleep_from, spans.start, spans.wake), spans.wake, Cause.UNKNOWN, lost)
    waits = _waits(
        episodes, spans, np.minimum(wait_from, spans.end), np.where(preempted, Cause.PREEMPTED, Cause.WAKEUP)
    )
    beyond = _rows(thread, np.clip(wait_from, spans.wake, spans.end), spans.end, Cause.UNKNOWN, lost)
    # A wait for a lock that ended in a page fault or at a disk was for that; one without an end is still under way.
    for_lock = asleep & woken & np.isin(blocked.cause, (Cause.LOCK, Cause.SLEEP))
    lock = np.where(for_lock, known.coder.lock(out, evidence.machine), 0)
    return np.concatenate([first, after, waits, beyond]), Waits(blocked.waker, lock)


def _wakes(episodes: Episodes, chosen: Ints, preempted: Flags, never: Flags) -> _Spans:
    """Find for each off-CPU episode where its wait for a CPU begins.

    The first WAKING counts. One that raced the switch-out lies before it, in the stint that it ended; it counts where
    no later one comes before the thread runs again. Without any, the WAKEUP tells.
    """
    records = episodes.records
    left, limit = episodes.left[chosen], episodes.limit[chosen]
    start, end = episodes.start[chosen], episodes.end[chosen]
    kind = records["kind"]
    waking, waking_found = _first(np.flatnonzero(kind == EventKind.WAKING), left, limit)
    wakeup, wakeup_found = _first(np.flatnonzero(kind == EventKind.WAKEUP), left, limit)
    # The record before the switch-out belongs to the stint that it ends, as does every WAKING since the stint's opener.
    previous = np.where(chosen > 0, episodes.left[np.maximum(chosen - 1, 0)], 0)
    is_out = kind[left] == EventKind.SWITCH_OUT
    pending, early = _last(np.flatnonzero(kind == EventKind.WAKING), previous, left)
    early &= is_out & ~preempted & ~never
    pending_found = early & ~waking_found

    ts = records["ts"].astype(np.int64)
    queue = (records["a"] & _LOW32).astype(np.int64)
    # Of a race, the last placement before the switch-out; it may be followed by others, which move the thread on.
    placed = np.where(pending_found, np.maximum(left - 1, 0), np.where(waking_found, waking, wakeup))
    wake = np.select(
        [never, preempted | pending_found, waking_found, wakeup_found], [end, start, ts[waking], ts[wakeup]], end
    )
    cpu = np.where(preempted, records["cpu"][left].astype(np.int64), queue[placed])
    record = np.where(preempted | never, -1, np.where(waking_found, waking, np.where(pending_found, pending, -1)))
    return _Spans(chosen, start, end, wake, cpu, record, early, pending_found)


def _first(positions: Ints, left: Ints, limit: Ints) -> tuple[Ints, Flags]:
    """The first of `positions` between `left` and `limit` (both excluded)."""
    if not len(positions):
        return np.zeros(len(left), np.int64), np.zeros(len(left), bool)
    at = np.searchsorted(positions, left, "right")
    inside = positions[np.minimum(at, len(positions) - 1)]
    found = (at < len(positions)) & (inside < limit)
    return np.where(found, inside, 0), found


def _last(positions: Ints, left: Ints, limit: Ints) -> tuple[Ints, Flags]:
    """The last of `positions` between `left` and `limit` (both excluded)."""
    if not len(positions):
        return np.zeros(len(left), np.int64), np.zeros(len(left), bool)
    at = np.searchsorted(positions, limit, "left") - 1
    inside = positions[np.maximum(at, 0)]
    found = (at >= 0) & (inside > left)
    return np.where(found, inside, 0), found


def _certain_until(
    episodes: Episodes, spans: _Spans, known: Circumstances, blocked: Blocked, asleep: Flags, sleeps: Flags
) -> tuple[Ints, Ints]:
    """From when on the sleep and the wait of an off-CPU episode are not certain, because a record may be missing.

    A sleeping or waiting thread's next record may come from any CPU, so a loss anywhere counts. `asleep`: blocked;
    `sleeps`: blocked or stopped, so that a WAKING ends it.
    """
    losses = known.losses
    is_head = episodes.opener["kind"][spans.episode] == _HEAD
    in_sleep = losses.first(spans.start, spans.wake)
    in_wait = losses.first(spans.wake, spans.end)
    anywhere = losses.first(spans.start, spans.end)
    hit = anywhere != FOREVER
    # A WAKING that is lost takes the waker with it; and one that raced the switch-out is lost before it.
    since = np.where(sleeps, episodes.start[np.maximum(spans.episode - 1, 0)], spans.start)
    vanished = sleeps & (spans.waking < 0) & (losses.first(since, spans.end) != FOREVER)
    early = spans.early | (sleeps & (losses.first(since, spans.start) != FOREVER))
    unmatched = (episodes.right[spans.episode] == EventKind.SWITCH_OUT) & ~hit
    fault_end = np.minimum(
        next_end(known.faults, episodes.thread[spans.episode], spans.start), known.evidence.window[1]
    )
    fault_lost = blocked.doubtful & asleep & (losses.first(spans.start, np.maximum(fault_end, spans.start)) != FOREVER)
    never_known = vanished | unmatched | episodes.inferred[spans.episode] | (spans.raced & hit)
    sleep_void = never_known | fault_lost | (is_head & hit)
    # So may have been a WAKING that is seen, if the thread ran once more before the one that seems to end its sleep.
    sleep_void |= (asleep & blocked.by_waker | early) & (in_sleep != FOREVER)
    sleep_from = np.where(sleep_void, spans.start, in_sleep)
    # After a loss a WAKING may have met a thread that ran already; before a thread's first switch always.
    doubted = is_head | ((in_sleep != FOREVER) & (spans.start < spans.wake))
    wait_void = never_known | (doubted & (in_wait != FOREVER))
    wait_from = np.where(wait_void, spans.wake, in_wait)
    return sleep_from, wait_from


def _waits(episodes: Episodes, spans: _Spans, until: Ints, cause: Ints) -> Rows:
    """Waits for a CPU, [wake, until), cut where the thread moves to another queue."""
    if not len(spans.episode):
        return np.zeros(0, SEGMENT_DTYPE)
    records = episodes.records
    moves = np.flatnonzero(np.isin(records["kind"], (EventKind.WAKEUP, EventKind.MIGRATE)))
    owner = np.searchsorted(episodes.left[spans.episode], moves, "right") - 1
    inside = np.maximum(owner, 0)
    moved_at = records["ts"][moves].astype(np.int64)
    valid = (owner >= 0) & (moves < episodes.limit[spans.episode][inside])
    valid &= (moved_at >= spans.wake[inside]) & (moved_at < until[inside])
    moves, owner, moved_at = moves[valid], owner[valid], moved_at[valid]
    begins = np.flatnonzero(spans.wake < until)
    span = np.concatenate([begins, owner])
    start = np.concatenate([spans.wake[begins], moved_at])
    cpu = np.concatenate([spans.cpu[begins], (records["a"][moves] & _LOW32).astype(np.int64)])
    order = np.lexsort((start, span))
    span, start, cpu = span[order], start[order], cpu[order]
    same = np.append(span[1:] == span[:-1], False)[: len(span)]
    end = np.where(same, np.append(start[1:], 0)[: len(span)], until[span])
    rows = _rows(episodes.thread[spans.episode][span], start, end, cause[span], 0)
    rows["cpu"], rows["role"] = cpu, Role.WAITING
    return rows
