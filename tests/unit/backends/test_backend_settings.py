"""The backend's part of a spec."""

import pytest

from jitterprof.backends.settings import InputShape, Settings, parse_input_shape, parse_settings, read_settings
from jitterprof.errors import SpecError
from jitterprof.model.run import RunSpec


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("1x3x224x224", InputShape((1, 3, 224, 224), "float32")),
        ("7", InputShape((7,), "float32")),
        ("1x16:int64", InputShape((1, 16), "int64")),
        ("scalar:int64", InputShape((), "int64")),
    ],
)
def test_an_input_shape(text: str, shape: InputShape) -> None:
    assert parse_input_shape(text) == shape


@pytest.mark.parametrize("text", ["", "1x", "x3", "1,3", "1x3:complex64", "-1x3", "axb"])
def test_what_is_not_an_input_shape(text: str) -> None:
    with pytest.raises(SpecError, match="is not an input shape"):
        parse_input_shape(text)


def test_a_spec_is_read_whole_and_the_settings_of_others_are_left_alone() -> None:
    spec = RunSpec(
        workload="x.pt",
        seed=7,
        dims=(("batch", 4),),
        settings=(("runtime.spinning", "off"), ("sched.slice", "3ms"), ("input.shape", "1x3,1x4:int64")),
    )
    shapes = (InputShape((1, 3)), InputShape((1, 4), "int64"))
    assert read_settings(spec) == Settings(seed=7, dims=(("batch", 4),), input_shapes=shapes, spinning=False)


def test_settings_that_others_act_on_are_known_and_must_not_contradict() -> None:
    pairs = (("runtime.threads", "2"), ("runtime.gc", "on"), ("runtime.omp_wait_policy", "passive"))
    assert parse_settings(pairs) == Settings()
    assert parse_settings(iter([*pairs, ("runtime.spinning", "off")])).spinning is False
    with pytest.raises(SpecError, match="contradict each other"):
        parse_settings([*pairs, ("runtime.spinning", "on")])


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("runtime.spinning", "maybe"), "runtime.spinning cannot be 'maybe'"),
        (("runtime.spining", "off"), "no setting 'runtime.spining'"),
        (("input.size", "3"), "no setting 'input.size'"),
    ],
)
def test_a_setting_that_makes_no_sense(pair: tuple[str, str], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_settings([pair])
    assert caught.value.message == message
    assert "runtime.spinning" in caught.value.hint


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(SpecError, match="--dim batch=0"):
        parse_settings([], dims=(("batch", 0),))
