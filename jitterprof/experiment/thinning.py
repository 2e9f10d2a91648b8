"""Thins a stream of records to windows of time, so that inside the windows nothing is missing: not even what was known
before they began and what became known after they ended."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.model.event import EVENT_DTYPE, GAP_DTYPE, EventKind, OutFlag
from jitterprof.store.sequence import find_gaps

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.void]

#: Kept whatever the time: they name things, or are rare and matter for as long as the session lasts.
ALWAYS = (
    EventKind.FORK,
    EventKind.EXIT,
    EventKind.TASK,
    EventKind.TASK_CGROUP,
    EventKind.CGROUP,
    EventKind.SIGNAL,
)
#: Records of an interval [a, ts).
INTERVALS = (
    EventKind.HARDIRQ,
    EventKind.SOFTIRQ,
    EventKind.VECTOR,
    EventKind.NMI,
    EventKind.FAULT,
    EventKind.RECLAIM,
    EventKind.STEAL,
    EventKind.WORK,
    EventKind.COUNTERS,
)
_SWITCHES = (EventKind.SWITCH_OUT, EventKind.SWITCH_IN)
_PLACEMENTS = (EventKind.WAKING, EventKind.WAKEUP, EventKind.MIGRATE)
#: What the state of a thread follows from, and what says who has a CPU.
_OF_THREAD = (*_SWITCHES, *_PLACEMENTS)
_OF_CPU = (*_OF_THREAD, EventKind.OCCUPY, EventKind.FREQUENCY)
#: Sets the frequencies of CPUs apart from those who have them.
_FREQUENCY_OF = 1 << 20
_LOW32 = np.uint64(0xFFFFFFFF)
#: EXIT_DEAD, EXIT_ZOMBIE, TASK_DEAD (include/linux/sched.h).
_DEAD = np.uint64(0x10 | 0x20 | 0x80)
_NO_SYSCALL = np.uint64(0xFFFF)
#: A first argument up to this is a file or a clock, a larger one may be the address of a lock.
_SMALL_ARGUMENT = np.uint64(16)
#: A sleep that follows another one for the same lock after no more running than this may explain that one.
FALSE_WAKE_NS = 50_000
#: As many sleeps in a row for one lock are followed beyond a window's end.
MAX_CHAIN = 8
#: A record that is this old and has not come is lost: the ring hands them out nearly in order.
LATE_NS = 1_000_000_000


class Spans:
    """The union of closed intervals, as it grows."""

    def __init__(self) -> None:
        self.start = np.empty(0, np.int64)
        self.end = np.empty(0, np.int64)

    def add(self, start: Ints, end: Ints) -> None:
        """Add intervals [start, end] in any order."""
        if not len(start):
            return
        # What ended before all of these is settled; the rest is few.
        settled = int(np.searchsorted(self.end, start.min()))
        start, end = np.concatenate([self.start[settled:], start]), np.concatenate([self.end[settled:], end])
        order = np.argsort(start, kind="stable")
        start, reach = start[order], np.maximum.accumulate(end[order])
        opens = np.append(True, start[1:] > reach[:-1])
        last = np.append(np.flatnonzero(opens)[1:] - 1, len(start) - 1)
        self.start = np.concatenate([self.start[:settled], start[opens]])
        self.end = np.concatenate([self.end[:settled], reach[last]])

    def meets(self, start: Ints, end: Ints) -> Flags:
        """Whether each [start, end] has a moment in common with one of the intervals."""
        if not len(self.start):
            return np.zeros(len(start), bool)
        at = np.searchsorted(self.end, start, "left")
        return (at < len(self.end)) & (self.start[np.minimum(at, len(self.start) - 1)] <= end)

    def cover(self, start: Ints, end: Ints) -> Flags:
        """Whether each [start, end] lies within one of the intervals."""
        if not len(self.start):
            return np.zeros(len(start), bool)
        at = np.searchsorted(self.start, start, "right") - 1
        return (at >= 0) & (self.end[np.maximum(at, 0)] >= end)

    def starts_in(self, after: Ints, until: Ints) -> Flags:
        """Whether an interval starts in each (after, until]."""
        return _any_in(self.start, np.searchsorted(self.start, after, "right"), until, closed=True)

    def ends_in(self, since: Ints, before: Ints) -> Flags:
        """Whether an interval ends in each [since, before)."""
        return _any_in(self.end, np.searchsorted(self.end, since, "left"), before, closed=False)


def _any_in(edges: Ints, at: npt.NDArray[np.intp], until: Ints, closed: bool) -> Flags:
    if not len(edges):
        return np.zeros(len(at), bool)
    edge = edges[np.minimum(at, len(edges) - 1)]
    return (at < len(edges)) & ((edge <= until) if closed else (edge < until))


@dataclass(frozen=True, slots=True)
class _Sleeper:
    """Of one thread: when a chain of sleeps for one lock last ended, and since when a sleep is under way that ends one
    (-1: none is); its latest sleep's lock, and the length of the chain so far."""

    end: int = -1
    pending: int = -1
    lock: int = 0
    length: int = 0


