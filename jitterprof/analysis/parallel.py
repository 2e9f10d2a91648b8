"""Work on parts of a session on all CPUs: numpy lets go of the interpreter while it works on columns."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from jitterprof.analysis.memory import keep_freed

T = TypeVar("T")
R = TypeVar("R")


def on_all_cpus(work: Callable[[T], R], parts: Iterable[T]) -> list[R]:
    """What `work` makes of each part, in their order. The first exception is raised."""
    return list(one_by_one(work, parts))


def one_by_one(work: Callable[[T], R], parts: Iterable[T]) -> Iterator[R]:
    """The same, each as soon as it and those before it are done: what the caller has no more use for is let go."""
    keep_freed()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield from pool.map(work, parts)


def slices(count: int, size: int) -> list[slice]:
    """`count` rows in parts of `size`."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]
