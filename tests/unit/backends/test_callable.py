"""Python callables as models."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jitterprof.backends.callable import open_callable
from jitterprof.backends.null import open_null
from jitterprof.errors import SpecError


def test_a_callable_without_arguments_is_called_once_a_request() -> None:
    calls: list[str] = []
    model = open_callable(lambda: calls.append("called"))
    stream = model.stream(0)
    stream.infer(5)
    stream.infer(6)
    assert calls == ["called", "called"]
    assert (model.shapes, model.shape(9), model.emits_tokens) == (("any",), 0, False)


def test_a_callable_with_an_argument_gets_the_index() -> None:
    calls: list[int] = []
    open_callable(calls.append).stream(0).infer(41)
    assert calls == [41]
    assert open_callable(lambda index: index * 2).stream(0).outputs(21) == (42,)


def test_a_default_is_not_taken_for_the_index_unless_it_is_called_so() -> None:
    assert open_callable(lambda size=8: size).stream(0).outputs(3) == (8,)
    assert open_callable(lambda index=8: index).stream(0).outputs(3) == (3,)


def test_an_object_with_infer_and_shapes() -> None:
    class Served:
        shapes = ("short", "long")

        def __init__(self) -> None:
            self.seen: list[int] = []
            self.closed = False

        def shape(self, index: int) -> int:
            return index % 2

        def infer(self, index: int) -> None:
            self.seen.append(index)

        def close(self) -> None:
            self.closed = True

    served = Served()
    model = open_callable(served)
    model.stream(0).infer(3)
    model.close()
    assert (served.seen, served.closed) == ([3], True)
    assert [model.shape(index) for index in range(4)] == [0, 1, 0, 1]


def test_an_object_that_marks_tokens() -> None:
    class Tokens:
        max_tokens = 3

        def infer(self, index: int, mark: Callable[[], None]) -> None:
            for _ in range(self.max_tokens):
                mark()

    model = open_callable(Tokens())
    marks: list[int] = []
    model.stream(0).infer(0, lambda: marks.append(1))
    assert (model.emits_tokens, model.max_tokens, len(marks)) == (True, 3, 3)


def test_each_worker_gets_a_stream_of_its_own() -> None:
    class Connection:
        def __init__(self, worker: int) -> None:
            self.worker = worker

        def infer(self, index: int) -> tuple[int, int]:
            return self.worker, index

    class Pool:
        stream = Connection

        def infer(self, index: int) -> None:
            raise AssertionError("the streams serve the requests")

    model = open_callable(Pool())
    assert model.stream(4).outputs(2)[0].tolist() == [4, 2]
    assert model.stream(5).outputs(2)[0].tolist() == [5, 2]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "build() returned nothing, which cannot be called"),
        (3, "build() returned a int, which cannot be called"),
        (np.ndarray, "build() returned the class ndarray itself"),
        (lambda a, b: None, "needs 2 arguments"),
        (type("Bad", (), {"infer": 3})(), "is not a method"),
        (
            type("Bad", (), {"infer": lambda self, a, b, c: None})(),
            "infer() of the object that build() returned needs 3",
        ),
        (type("Bad", (), {"infer": math.sqrt, "shapes": (1, 2)})(), "not a tuple of labels"),
        (type("Bad", (), {"infer": math.sqrt, "shapes": ("a", "b")})(), "but no shape(index)"),
    ],
)
def test_what_cannot_be_served_is_refused(made: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        open_callable(made)
    assert message in caught.value.message


def test_null_does_nothing_and_can_mark_tokens() -> None:
    model = open_null()
    stream = model.stream(0)
    stream.infer(1)
    assert (stream.outputs(1), model.emits_tokens, model.shapes) == ((), False, ("none",))
    tokens = open_null(tokens=5)
    marks: list[int] = []
    tokens.stream(0).infer(0, lambda: marks.append(1))
    assert (tokens.emits_tokens, tokens.max_tokens, len(marks)) == (True, 5, 5)
