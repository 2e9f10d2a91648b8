"""torch on files of users, its threads, and the devices that this machine lacks, by a double."""

import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jitterprof.backends.catalog import open_model  # noqa: E402
from jitterprof.backends.settings import InputShape, Settings  # noqa: E402
from jitterprof.errors import BackendUnavailable, SpecError  # noqa: E402
from jitterprof.load.workload import resolve  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def scripted(folder: Path) -> str:
    path = folder / "model.pt"
    torch.manual_seed(0)
    torch.jit.save(torch.jit.script(torch.nn.Linear(4, 2)), str(path))
    return str(path)


def opened(workload: str, **settings: Any) -> Any:
    return open_model(resolve(workload), "torch", settings=Settings(**settings))


def test_a_scripted_module_runs_on_the_shapes_given(tmp_path: Path) -> None:
    path = scripted(tmp_path)
    model = opened(path, input_shapes=(InputShape((3, 4)),), seed=9)
    assert model.shapes == ("3x4",)
    x = np.random.default_rng(9).standard_normal((3, 4)).astype(np.float32)
    expected = torch.jit.load(path)(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_array_equal(model.stream(0).outputs(0)[0], expected)


def test_a_scripted_module_without_shapes_or_with_wrong_ones(tmp_path: Path) -> None:
    path = scripted(tmp_path)
    with pytest.raises(SpecError) as caught:
        opened(path)
    assert "--input-shape 1x3x224x224" in caught.value.hint
    with pytest.raises(SpecError) as caught:
        opened(path, input_shapes=(InputShape((3, 5)),))
    assert caught.value.message.startswith("the model does not run on inputs 3x5: ")
    assert "mat1 and mat2 shapes cannot be multiplied (3x5 and 4x2)" in caught.value.message
    assert "\n" not in caught.value.message


def test_an_exported_program_brings_its_inputs(tmp_path: Path) -> None:
    class Lookup(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(100, 4)

        def forward(self, ids: Any, x: Any) -> Any:
            return self.table(ids) + x

    program = torch.export.export(Lookup(), (torch.tensor([[7, 99]]), torch.ones(1, 2, 4)))
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)
    model = opened(str(path))
    assert model.shapes == ("1x2,1x2x4",)
    stream = model.stream(0)
    assert stream.outputs(0)[0].shape == (1, 2, 4)
    assert not np.array_equal(stream.outputs(0)[0], stream.outputs(1)[0])


@pytest.mark.parametrize("ending", ["pt", "ts", "pt2"])
def test_a_file_of_another_kind_is_one_line(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"weights.{ending}"
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(SpecError) as caught:
        opened(str(path))
    assert caught.value.message.startswith(f"torch cannot load {path} as ")
    assert "\n" not in caught.value.message and "torch." in caught.value.hint


def test_a_bare_module_of_a_user(tmp_path: Path) -> None:
    path = tmp_path / "my.py"
    path.write_text("import torch\ndef build(): return torch.nn.Linear(4, 2)\n")
    with pytest.raises(SpecError, match="does not say what inputs"):
        open_model(resolve(f"{path}:build"))
    model = open_model(resolve(f"{path}:build"), settings=Settings(input_shapes=(InputShape((1, 4)),)))
    assert model.runtime["backend"] == "torch"
    assert model.stream(0).outputs(0)[0].shape == (1, 2)


def test_a_module_is_switched_to_evaluation_and_records_no_gradients(tmp_path: Path) -> None:
    path = tmp_path / "my.py"
    path.write_text(
        textwrap.dedent("""
        import torch
        from jitterprof.backends.base import TorchModel
        class Probe(torch.nn.Module):
            def forward(self, x):
                return torch.tensor([self.training, torch.is_inference_mode_enabled(), torch.is_grad_enabled()])
        def build(): return TorchModel(Probe(), lambda rng: [{"x": rng.standard_normal((1, 4))}])
        """)
    )
    found = open_model(resolve(f"{path}:build")).stream(0).outputs(0)[0]
    assert found.tolist() == [False, True, False]
    assert not torch.is_inference_mode_enabled()


def in_a_process_of_its_own(script: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


PRODUCT = """
import torch
from jitterprof.backends.base import TorchModel
class Product(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1024, 1024))
    def forward(self, x):
        return torch.mm(x, self.w)
def build(): return TorchModel(Product(), lambda rng: [{"x": torch.ones(256, 1024)}])
"""


@pytest.mark.parametrize(("threads", "extra"), [(1, 0), (2, 1)])
def test_threads_hold_on_the_thread_that_infers(tmp_path: Path, threads: int, extra: int) -> None:
    # MKL and OpenMP keep their counts per thread: a product as the first thing that a worker does uses every CPU
    # when the count was set on the main thread alone.
    path = tmp_path / "my.py"
    path.write_text(PRODUCT)
    before, after = in_a_process_of_its_own(
        f"""
        import os, threading, torch
        from jitterprof.backends.catalog import open_model
        from jitterprof.load.workload import resolve
        stream = open_model(resolve("{path}:build"), "torch", threads={threads}).stream(0)
        def work():
            before = len(os.listdir("/proc/self/task"))
            stream.infer(0)
            print(before, len(os.listdir("/proc/self/task")))
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        """,
        OMP_NUM_THREADS="4",
    )
    assert int(after) - int(before) == extra


def test_spinning_is_switched_off_before_torch_is_loaded() -> None:
    said = in_a_process_of_its_own(
        """
        import os
        from jitterprof.backends.catalog import open_model
        from jitterprof.backends.settings import Settings
        from jitterprof.errors import SpecError
        from jitterprof.load.workload import resolve
        model = open_model(resolve("mlp"), "torch", settings=Settings(spinning=False))
        print(os.environ["GOMP_SPINCOUNT"], os.environ["OMP_WAIT_POLICY"], model.runtime["spinning"])
        try:
            open_model(resolve("mlp"), "torch", settings=Settings(spinning=True))
        except SpecError:
            print("refused")
        """
    )
    assert said == ["0", "PASSIVE", "off", "refused"]


class Device:
    """The outermost edge of torch's accelerator: tensors stay here, and what was asked is written down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, build: str, there: bool = True) -> None:
        self.log: list[str] = []
        monkeypatch.setattr(torch.version, "cuda", "12.6" if build == "cuda" else None)
        monkeypatch.setattr(torch.version, "hip", "6.3" if build == "rocm" else None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A Device")
        monkeypatch.setattr(torch.cuda, "Stream", lambda: Queue(self.log))
        monkeypatch.setattr(torch.cuda, "stream", self._current)
        monkeypatch.setattr(torch.Tensor, "to", self._moved("tensor"))
        monkeypatch.setattr(torch.nn.Module, "to", self._moved("module"))

    def _moved(self, what: str) -> Any:
        def to(it: Any, place: Any) -> Any:
            self.log.append(f"{what} to {place}")
            return it

        return to

    @contextmanager
    def _current(self, queue: Any) -> Any:
        self.log.append("enter")
        yield
        self.log.append("leave")


class Queue:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def synchronize(self) -> None:
        self.log.append("wait")


@pytest.mark.parametrize("device", ["cuda", "rocm"])
def test_a_request_on_a_device_ends_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    double = Device(monkeypatch, device)
    model = open_model(resolve("mlp"), "torch", device=device)
    assert set(double.log) - {"enter", "leave", "wait"} == {"module to cuda", "tensor to cuda"}
    assert model.runtime["accelerator"] == "A Device"
    assert model.runtime["driver"] == {"cuda": "cuda 12.6", "rocm": "hip 6.3"}[device]
    stream = model.stream(0)
    double.log.clear()
    stream.infer(0)
    assert double.log == ["enter", "leave", "wait"]


def test_every_token_on_a_device_is_waited_for_before_its_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    double = Device(monkeypatch, "cuda")
    model = open_model(resolve("decoder"), "torch", device="cuda")
    stream = model.stream(0)
    double.log.clear()
    stream.infer(0, lambda: double.log.append("mark"))
    assert double.log == ["enter", *["wait", "mark"] * 24, "leave"]


@pytest.mark.parametrize(
    ("device", "build", "there", "message", "hint"),
    [
        ("cuda", "cpu", False, "is built for cpu, not cuda", "whl/cu126"),
        ("rocm", "cuda", True, "is built for cuda, not rocm", "whl/rocm6.3"),
        ("cuda", "rocm", True, "is built for rocm, not cuda", "whl/cu126"),
        ("cuda", "cuda", False, "finds no cuda device", "nvidia-smi"),
        ("rocm", "rocm", False, "finds no rocm device", "rocminfo"),
    ],
)
def test_a_device_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, device: str, build: str, there: bool, message: str, hint: str
) -> None:
    Device(monkeypatch, build, there)
    with pytest.raises(BackendUnavailable) as caught:
        open_model(resolve("mlp"), "torch", device=device)
    assert message in caught.value.message and hint in caught.value.hint
