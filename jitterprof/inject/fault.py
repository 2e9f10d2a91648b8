"""What an injector is: a context that is entered once and gives the function that injects one pulse."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from jitterprof.inject.site import Site
from jitterprof.model.pulse import FaultKind

#: pulse(stop_ns): disturb until then and undo it; returns the ns taken from the victim as far as it is known, else 0.
Pulse = Callable[[int], int]


def always(_site: Site) -> str:
    """Nothing stands in the way."""
    return ""


@dataclass(frozen=True, slots=True)
class Fault:
    """An entry of the registry. `enter(site, victim_pid)` in a process of its own; None: the victim does it itself.

    `length_ns`: of a pulse; where the victim does it itself, about how long that takes. `overrun_ns`: how much longer
    it can take. `available(site)`: why not here, "" when it is.
    """

    kind: FaultKind
    length_ns: int
    enter: Callable[[Site, int], AbstractContextManager[Pulse]] | None = None
    overrun_ns: int = 0
    available: Callable[[Site], str] = always
