"""The file that injectors and victim share: when each pulse is due, and when it really was. Nobody calls anybody.

int64 words in a mmap'ed file. Everything is known beforehand but the epoch, so that no process has to be told anything
on the victim's CPU while it is disturbed.
"""

import mmap
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jitterprof.units import NS_PER_MS

#: Names the file to the victim (inject/victim.py).
TIMETABLE_ENV = "JITTERPROF_TIMETABLE"
#: Header words. PID: the victim's process, once it serves requests. EPOCH: CLOCK_MONOTONIC ns that START counts from, 0
#: until the measurement has begun. ROWS: how many follow.
PID, EPOCH, ROWS = range(3)
_HEADER_WORDS = 8
_START, _LENGTH, _FAULT, _T0, _T1, _TAKEN = range(6)
_ROW_WORDS = 8
#: A pulse that is this late (its injector was not ready, or the one before took long) does not take place.
LATE_NS = 20 * NS_PER_MS
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Slot:
    """What a pulse of one fault is asked for, and the longest that can take."""

    fault: int
    length_ns: int
    longest_ns: int


@dataclass(frozen=True, slots=True)
class Due:
    """One planned pulse: row `number` of fault `fault`, from `start_ns` after the epoch, `length_ns` long."""

    number: int
    fault: int
    start_ns: int
    length_ns: int


@dataclass(frozen=True, slots=True)
class Done:
    """One pulse that took place, CLOCK_MONOTONIC ns. `taken_ns`: 0 where the injector does not know."""

    fault: int
    t0_ns: int
    t1_ns: int
    taken_ns: int


def draw(slots: Sequence[Slot], pulses: int, gap_ns: int, seed: int) -> tuple[Due, ...]:
    """`pulses` of each fault in random order, `gap_ns` apart on average (0.5 to 1.5 of it), in order of time."""
    chance = random.Random(seed)
    order = [slot for slot in slots for _ in range(pulses)]
    chance.shuffle(order)
    table = []
    at = gap_ns
    for number, slot in enumerate(order):
        table.append(Due(number, slot.fault, at, slot.length_ns))
        at += slot.longest_ns + round(gap_ns * chance.uniform(0.5, 1.5))
    return tuple(table)


def sleep_until(target_ns: int) -> None:
    """Until CLOCK_MONOTONIC shows `target_ns`."""
    while (left := target_ns - time.monotonic_ns()) > 0:
        time.sleep(left / 1e9)


class Timetable:
    """The file, mapped. `words` may be read and written as they are where a method would cost too much."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.words = memoryview(mmap.mmap(descriptor, 0)).cast("q")
        finally:
            os.close(descriptor)

    @classmethod
    def create(cls, path: Path, table: Sequence[Due]) -> "Timetable":
        """A new file with these pulses."""
        with path.open("xb") as file:
            file.truncate((_HEADER_WORDS + _ROW_WORDS * len(table)) * 8)
        made = cls(path)
        made.words[ROWS] = len(table)
        for due in table:
            at = made._row(due.number)
            made.words[at + _START], made.words[at + _LENGTH] = due.start_ns, due.length_ns
            made.words[at + _FAULT] = due.fault
        return made

    def _row(self, number: int) -> int:
        return _HEADER_WORDS + _ROW_WORDS * number

    def due(self) -> tuple[Due, ...]:
        """Every planned pulse."""
        words = self.words
        starts = [self._row(number) for number in range(words[ROWS])]
        return tuple(
            Due(number, words[at + _FAULT], words[at + _START], words[at + _LENGTH]) for number, at in enumerate(starts)
        )

    def log(self, number: int, t0_ns: int, t1_ns: int, taken_ns: int) -> None:
        """Pulse `number` took place."""
        at = self._row(number)
        self.words[at + _T0], self.words[at + _TAKEN] = t0_ns, taken_ns
        self.words[at + _T1] = t1_ns

    def done(self) -> tuple[Done, ...]:
        """The pulses that took place, in the order of the table."""
        words = self.words
        rows = [self._row(number) for number in range(words[ROWS])]
        happened = [at for at in rows if words[at + _T1]]
        return tuple(Done(words[at + _FAULT], words[at + _T0], words[at + _T1], words[at + _TAKEN]) for at in happened)

    def wait_for(self, word: int) -> int:
        """Until the victim or the session has written this header word; returns it."""
        while not self.words[word]:
            time.sleep(_POLL_S)
        return self.words[word]
