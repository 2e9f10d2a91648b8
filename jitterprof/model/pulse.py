"""Known faults and the moments when they were injected: what the self-check compares a ledger with."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: One row per pulse that took place. Times are CLOCK_MONOTONIC ns. `fault` indexes `PulseLog.faults`.
#: `taken_ns`: how long the injector knows that it kept the victim off its CPU; t1 - t0 for a fault that says no better.
PULSE_DTYPE = np.dtype([("fault", "<i4"), ("t0_ns", "<i8"), ("t1_ns", "<i8"), ("taken_ns", "<i8")])


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One fault and what it must look like.

    `right`: pairs of a cause and a part of the culprit's name, any of which is right. `off_cpu`: the cause whose time
    must agree with the log, "" where the fault does not take the victim off its CPU. `ours`: parts of the names of the
    tasks that belong to the fault. `control`: nothing is wrong, and nothing but `run` may be blamed.
    """

    name: str
    summary: str
    right: tuple[tuple[str, str], ...]
    off_cpu: str = ""
    ours: tuple[str, ...] = ()
    control: bool = False

    def is_right(self, cause: str, culprit: str) -> bool:
        """Whether this blame is right for the fault."""
        return any(cause == known and part in culprit for known, part in self.right)


@dataclass(frozen=True, slots=True)
class PulseLog:
    """What was injected. `faults`: every kind there is. `pulses`: PULSE_DTYPE rows in order of `t0_ns`.

    `absent`: (name, reason) of the faults that this host does not allow.
    """

    faults: tuple[FaultKind, ...]
    pulses: npt.NDArray[np.void]
    absent: tuple[tuple[str, str], ...] = ()
