"""One worker thread's own things: its files, clock, CPU cell and state clock. All made before the first request."""

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jitterprof.errors import JitterprofError
from jitterprof.load.clock import Clock, wake_margin_ns, wake_overshoot
from jitterprof.load.collector import GcRecorder
from jitterprof.load.cpu import ThreadCpu, thread_cpu
from jitterprof.load.hygiene import lock_buffers, set_timer_slack
from jitterprof.load.procfs import LEAD_NS, ThreadCounters
from jitterprof.load.request_file import CLOCK_ROW_WORDS, ROW_BYTES, TOUCH_BYTES, ClockFile, RowFile
from jitterprof.load.side_file import SideFile
from jitterprof.load.stop import StopCell
from jitterprof.model.event import CLOCK_VERSION, CLOCK_WORDS
from jitterprof.model.request import Kind, Phase
from jitterprof.model.stream import ROW_PAGE, ROW_WORDS, WORD_END

_PACK = struct.Struct("<8q").pack_into
_GC_BATCH = 256
_SNAPSHOT_TRIES = 1000

Snapshot = Callable[[], None]


@dataclass(frozen=True, slots=True)
class StateClocks:
    """The mapped BPF clock array (CLOCK_SLOTS x CLOCK_WORDS u64) and who has which slot (None: nobody yet). `ring`: the
    file holds the snapshots of that many requests, the latest, for somebody who follows; 0: of all."""

    array: memoryview
    slot_of: Callable[[int], int | None]
    ring: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """What all workers share. `rows` and `tokens`: capacity to start with; `margin_ns` None: calibrate it."""

    out_dir: Path
    clock: Clock
    stop: StopCell
    gc: GcRecorder
    rows: int
    tokens: int
    alone: bool
    mean_gap_ns: int
    margin_ns: int | None
    shape_of: Callable[[int], int] | None
    clocks: StateClocks | None
    procfs: SideFile | None
    abort_after: int
    timer_slack_ns: int = 1


@dataclass(slots=True)
class Failures:
    """Requests that raised, and the first of them in words."""

    count: int = 0
    first: str = ""
    first_ns: int = 0


def _copier(slot: memoryview, to: memoryview) -> Snapshot:
    def snapshot() -> None:
        tries = _SNAPSHOT_TRIES
        while tries:
            version = slot[CLOCK_VERSION]
            to[:] = slot
            if not version & 1 and slot[CLOCK_VERSION] == version:
                return
            tries -= 1
        to[CLOCK_VERSION] = 1

    return snapshot