class Thinner:
    """Takes all records in rounds, in order of time, and hands on those that the windows need.

    For a window [start, end] these are: all records in it, and of intervals that reach into it; of every thread the
    records since its last switch but one before the start; of every CPU the last that says who has it, and how fast it
    runs; of every thread the records after the end up to where it sleeps for something else, since what ends a sleep
    says what it was for.
    """

    def __init__(self) -> None:
        self.kept = Spans()
        self._held = np.empty(0, EVENT_DTYPE)
        self._written = np.empty(0, bool)
        self._of_thread = np.empty(0, bool)
        self._of_cpu = np.empty(0, bool)
        self._sleepers: dict[int, _Sleeper] = {}

    def thin(self, events: Rows, until_ns: int) -> Rows:
        """The records to keep, of `events` (EVENT_DTYPE) and of those held back before, in no order.

        `events` are all from before `until_ns`, and all that there are since the last round; `kept` is complete up to
        there.
        """
        fresh = np.arange(len(self._held) + len(events)) >= len(self._held)
        rows = np.concatenate([self._held, events])
        written = np.append(self._written, np.zeros(len(events), bool))
        kind, ts = rows["kind"], rows["ts"].astype(np.int64)
        begin = np.where(np.isin(kind, INTERVALS), np.minimum(rows["a"], rows["ts"]).astype(np.int64), ts)
        keep = fresh & (np.isin(kind, ALWAYS) | self.kept.meets(begin, ts))
        of_thread = np.append(self._of_thread, np.isin(events["kind"], _OF_THREAD))
        of_cpu = np.append(self._of_cpu, np.isin(events["kind"], _OF_CPU))
        self._by_thread(rows, fresh, of_thread, keep, until_ns)
        self._by_cpu(rows, of_cpu, keep, until_ns)
        thinned: Rows = rows[keep & ~written]
        stay = of_thread | of_cpu
        self._held, self._written = rows[stay], (written | keep)[stay]
        self._of_thread, self._of_cpu = of_thread[stay], of_cpu[stay]
        return thinned

    def _by_thread(self, rows: Rows, fresh: Flags, of_thread: Flags, keep: Flags, until_ns: int) -> None:
        """Keep what the states of threads need; leave in `of_thread` what a later window may."""
        mine = np.flatnonzero(of_thread)
        if not len(mine):
            return
        mine = mine[np.lexsort((rows["seq"][mine], rows["ts"][mine], rows["tid"][mine]))]
        tid, ts, kind = rows["tid"][mine], rows["ts"][mine].astype(np.int64), rows["kind"][mine]
        switch = np.flatnonzero(np.isin(kind, _SWITCHES))
        second = np.searchsorted(switch, np.arange(len(mine)), "right") + 1
        at = switch[np.minimum(second, len(switch) - 1)] if len(switch) else np.zeros(len(mine), np.int64)
        known = (second < len(switch)) & (tid[at] == tid)
        keep[mine] |= self.kept.starts_in(ts, np.where(known, ts[at], until_ns))
        dead = self._close(rows[mine], fresh[mine], switch, mine, keep)
        of_thread[mine] = ~known & ~np.isin(tid, dead)

    def _close(
        self, rows: Rows, fresh: Flags, switch: npt.NDArray[np.intp], place: npt.NDArray[np.intp], keep: Flags
    ) -> Ints:
        """Keep what follows a window's end. Returns the threads that ended. `rows`: by (thread, time)."""
        tid, ts = rows["tid"].astype(np.int64), rows["ts"].astype(np.int64)
        tids, thread = np.unique(tid, return_inverse=True)
        known = [self._sleepers.get(one, _Sleeper()) for one in tids.tolist()]
        state = (rows["a"] & _LOW32) * (rows["kind"] == EventKind.SWITCH_OUT)
        sleeps = np.flatnonzero(fresh & (state != 0) & (rows["flags"] & OutFlag.PREEMPT == 0))
        lock, of_sleep = _lock(rows[sleeps]), thread[sleeps]
        before = switch[np.maximum(np.searchsorted(switch, sleeps) - 1, 0)] if len(switch) else sleeps
        came = (before < sleeps) & (tid[before] == tid[sleeps]) & (rows["kind"][before] == EventKind.SWITCH_IN)
        ran = np.where(came, ts[sleeps] - ts[before], FALSE_WAKE_NS + 1)
        first = np.append(True, np.diff(of_sleep) != 0)[: len(sleeps)]
        previous = np.where(first, np.array([one.lock for one in known], np.int64)[of_sleep], np.roll(lock, 1))
        same = (lock != 0) & (lock == previous) & (ran <= FALSE_WAKE_NS)
        number = np.arange(len(sleeps))
        anchor = np.maximum.accumulate(np.where(first | ~same, number, 0))
        carried = np.array([one.length + 1 for one in known], np.int64)[of_sleep]
        length = number - anchor + np.where(same[anchor], carried, 0)
        ends = sleeps[length % MAX_CHAIN == 0]

        # What a sleep was for shows when it is over: a chain's end counts from the switch after it, maybe rounds later.
        pending = np.flatnonzero([one.pending >= 0 for one in known])
        old = np.searchsorted(tid, tids) + np.bincount(thread, ~fresh).astype(np.int64) - 1
        end = np.append(np.array([known[one].pending for one in pending.tolist()], np.int64), ts[ends])
        whose = np.append(pending, thread[ends])
        after = np.searchsorted(switch, np.append(old[pending], ends), "right")
        over_at = np.append(switch, len(rows))[after]
        over = np.append(thread, -1)[over_at] == whose
        order = np.argsort(over_at[over], kind="stable")
        passed, value = over_at[over][order], end[over][order]
        since = np.array([one.end for one in known], np.int64)[thread]
        if len(passed):
            at = np.searchsorted(passed, np.arange(len(rows)), "left") - 1
            inside = np.maximum(at, 0)
            since = np.where((at >= 0) & (thread[passed[inside]] == thread), value[inside], since)
        keep[place] |= fresh & self.kept.ends_in(since, ts)

        last_lock = dict(zip(of_sleep.tolist(), zip(lock.tolist(), length.tolist(), strict=True), strict=True))
        ended = dict(zip(thread[passed].tolist(), value.tolist(), strict=True))
        waits = dict(zip(whose[~over].tolist(), end[~over].tolist(), strict=True))
        for one in {*last_lock, *ended}:
            before_lock = (known[one].lock, known[one].length)
            self._sleepers[int(tids[one])] = _Sleeper(
                ended.get(one, known[one].end), waits.get(one, -1), *last_lock.get(one, before_lock)
            )
        dead: Ints = np.unique(tid[sleeps][state[sleeps] & _DEAD != 0])
        for gone in dead.tolist():
            del self._sleepers[gone]
        return dead

    def _by_cpu(self, rows: Rows, of_cpu: Flags, keep: Flags, until_ns: int) -> None:
        """Keep what says who has each CPU when a window starts; leave in `of_cpu` what says so now."""
        mine = np.flatnonzero(of_cpu)
        if not len(mine):
            return
        kind = rows["kind"][mine]
        cpu = np.select(
            [np.isin(kind, _PLACEMENTS), kind == EventKind.FREQUENCY],
            [rows["a"][mine] & _LOW32, rows["other"][mine] + np.uint64(_FREQUENCY_OF)],
            rows["cpu"][mine],
        ).astype(np.int64)
        order = np.lexsort((rows["seq"][mine], rows["ts"][mine], cpu))
        mine, cpu = mine[order], cpu[order]
        ts = rows["ts"][mine].astype(np.int64)
        known = np.append(cpu[1:] == cpu[:-1], False)
        keep[mine] |= self.kept.starts_in(ts, np.where(known, np.append(ts[1:], until_ns), until_ns))
        of_cpu[mine] = ~known


