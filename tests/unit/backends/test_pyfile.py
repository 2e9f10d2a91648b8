"""Workload files that are wrong, and what the user reads."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from jitterprof.backends.catalog import BACKENDS, availability, open_model
from jitterprof.backends.packages import packaged_file
from jitterprof.backends.pyfile import build
from jitterprof.backends.settings import InputShape, Settings
from jitterprof.errors import BackendUnavailable, JitterprofError, SpecError


@dataclass(frozen=True)
class File:
    path: Path
    function: str = "build"
    kind: str = "python"

    @property
    def name(self) -> str:
        return self.path.name


def written(folder: Path, text: str) -> File:
    path = folder / "my.py"
    path.write_text(text)
    return File(path)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("def other(): pass\nclass Model: pass\n", "has no function 'build'", "it has: Model, other"),
        ("build = 3\n", "'build' in", "define: def build()"),
        ("def build(:\n", "the top level of", "my.py:1"),
        ("x = 1\n\ny = x / 0\ndef build(): pass\n", "ZeroDivisionError: division by zero", "my.py:3"),
        ("def build():\n    raise ValueError('bad\\nluck')\n", "build() of", "my.py:2"),
        ("def build():\n    raise ValueError('bad\\nluck')\n", "ValueError: bad luck", "my.py:2"),
        ("def build(path): pass\n", "missing 1 required positional argument: 'path'", "my.py"),
        ("raise SystemExit(3)\n", "SystemExit: 3", "my.py:1"),
        ("import no_such_module\n", "No module named 'no_such_module'", "install the module"),
        ("from math import nothing\n", "cannot import name 'nothing'", "correct the import"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(written(tmp_path, text))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_file_may_import_its_neighbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "neighbour_of_my.py").write_text("def answer(): return 42\n")
    found = build(written(tmp_path, "import neighbour_of_my\ndef build(): return neighbour_of_my.answer\n"))
    assert callable(found) and found() == 42


@pytest.mark.parametrize("module", ["torch", "onnxruntime", "onnx"])
@pytest.mark.parametrize("place", ["import {0}\ndef build(): pass\n", "def build():\n    import {0}\n"])
def test_a_package_of_ours_that_is_missing_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, place: str
) -> None:
    # What the import system itself does for a module that is None; the name is lost, so the finder says it.
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(module), *sys.meta_path])
    with pytest.raises(BackendUnavailable) as caught:
        build(written(tmp_path, place.format(module)))
    assert caught.value.message == f"the Python package '{module}' is not installed"
    assert caught.value.hint == f"pip install 'jitterprof[{module}]'"


class Absent:
    """A finder that has lost one package."""

    def __init__(self, module: str) -> None:
        self.module = module

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self.module:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


@pytest.mark.parametrize(("backend", "module"), [("onnxruntime", "onnxruntime"), ("torch", "torch")])
def test_a_runtime_that_is_missing_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, module: str
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(module), *sys.meta_path])
    kind = {"onnxruntime": "onnx", "torch": "torch"}[backend]
    with pytest.raises(BackendUnavailable) as caught:
        open_model(File(tmp_path / "x", kind=kind), backend)
    assert caught.value.hint == f"pip install 'jitterprof[{module}]'"


def test_a_wheel_that_is_missing_or_changed() -> None:
    with pytest.raises(BackendUnavailable, match="'silero_vad_gone' is not installed"):
        packaged_file("silero_vad_gone", "model.onnx")
    with pytest.raises(BackendUnavailable, match="has no file data"):
        packaged_file("onnxruntime", "data/gone.onnx")


COUNT = "def build():\n    return lambda index: index\n"
VARIANT = "from jitterprof.backends.base import Variants\ndef build():\n    return Variants({})\n"


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (COUNT, {"backend": "tensorrt"}, "no backend 'tensorrt'"),
        (COUNT, {"device": "tpu"}, "no device 'tpu'"),
        (COUNT, {"threads": 0}, "at least 1 thread"),
        (COUNT, {"device": "cuda"}, "--device cuda says nothing to the callable"),
        (COUNT, {"settings": Settings(dims=(("batch", 2),))}, "--dim is for .onnx files"),
        (COUNT, {"settings": Settings(input_shapes=(InputShape((1,)),))}, "--input-shape is for torch files"),
        (VARIANT.format(""), {}, "without a single variant"),
        (VARIANT.format("torch=lambda: None"), {"backend": "onnxruntime"}, "has no onnxruntime variant"),
        (VARIANT.format("torch=lambda: 1 / 0"), {}, "the torch variant of"),
        (VARIANT.format("onnxruntime=lambda: None"), {}, "onnxruntime cannot run a NoneType"),
    ],
)
def test_combinations_that_make_no_sense(tmp_path: Path, text: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(JitterprofError) as caught:
        open_model(written(tmp_path, text), **arguments)  # type: ignore[arg-type]
    assert message in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("kind", "backend", "use"), [("onnx", "torch", "onnxruntime"), ("torch", "onnxruntime", "torch")]
)
def test_a_model_file_on_the_wrong_backend(tmp_path: Path, kind: str, backend: str, use: str) -> None:
    with pytest.raises(SpecError) as caught:
        open_model(File(tmp_path / "x", kind=kind), backend)
    assert caught.value.hint == f"use --backend {use}"


def test_a_callable_runs_whatever_the_backend_and_null_loads_nothing(tmp_path: Path) -> None:
    model = open_model(written(tmp_path, COUNT), "onnxruntime")
    assert model.runtime["backend"] == "callable"
    assert model.stream(0).outputs(7) == (7,)
    assert open_model(written(tmp_path, "raise ValueError"), "null").runtime["backend"] == "null"


def test_every_backend_says_on_which_devices_it_runs() -> None:
    rows = availability()
    assert {(row.backend, row.device) for row in rows} == {
        (name, device) for name, backend in BACKENDS.items() for device in backend.devices
    }
    for row in rows:
        assert row.detail and (row.available or row.fix), row


def test_what_is_not_installed_is_a_row_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent("torch"), *sys.meta_path])
    (row,) = [row for row in availability() if (row.backend, row.device) == ("torch", "cpu")]
    assert (row.available, row.fix) == (False, "pip install 'jitterprof[torch]'")
