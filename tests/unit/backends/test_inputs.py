"""Inputs from a signature and a seed."""

import numpy as np
import pytest

from jitterprof.backends.base import POOL
from jitterprof.backends.inputs import Slot, from_shapes, label, make_feeds, settle_axes, shapes_of, synthesise
from jitterprof.backends.settings import InputShape
from jitterprof.errors import SpecError

IMAGE = Slot("image", "float32", (None, 3, "height", "width"))


def test_a_batch_defaults_to_one_and_named_axes_come_from_dims() -> None:
    assert settle_axes([IMAGE], [("height", 48), ("width", 192)]) == ((1, 3, 48, 192),)
    assert settle_axes([Slot("x", "float32", (2, "batch_size", 8))], []) == ((2, 1, 8),)


def test_an_axis_can_be_named_by_input_and_position() -> None:
    assert settle_axes([IMAGE], [("image.0", 4), ("image.2", 8), ("width", 9)]) == ((4, 3, 8, 9),)


def test_one_name_sizes_every_input_that_has_it() -> None:
    slots = [Slot("ids", "int64", ("batch", "seq")), Slot("mask", "int64", ("batch", "seq"))]
    assert settle_axes(slots, [("batch", 2), ("seq", 16)]) == ((2, 16), (2, 16))


def test_an_axis_that_nothing_decides_names_its_option() -> None:
    with pytest.raises(SpecError) as caught:
        settle_axes([IMAGE], [("width", 192)])
    assert caught.value.message == "axis 2 of input 'image' has no fixed size ('height')"
    assert caught.value.hint == "choose one: --dim height=N"
    with pytest.raises(SpecError) as caught:
        settle_axes([Slot("x", "float32", (1, None))], [])
    assert caught.value.hint == "choose one: --dim x.1=N"


@pytest.mark.parametrize("name", ["heigth", "image.1", "image.9", "other.0"])
def test_a_dim_that_the_graph_lacks_lists_those_it_has(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        settle_axes([IMAGE], [(name, 4), ("height", 1), ("width", 1)])
    assert caught.value.message == f"the model has no dynamic axis '{name}'"
    assert caught.value.hint == "its dynamic axes: image.0, height, width"


def test_a_pool_has_the_asked_shapes_and_types_and_valid_values() -> None:
    slots = [
        Slot("x", "float16", (1, 8)),
        Slot("input_ids", "int64", (1, 64)),
        Slot("attention_mask", "int64", (1, 64)),
        Slot("token_type_ids", "int32", (1, 64)),
        Slot("flag", "bool", ()),
    ]
    pool = synthesise(slots, [slot.axes for slot in slots], np.random.default_rng(3))  # type: ignore[misc]
    assert len(pool) == POOL
    for feed in pool:
        assert [(value.dtype.name, value.shape) for value in feed.values()] == [(s.dtype, s.axes) for s in slots]
        assert feed["input_ids"].min() >= 0 and feed["input_ids"].max() < 10
        assert (feed["attention_mask"] == 1).all() and (feed["token_type_ids"] == 0).all()
    assert not np.array_equal(pool[0]["x"], pool[1]["x"])


def test_a_pool_follows_from_its_seed() -> None:
    shapes = [InputShape((2, 3)), InputShape((4,), "int64")]
    same, again, other = (from_shapes(shapes, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for left, right in zip(same, again, strict=True):
        assert all(np.array_equal(left[name], right[name]) for name in left)
    assert not np.array_equal(same[0]["input0"], other[0]["input0"])


def test_labels_name_tensors_and_leave_out_scalars() -> None:
    assert label({"x": np.zeros((1, 576)), "state": np.zeros((2, 1, 128)), "sr": np.array(16_000)}) == "1x576,2x1x128"
    assert label({"rate": 5}) == "scalar"
    feeds = [{"x": np.zeros((1, size))} for size in (16, 64, 16, 128)]
    assert shapes_of(feeds) == (("1x16", "1x64", "1x128"), (0, 1, 0, 2))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "returned no list of dicts"),
        (None, "returned no list of dicts"),
        ([np.zeros(3)], "returned no list of dicts"),
        ([{"x": 1}, {"y": 1}], "do not all have the same names"),
    ],
)
def test_a_workload_that_makes_no_inputs(made: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_feeds(lambda rng: made, np.random.default_rng(0))  # type: ignore[arg-type, return-value]


def test_a_workload_whose_inputs_fail() -> None:
    with pytest.raises(SpecError, match="makes the inputs failed: division by zero"):
        make_feeds(lambda rng: [{"x": 1 / 0}], np.random.default_rng(0))
