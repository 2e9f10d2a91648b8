"""onnxruntime on files of users: signatures, axes, refusals; and the providers that this machine lacks, by a double."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from jitterprof.backends.catalog import open_model  # noqa: E402
from jitterprof.backends.graph import Graph  # noqa: E402
from jitterprof.backends.settings import InputShape, Settings  # noqa: E402
from jitterprof.errors import BackendUnavailable, SpecError  # noqa: E402
from jitterprof.load.workload import resolve  # noqa: E402


def saved(folder: Path, graph: Graph) -> str:
    path = folder / "model.onnx"
    path.write_bytes(graph.serialise())
    return str(path)


def doubling(folder: Path, shape: tuple[int | str, ...], dtype: str = "float32") -> str:
    graph = Graph("double")
    x = graph.input("x", dtype, shape)
    graph.output("y", graph.op("Add", x, x), dtype, shape)
    return saved(folder, graph)


def matmul(folder: Path) -> str:
    """Runs for width 8 alone."""
    graph = Graph("matmul")
    x = graph.input("x", "float32", ("batch", "width"))
    graph.output("y", graph.op("MatMul", x, graph.weight(np.ones((8, 2), np.float32))), "float32", ("batch", 2))
    return saved(folder, graph)


def opened(workload: str, **settings: Any) -> Any:
    return open_model(resolve(workload), "onnxruntime", settings=Settings(**settings))


def test_a_fixed_graph_runs_on_synthesised_inputs(tmp_path: Path) -> None:
    model = opened(doubling(tmp_path, (2, 3)), seed=5)
    assert model.shapes == ("2x3",)
    (found,) = model.stream(0).outputs(0)
    expected = np.random.default_rng(5).standard_normal((2, 3)).astype(np.float32) * 2
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "int64"])
def test_the_types_of_a_signature(tmp_path: Path, dtype: str) -> None:
    (found,) = opened(doubling(tmp_path, (4,), dtype)).stream(0).outputs(0)
    assert (found.dtype.name, found.shape) == (dtype, (4,))


def test_dynamic_axes_by_option(tmp_path: Path) -> None:
    path = matmul(tmp_path)
    assert opened(path, dims=(("width", 8),)).shapes == ("1x8",)
    model = opened(path, dims=(("width", 8), ("batch", 3)))
    assert model.shapes == ("3x8",)
    assert model.stream(0).outputs(0)[0].shape == (3, 2)


def test_a_missing_axis_and_a_wrong_one_name_the_option(tmp_path: Path) -> None:
    path = matmul(tmp_path)
    with pytest.raises(SpecError) as caught:
        opened(path)
    assert caught.value.hint == "choose one: --dim width=N"
    with pytest.raises(SpecError) as caught:
        opened(path, dims=(("width", 9),))
    assert "does not run on inputs 1x9" in caught.value.message and "\n" not in caught.value.message
    assert "batch, width" in caught.value.hint and "--dim NAME=N" in caught.value.hint


def test_outputs_whose_shape_depends_on_the_data(tmp_path: Path) -> None:
    graph = Graph("nonzero")
    x = graph.input("x", "float32", (64,))
    positive = graph.op("Relu", x)
    graph.output("where", graph.op("NonZero", positive), "int64", (1, "found"))
    model = opened(saved(tmp_path, graph), seed=1)
    stream = model.stream(0)
    assert len({stream.outputs(index)[0].shape for index in range(8)}) > 1


def test_a_scalar_and_a_mask(tmp_path: Path) -> None:
    graph = Graph("masked")
    tokens, mask = graph.input("ids", "int64", ("batch", 4)), graph.input("attention_mask", "int64", ("batch", 4))
    rate = graph.input("rate", "int64", ())
    graph.output("y", graph.op("Add", graph.op("Mul", tokens, mask), rate), "int64", ("batch", 4))
    model = opened(saved(tmp_path, graph))
    assert model.shapes == ("1x4,1x4",)
    assert model.stream(0).outputs(0)[0].shape == (1, 4)


@pytest.mark.parametrize("content", [b"not a model", b"\x08\x09"])
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        opened(str(path))
    assert caught.value.message.startswith(f"onnxruntime cannot load {path}: ")
    assert "\n" not in caught.value.message and caught.value.hint


def test_strings_cannot_be_synthesised(tmp_path: Path) -> None:
    graph = Graph("strings")
    text = graph.input("text", "object", (1,))
    graph.output("same", text, "object", (1,))
    with pytest.raises(SpecError, match="'text' of model") as caught:
        opened(saved(tmp_path, graph))
    assert "my.py:build" in caught.value.hint


def test_input_shapes_are_for_torch(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        opened(doubling(tmp_path, (2, 3)), input_shapes=(InputShape((2, 3)),))
    assert "--dim NAME=N" in caught.value.hint


def test_workload_files_and_their_graph_must_agree(tmp_path: Path) -> None:
    doubling(tmp_path, (2, 3))
    path = tmp_path / "my.py"
    path.write_text(
        "from pathlib import Path\nimport numpy as np\nfrom jitterprof.backends.base import OnnxModel\n"
        "here = Path(__file__).parent\n"
        "def named(): return OnnxModel(here / 'model.onnx', lambda rng: [{'z': np.zeros((2, 3), np.float32)}])\n"
        "def shaped(): return OnnxModel(here / 'model.onnx', lambda rng: [{'x': np.zeros((9, 3), np.float32)}])\n"
        "def good(): return OnnxModel(here / 'model.onnx', lambda rng: [{'x': np.ones((2, 3), np.float32)}])\n"
    )
    with pytest.raises(SpecError, match=r"gives inputs \['z'\], its graph takes \['x'\]"):
        opened(f"{path}:named")
    with pytest.raises(SpecError, match=r"does not run on inputs 9x3: .*[Ii]nvalid dimensions"):
        opened(f"{path}:shaped")
    assert (opened(f"{path}:good").stream(0).outputs(0)[0] == 2).all()


def test_telemetry_is_off_and_threads_are_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    said: list[str] = []
    monkeypatch.setattr(ort, "disable_telemetry_events", lambda: said.append("off"))
    sessions = spy_on_sessions(monkeypatch)
    model = open_model(resolve(doubling(tmp_path, (2, 3))), "onnxruntime", threads=2, settings=Settings(spinning=False))
    assert said == ["off"] and os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    options = sessions[0].options
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (model.runtime["threads"], model.runtime["spinning"]) == ("2", "off")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")


def test_a_request_does_not_allocate_its_outputs(tmp_path: Path) -> None:
    stream = opened(doubling(tmp_path, (2, 3))).stream(0)
    bindings = dict(zip(stream.infer.__code__.co_freevars, stream.infer.__closure__, strict=True))["bindings"]
    before = bindings.cell_contents[0].get_outputs()[0].data_ptr()
    for index in range(32):
        stream.infer(index)
    assert bindings.cell_contents[0].get_outputs()[0].data_ptr() == before


@dataclass
class Opened:
    providers: list[str]
    options: Any


def spy_on_sessions(monkeypatch: pytest.MonkeyPatch, starts: bool = True) -> list[Opened]:
    """Real sessions on the CPU that claim the provider they were asked for."""
    opened: list[Opened] = []
    real = ort.InferenceSession

    def session(graph: Any, options: Any, providers: list[str]) -> Any:
        opened.append(Opened(providers, options))
        made = real(graph, options, providers=["CPUExecutionProvider"])
        if starts:
            made.get_providers = lambda: providers
        return made

    monkeypatch.setattr(ort, "InferenceSession", session)
    return opened


@pytest.mark.parametrize(
    ("device", "provider", "place"),
    [
        ("cuda", "CUDAExecutionProvider", ("cuda", 0)),
        ("rocm", "ROCMExecutionProvider", ("gpu", 0, 0x1002)),
        ("rocm", "MIGraphXExecutionProvider", ("gpu", 0, 0x1002)),
    ],
)
@pytest.mark.parametrize("workload", ["mlp", "decoder"])
def test_accelerators_bind_everything_on_the_device(
    monkeypatch: pytest.MonkeyPatch, device: str, provider: str, place: tuple[object, ...], workload: str
) -> None:
    # The double stands where onnxruntime meets the device: its list of providers, and where it allocates.
    monkeypatch.setattr(ort, "get_available_providers", lambda: [provider, "CPUExecutionProvider"])
    sessions = spy_on_sessions(monkeypatch)
    places: list[tuple[object, ...]] = []
    real = ort.OrtValue.ortvalue_from_shape_and_type

    def allocate(shape: list[int], dtype: object, *where: object) -> Any:
        places.append(where)
        return real(shape, dtype, "cpu", 0)

    monkeypatch.setattr(ort, "OrtValue", SimpleNamespace(ortvalue_from_shape_and_type=allocate))
    expected = open_model(resolve(workload), "torch").stream(0).outputs(0)[0] if workload == "decoder" else None
    model = open_model(resolve(workload), "onnxruntime", device=device)
    assert sessions[0].providers == [provider, "CPUExecutionProvider"]
    assert model.runtime["provider"] == provider
    (found,) = model.stream(0).outputs(0)
    assert set(places) == {place}
    if expected is not None:
        np.testing.assert_array_equal(found, expected)


def test_old_runtimes_call_any_gpu_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["ROCMExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.delattr(ort, "OrtDeviceVendorId", raising=False)
    spy_on_sessions(monkeypatch)
    places: list[tuple[object, ...]] = []
    real = ort.OrtValue.ortvalue_from_shape_and_type

    def allocate(shape: list[int], dtype: object, *where: object) -> Any:
        places.append(where)
        return real(shape, dtype, "cpu", 0)

    monkeypatch.setattr(ort, "OrtValue", SimpleNamespace(ortvalue_from_shape_and_type=allocate))
    open_model(resolve("mlp"), "onnxruntime", device="rocm").stream(0).infer(0)
    assert set(places) == {("cuda", 0)}


@pytest.mark.parametrize(("device", "package"), [("cuda", "onnxruntime-gpu"), ("rocm", "onnxruntime-migraphx")])
def test_a_provider_that_is_not_there(monkeypatch: pytest.MonkeyPatch, device: str, package: str) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["AzureExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable) as caught:
        open_model(resolve("mlp"), "onnxruntime", device=device)
    assert caught.value.message == (
        f"this onnxruntime has no provider for {device}; it has AzureExecutionProvider, CPUExecutionProvider"
    )
    assert package in caught.value.hint


def test_a_provider_that_does_not_start_is_not_measured_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    spy_on_sessions(monkeypatch, starts=False)
    with pytest.raises(BackendUnavailable, match="CUDAExecutionProvider is installed but did not start"):
        open_model(resolve("mlp"), "onnxruntime", device="cuda")
