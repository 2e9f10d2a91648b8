"""The words that an injector and a victim share: a small mmap'ed file, so that neither calls the other."""

import mmap
import os
from enum import IntEnum
from pathlib import Path

#: Names the control file to a victim (tests/truth/victims.py).
CONTROL_ENV = "JITTERPROF_TRUTH_CONTROL"
#: Where a victim keeps what must not disturb it: a pool's other worker, holders of locks.
OTHER_CPU_ENV = "JITTERPROF_TRUTH_OTHER_CPU"

SIZE = 65536
#: HELD is a futex: the number of the pulse (from 1) in which a holder has its lock and the victim waits for it.
PID, TID, REQUESTS, ACTION, PULSE, DOSE, HELD = range(7)
_HEADER_WORDS = 16
_SLOT_WORDS = 3
SLOTS = (SIZE // 8 - _HEADER_WORDS) // _SLOT_WORDS


class Action(IntEnum):
    """What the victim does to itself in its next request."""

    NONE = 0
    MADVISE = 1
    COLD_FILE = 2
    LOCK = 3
    WORK = 4
    GC = 5
    SLEEP = 6
    #: A lock whose holder is computing; the injector that asks for it takes the holder's CPU away.
    HELD_LOCK = 7
    #: A lock whose holder waits for another lock, whose holder sleeps.
    CHAIN = 8


class Control:
    """int64 words. The victim publishes its process, thread and number of requests; the injector asks for one action
    per pulse; the victim answers in the pulse's slot with when it began and ended that action (CLOCK_MONOTONIC ns), and
    how much CPU time its thread used between the two."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < SIZE:
                os.ftruncate(descriptor, SIZE)
            self.mapped = mmap.mmap(descriptor, SIZE)
            self.words = memoryview(self.mapped).cast("q")
        finally:
            os.close(descriptor)

    def answer(self, pulse: int, t0_ns: int, t1_ns: int, cpu_ns: int) -> None:
        at = _HEADER_WORDS + pulse % SLOTS * _SLOT_WORDS
        self.words[at] = t0_ns
        self.words[at + 2] = cpu_ns
        self.words[at + 1] = t1_ns

    def answered(self, pulse: int) -> tuple[int, int, int]:
        """t0, t1, CPU ns; t1 is 0 until the victim has done it."""
        at = _HEADER_WORDS + pulse % SLOTS * _SLOT_WORDS
        return self.words[at], self.words[at + 1], self.words[at + 2]

    def ask(self, action: Action, pulse: int, dose_ns: int = 0) -> None:
        """`dose_ns`: how long it shall take; 0: as long as the action usually does."""
        self.words[PULSE] = pulse
        self.words[DOSE] = dose_ns
        self.words[ACTION] = action