def _lock(out: Rows) -> Ints:
    """What may be the lock that each SWITCH_OUT record waits for, as a number; 0: none."""
    number = out["a"] >> np.uint64(32) & _NO_SYSCALL
    may_be = (number != _NO_SYSCALL) & (out["b"] > _SMALL_ARGUMENT)
    return np.where(may_be, (out["b"] << np.uint64(10) ^ number).astype(np.int64), 0)


class GapWatch:
    """Finds the holes in each CPU's sequence numbers while the records go by."""

    def __init__(self) -> None:
        self._pending = np.empty(0, EVENT_DTYPE)[["cpu", "seq", "ts"]]
        self._last = self._pending

    def watch(self, events: Rows, until_ns: int) -> Rows:
        """The holes (GAP_DTYPE) among all records so far up to about `until_ns`, each once."""
        self._pending = np.concatenate([self._pending, events[["cpu", "seq", "ts"]]])
        return self._settle(until_ns - LATE_NS, {})

    def finish(self, cpu_seq: Mapping[int, int]) -> Rows:
        """The rest, up to the last number that each CPU handed out."""
        return self._settle(None, cpu_seq)

    def _settle(self, until_ns: int | None, cpu_seq: Mapping[int, int]) -> Rows:
        found = [np.empty(0, GAP_DTYPE)]
        rest, last = [self._pending[:0]], [self._pending[:0]]
        seen = {int(row["cpu"]): row for row in self._last}
        for cpu in sorted({*np.unique(self._pending["cpu"]).tolist(), *seen, *cpu_seq}):
            mine = self._pending[self._pending["cpu"] == cpu]
            origin = int(seen[cpu]["seq"]) if cpu in seen else 0
            step = (mine["seq"].astype(np.int64) - origin + 2**31) % 2**32
            mine = mine[np.argsort(step, kind="stable")]
            count = len(mine)
            if until_ns is not None:
                settled = np.flatnonzero(mine["ts"].astype(np.int64) < until_ns)
                count = int(settled[-1]) + 1 if len(settled) else 0
            before = [self._last[self._last["cpu"] == cpu], mine[:count]]
            chunk = np.concatenate(before)
            ends = {cpu: cpu_seq[cpu]} if cpu in cpu_seq else {}
            if len(chunk) or ends:
                found.append(find_gaps(chunk, ends, None if cpu in seen else 0))
            rest.append(mine[count:])
            last.append(chunk[-1:])
        self._pending, self._last = np.concatenate(rest), np.concatenate(last)
        return np.concatenate(found)