class Worker:
    """Made in the thread that will serve. `record` is called once per request, after its end."""

    def __init__(self, number: int, setting: Setting) -> None:
        self.setting, self.number = setting, number
        self.tid = threading.get_native_id()
        self.slack_ns = set_timer_slack(setting.timer_slack_ns)
        self.cpu: ThreadCpu = thread_cpu()
        self.sleep_until = setting.clock.sleeper()
        self.failures = Failures()
        self.caveats: list[str] = []
        self.stamps: list[int] = []
        self.floor_rows = 0
        self.locked = False
        folder = setting.out_dir
        self.rows = RowFile(folder / f"requests.{number}.stream", Kind.REQUEST, number, self.tid, setting.rows)
        self.tokens: RowFile | None = None
        if setting.tokens:
            self.tokens = RowFile(folder / f"tokens.{number}.stream", Kind.TOKEN, number, self.tid, setting.tokens)
        self.clock_file: ClockFile | None = None
        if setting.clocks is not None:
            self.clock_file = ClockFile(folder / f"clocks.{number}.stream", setting.clocks.ring or setting.rows)
        self.counters = ThreadCounters(self.tid, setting.procfs) if setting.procfs is not None else None
        self._edges = memoryview(bytearray(CLOCK_ROW_WORDS * 8)).cast("Q")
        self._views()
        self.lock()
        self.margin_ns = self._margin()

    def _margin(self) -> int:
        lead = LEAD_NS if self.counters is not None else 0
        if self.setting.margin_ns is not None:
            return self.setting.margin_ns + lead
        late = wake_overshoot(self.setting.clock, self.sleep_until, self.setting.mean_gap_ns)
        return wake_margin_ns(late, self.setting.mean_gap_ns, self.setting.alone) + lead

    def _views(self) -> None:
        self._bytes = self.rows.bytes
        self._words = self.rows.bytes.cast("q")
        self._room = self.rows.capacity
        self._snapshots = self.clock_file.snapshots() if self.clock_file is not None else None
        self._clock_rows = self.clock_file.capacity if self.clock_file is not None else 1

    def lock(self) -> None:
        """Keeps the row files in memory; what is refused becomes a caveat."""
        maps = [file.map for file in (self.rows, self.tokens) if file is not None and len(file.map) <= TOUCH_BYTES]
        refused = lock_buffers(maps)
        self.locked = not refused
        self.caveats += filter(None, [refused])

    def mark(self) -> Callable[[], None] | None:
        """What a token stream calls after each token; None where tokens are not recorded."""
        if self.tokens is None:
            return None
        add, now, cells = self.stamps.append, self.setting.clock.now, self.cpu.cells

        def mark() -> None:
            add(now())
            add(cells[1])

        return mark

    def snapshots(self) -> tuple[Snapshot, Snapshot] | None:
        """Two functions that copy this thread's state clock at the begin and the end of a request; `record` keeps both.

        The kernel may update the slot at any instruction; a copy during which it did is taken again. One that never
        comes out whole keeps an odd version, as the kernel itself marks a slot under change.
        """
        clocks = self.setting.clocks
        slot = clocks.slot_of(self.tid) if clocks is not None else None
        if clocks is None or slot is None:
            return None
        mine = clocks.array.cast("B").cast("Q")[slot * CLOCK_WORDS : (slot + 1) * CLOCK_WORDS]
        return _copier(mine, self._edges[:CLOCK_WORDS]), _copier(mine, self._edges[CLOCK_WORDS:])

    def record(
        self, phase: Phase, seq: int, intended: int, start: int, end: int, cpu_start: int, cpu_end: int, status: int
    ) -> None:
        """Writes the row of one request, its tokens and counters. Outside any timed window."""
        if self.counters is not None:
            self.counters.after(seq, phase, start, end)
        shape_of = self.setting.shape_of
        shape = shape_of(seq) if shape_of is not None and phase != Phase.FLOOR else 0
        state = status | phase << 8
        file = self.rows
        row = file.rows
        at = ROW_PAGE + row * ROW_BYTES
        cpus = (cpu_start & 0xFFFF) | (cpu_end & 0xFFFF) << 16
        _PACK(self._bytes, at, intended, start, 0, cpus, state, shape, seq, -1)
        if self._snapshots is not None:
            place = row % self._clock_rows * CLOCK_ROW_WORDS
            self._snapshots[place : place + CLOCK_ROW_WORDS] = self._edges
        # Last: until END is there, the row does not count.
        self._words[(at >> 3) + WORD_END] = end
        file.rows = row = row + 1
        if self.stamps:
            self._record_tokens(seq, start, cpu_start, state, shape)
        if row == self._room:
            self.make_room(2 * row)
        if self.setting.gc.pending >= _GC_BATCH:
            self.setting.gc.flush()

    def _record_tokens(self, parent: int, start: int, cpu: int, state: int, shape: int) -> None:
        stamps, file = self.stamps, self.tokens
        assert file is not None
        needed = file.rows + len(stamps) // 2
        if needed > file.capacity and not self._grow(file, max(needed, 2 * file.capacity)):
            stamps.clear()
            return
        view, words, row = file.bytes, file.bytes.cast("q"), file.rows
        pairs = iter(stamps)
        for index, (end, cpu_end) in enumerate(zip(pairs, pairs, strict=True)):
            at = ROW_PAGE + row * ROW_BYTES
            cpus = (cpu & 0xFFFF) | (cpu_end & 0xFFFF) << 16
            _PACK(view, at, start, start, 0, cpus, state, shape, index, parent)
            words[row * ROW_WORDS + ROW_PAGE // 8 + WORD_END] = end
            start, cpu = end, cpu_end
            row += 1
        words.release()
        file.rows = row
        stamps.clear()

    def make_room(self, rows: int) -> None:
        """Room for `rows` requests; where the disk is full the measurement ends early and says so."""
        self._words.release()
        if self._snapshots is not None:
            self._snapshots.release()
        ring = self.setting.clocks is not None and self.setting.clocks.ring
        if self.clock_file is not None and not ring and not self._grow(self.clock_file, rows):
            rows = self.rows.capacity
        self._grow(self.rows, rows)
        self._views()

    def _grow(self, file: RowFile | ClockFile, capacity: int) -> bool:
        try:
            file.grow(capacity)
        except JitterprofError as error:
            self.setting.stop.request(error.message)
            return False
        return True

    def failed(self, error: Exception, at: int) -> None:
        """Counts a request that raised. When everything so far raised, going on would measure nothing."""
        seen = self.failures
        if not seen.count:
            seen.first, seen.first_ns = f"{type(error).__name__}: {error}".strip(), at
        seen.count += 1
        if seen.count == self.rows.rows - self.floor_rows + 1 >= self.setting.abort_after:
            self.setting.stop.request(f"the first {seen.count} requests failed: {seen.first}")

    def idle(self) -> None:
        """Housekeeping while there is nothing to serve."""
        if self.setting.gc.pending:
            self.setting.gc.flush()
        if self.counters is not None:
            self.counters.flush()

    def close(self) -> None:
        """Flushes and cuts the files to size."""
        if self.counters is not None:
            self.counters.close()
            self.caveats += filter(None, [self.counters.caveat])
        self._words.release()
        if self._snapshots is not None:
            self._snapshots.release()
        if self.clock_file is not None:
            self.clock_file.close(min(self.rows.rows, self.clock_file.capacity))
        self.rows.finish()
        if self.tokens is not None:
            self.tokens.finish()
