"""The words that an injector and a victim share: a small mmap'ed file, so that neither calls the other."""

import mmap
import os
from enum import IntEnum
from pathlib import Path

#: Names the control file to a victim (tests/truth/victims.py).
CONTROL_ENV = "JITTERPROF_TRUTH_CONTROL"

SIZE = 65536
PID, TID, REQUESTS, ACTION, PULSE = range(5)
_HEADER_WORDS = 16
_SLOT_WORDS = 2
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


class Control:
    """int64 words. The victim publishes its process, thread and number of requests; the injector asks for one action
    per pulse; the victim answers in the pulse's slot with when it began and ended that action (CLOCK_MONOTONIC ns)."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < SIZE:
                os.ftruncate(descriptor, SIZE)
            self.words = memoryview(mmap.mmap(descriptor, SIZE)).cast("q")
        finally:
            os.close(descriptor)

    def answer(self, pulse: int, t0_ns: int, t1_ns: int) -> None:
        at = _HEADER_WORDS + pulse % SLOTS * _SLOT_WORDS
        self.words[at] = t0_ns
        self.words[at + 1] = t1_ns

    def answered(self, pulse: int) -> tuple[int, int]:
        """(0, 0) until the victim has done it."""
        at = _HEADER_WORDS + pulse % SLOTS * _SLOT_WORDS
        return self.words[at], self.words[at + 1]

    def ask(self, action: Action, pulse: int) -> None:
        self.words[PULSE] = pulse
        self.words[ACTION] = action
