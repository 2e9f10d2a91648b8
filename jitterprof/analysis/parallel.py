"""Work on parts of a session on all CPUs: numpy lets go of the interpreter while it works on columns."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def on_all_cpus(work: Callable[[T], R], parts: Iterable[T]) -> list[R]:
    """What `work` makes of each part, in their order. The first exception is raised."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(work, parts))
