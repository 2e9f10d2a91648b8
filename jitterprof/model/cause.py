"""Causes: what a piece of a request's time was spent on. Ids are stable API (DESIGN section 5)."""

from enum import IntEnum


class Cause(IntEnum):
    """One cause per piece of time. The number is stored in columns, the lower-case name everywhere else."""

    RUN = 0
    HARDIRQ = 1
    TIMER = 2
    IPI = 3
    SOFTIRQ = 4
    NMI = 5
    PREEMPTED = 6
    WAKEUP = 7
    THROTTLED = 8
    PAGE_FAULT = 9
    RECLAIM = 10
    BLOCK_IO = 11
    LOCK = 12
    GC = 13
    NET = 14
    SLEEP = 15
    STOPPED = 16
    GPU = 17
    SPIN = 18
    STEAL = 19
    QUEUE = 20
    DISPATCH = 21
    UNKNOWN = 22

    @property
    def id(self) -> str:
        """The public id: `run`, `page_fault` ..."""
        return self.name.lower()


CAUSE_IDS: tuple[str, ...] = tuple(cause.id for cause in Cause)

#: A thread in one of these wants to get on with its work and is held up by something else.
HELD_UP: tuple[Cause, ...] = (
    Cause.PREEMPTED,
    Cause.WAKEUP,
    Cause.THROTTLED,
    Cause.PAGE_FAULT,
    Cause.RECLAIM,
    Cause.BLOCK_IO,
    Cause.HARDIRQ,
    Cause.TIMER,
    Cause.IPI,
    Cause.SOFTIRQ,
    Cause.NMI,
    Cause.STEAL,
    Cause.STOPPED,
)
