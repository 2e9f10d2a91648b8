"""Inputs made from a seed: for graphs that say what they take, and for shapes given on the command line."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitterprof.backends.attempt import attempt
from jitterprof.backends.base import POOL, Feed
from jitterprof.backends.settings import InputShape
from jitterprof.errors import SpecError

#: Names that exporters give to the leading axis.
_BATCH = re.compile(r"n|b|bs|batch|batch_?size|.*batch.*", re.IGNORECASE)
#: Exclusive upper bound of synthesised integers: small enough for any vocabulary or class list.
_INTEGERS_BELOW = 10


@dataclass(frozen=True, slots=True)
class Slot:
    """One input of a graph. An axis is a size, the name of a dynamic axis, or None: dynamic without a name."""

    name: str
    dtype: str
    axes: tuple[int | str | None, ...]


def settle_axes(slots: Sequence[Slot], dims: Iterable[tuple[str, int]]) -> tuple[tuple[int, ...], ...]:
    """The size of every axis: as the graph says, else by `--dim NAME=N` or `--dim INPUT.AXIS=N`, else 1 for a batch.

    Raises SpecError for an axis that nothing decides, and for a dim that the graph does not have.
    """
    wanted = dict(dims)
    known = [label for slot in slots for axis in range(len(slot.axes)) if (label := _label(slot, axis))]
    unknown = sorted(name for name in wanted if name not in known and not _addresses(slots, name))
    if unknown:
        names = ", ".join(dict.fromkeys(known)) or "none"
        raise SpecError(f"the model has no dynamic axis '{unknown[0]}'", f"its dynamic axes: {names}")
    return tuple(tuple(_size(slot, axis, wanted) for axis in range(len(slot.axes))) for slot in slots)


def synthesise(slots: Sequence[Slot], shapes: Sequence[tuple[int, ...]], rng: np.random.Generator) -> list[Feed]:
    """A pool of inputs: floats are standard normal, integers small, masks all ones, segment ids all zeros."""
    return [
        {slot.name: _array(slot.name, slot.dtype, shape, rng) for slot, shape in zip(slots, shapes, strict=True)}
        for _ in range(POOL)
    ]


def from_shapes(shapes: Sequence[InputShape], rng: np.random.Generator) -> list[Feed]:
    """A pool of inputs of the given shapes, for files that do not say what they take."""
    slots = [Slot(f"input{position}", each.dtype, each.shape) for position, each in enumerate(shapes)]
    return synthesise(slots, [each.shape for each in shapes], rng)


def make_feeds(make: Callable[[np.random.Generator], Sequence[Feed]], rng: np.random.Generator) -> Sequence[Feed]:
    """The pool of a workload. Raises SpecError when its function fails or returns something else."""
    feeds = attempt(lambda: make(rng), "the function that makes the inputs failed", "correct it in the workload file")
    if not isinstance(feeds, Sequence) or not feeds or not all(isinstance(feed, Mapping) for feed in feeds):
        raise SpecError("the function that makes the inputs returned no list of dicts", 'e.g. [{"x": array}, ...]')
    if any(list(feed) != list(feeds[0]) for feed in feeds):
        raise SpecError("the inputs of the workload do not all have the same names in the same order")
    return feeds


def label(feed: Feed) -> str:
    """How reports call the shape of an input: "1x576", several tensors joined by a comma."""
    parts = ["x".join(map(str, np.shape(value))) for value in feed.values() if np.shape(value)]
    return ",".join(parts) or "scalar"


def shapes_of(feeds: Sequence[Feed]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The distinct labels of a pool in order of appearance, and the position of each feed's label among them."""
    labels = [label(feed) for feed in feeds]
    distinct = tuple(dict.fromkeys(labels))
    return distinct, tuple(distinct.index(each) for each in labels)


def _label(slot: Slot, axis: int) -> str:
    value = slot.axes[axis]
    if isinstance(value, int):
        return ""
    return value or f"{slot.name}.{axis}"


def _addresses(slots: Sequence[Slot], name: str) -> bool:
    """`INPUT.AXIS` names one dynamic axis whatever the graph calls it."""
    return any(
        name == f"{slot.name}.{axis}" and not isinstance(value, int)
        for slot in slots
        for axis, value in enumerate(slot.axes)
    )


def _size(slot: Slot, axis: int, wanted: dict[str, int]) -> int:
    value = slot.axes[axis]
    if isinstance(value, int):
        return value
    name = _label(slot, axis)
    given = wanted.get(f"{slot.name}.{axis}", wanted.get(name))
    if given is not None:
        return given
    if axis == 0 or (value is not None and _BATCH.fullmatch(value)):
        return 1
    raise SpecError(
        f"axis {axis} of input '{slot.name}' has no fixed size" + (f" ('{value}')" if value else ""),
        f"choose one: --dim {name}=N",
    )


def _array(name: str, dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[Any]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.standard_normal(shape).astype(kind)
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(kind)
    if "mask" in name.lower():
        return np.ones(shape, kind)
    if "type" in name.lower() or "segment" in name.lower():
        return np.zeros(shape, kind)
    return rng.integers(0, _INTEGERS_BELOW, shape).astype(kind)
