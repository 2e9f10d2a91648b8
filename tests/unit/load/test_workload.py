"""What a WORKLOAD argument stands for."""

from pathlib import Path

import pytest

from jitterprof.errors import SpecError
from jitterprof.load.workload import reference_names, resolve


def test_every_reference_model_is_found_under_its_own_name() -> None:
    names = reference_names()
    assert {"mlp", "convnet", "transformer", "decoder", "silero-vad", "textline-cls", "minilm"} <= set(names)
    for name in names:
        found = resolve(name)
        assert (found.name, found.kind, found.function, found.reference) == (name, "python", "build", True)
        assert found.path.is_file()


def test_dashes_and_underscores_name_the_same_model() -> None:
    assert resolve("silero_vad") == resolve("silero-vad")


@pytest.mark.parametrize(
    ("file", "kind"),
    [("a.onnx", "onnx"), ("A.ONNX", "onnx"), ("a.pt", "torch"), ("a.ts", "torch"), ("a.pt2", "torch")],
)
def test_model_files_are_told_by_their_ending(tmp_path: Path, file: str, kind: str) -> None:
    path = tmp_path / file
    path.write_bytes(b"x")
    found = resolve(str(path))
    assert (found.name, found.kind, found.path, found.reference) == (file, kind, path, False)


def test_a_function_of_a_python_file(tmp_path: Path) -> None:
    path = tmp_path / "my.py"
    path.write_text("def make(): pass\n")
    found = resolve(f"{path}:make")
    assert (found.name, found.kind, found.path, found.function) == ("my.py:make", "python", path, "make")


@pytest.mark.parametrize(
    ("workload", "message", "hint"),
    [
        ("resnet", "no workload 'resnet'", "known: convnet, decoder, minilm"),
        ("resnet", "no workload 'resnet'", "my.py:build"),
        ("", "no workload ''", "known:"),
        ("gone.onnx", "cannot read gone.onnx: No such file or directory", "check the path"),
        ("gone.py:build", "cannot read gone.py: No such file or directory", "check the path"),
        ("gone.py", "gone.py needs the function that builds the model", "write gone.py:build"),
        ("folder.onnx", "folder.onnx is a directory", "model.onnx"),
        ("empty.pt", "empty.pt is empty", "again"),
        ("full.py:not-a-name", "'not-a-name' is not a function name", "write full.py:build"),
    ],
)
def test_what_is_not_a_workload_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workload: str, message: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "empty.pt").touch()
    (tmp_path / "full.py").write_text("x = 1\n")
    with pytest.raises(SpecError) as caught:
        resolve(workload)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message
