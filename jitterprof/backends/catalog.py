"""The backends, and the one way to open a model."""

import os
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from jitterprof.backends.base import (
    Definition,
    LoadedModel,
    OnnxDecoder,
    OnnxModel,
    TorchDecoder,
    TorchModel,
    Variants,
)
from jitterprof.backends.callable import open_callable
from jitterprof.backends.null import open_null
from jitterprof.backends.pyfile import build, guard
from jitterprof.backends.settings import Settings
from jitterprof.errors import BackendUnavailable, SpecError


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend's two functions as "module:function", imported on use, and the devices it knows.

    `open(source, device, threads, settings)` returns a LoadedModel; `check(device)` says what would run, or raises
    BackendUnavailable.
    """

    open: str
    check: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether `backend` runs on `device` here. `detail`: what would run, or why nothing does; `fix`: how to get it."""

    backend: str
    device: str
    available: bool
    detail: str
    fix: str = ""


DEVICES: tuple[str, ...] = ("cpu", "cuda", "rocm")
BACKENDS: dict[str, Backend] = {
    "onnxruntime": Backend("jitterprof.backends.ort:open_ort", "jitterprof.backends.ort:check_ort", DEVICES),
    "torch": Backend("jitterprof.backends.pytorch:open_torch", "jitterprof.backends.pytorch:check_torch", DEVICES),
    "null": Backend("jitterprof.backends.null:open_null", "jitterprof.backends.null:check_null", ("cpu",)),
}
#: Lets the workload decide: the file's own runtime, or the first that a reference model has.
AUTO = "auto"
_OWN_INPUTS = "it brings its own inputs"
_KIND = {"onnx": "onnxruntime", "torch": "torch"}
#: OpenMP reads these once, when torch is loaded: GCC's, LLVM's and the standard's names.
_OMP_SPINNING = {
    True: {"OMP_WAIT_POLICY": "ACTIVE", "KMP_BLOCKTIME": "infinite"},
    False: {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"},
}


def open_model(
    definition: Definition,
    backend: str = AUTO,
    device: str = "cpu",
    threads: int = 1,
    settings: Settings | None = None,
) -> LoadedModel:
    """Load what `definition` names, on `backend` and `device`, with `threads` intra-op threads; runs it once or twice.

    A Python callable runs as it is, whatever `backend` says (`runtime["backend"]` is then "callable"). Raises SpecError
    for a definition or a combination that makes no sense, BackendUnavailable for what is not installed here.
    """
    settings = settings or Settings()
    if backend != AUTO and backend not in BACKENDS:
        raise SpecError(f"no backend '{backend}'", f"known: {', '.join(BACKENDS)}")
    if device not in DEVICES:
        raise SpecError(f"no device '{device}'", f"known: {', '.join(DEVICES)}")
    if threads < 1:
        raise SpecError(f"--threads {threads}: at least 1 thread is needed")
    if backend == "null":
        return open_null()
    in_time = _set_openmp(settings)
    if settings.dims and definition.kind != "onnx":
        raise SpecError(f"--dim is for .onnx files, and {definition.name} is none", _OWN_INPUTS)
    natural = _KIND.get(definition.kind)
    if natural is not None:
        if backend not in (AUTO, natural):
            raise SpecError(f"{definition.name} does not run on {backend}", f"use --backend {natural}")
        if settings.input_shapes and natural != "torch":
            raise SpecError("--input-shape is for torch files", "an .onnx file names its axes: --dim NAME=N")
        _check_spinning(natural, in_time)
        return _open(natural, definition.path, device, threads, settings)
    made = build(definition)
    chosen = _backend_of(made, backend, definition.name)
    if settings.input_shapes and not _is_torch_module(made):
        raise SpecError(f"--input-shape is for torch files, and {definition.name} is none", _OWN_INPUTS)
    if chosen is None:
        if device != "cpu":
            raise SpecError(f"--device {device} says nothing to the callable {definition.name}", "choose it in build()")
        return open_callable(made)
    _check_spinning(chosen, in_time)
    if isinstance(made, Variants):
        variant = made.torch if chosen == "torch" else made.onnxruntime
        assert variant is not None
        made = guard(definition.path, f"the {chosen} variant", variant)
    return _open(chosen, made, device, threads, settings)


def availability() -> tuple[Availability, ...]:
    """Every backend on every device it knows. Loads the runtimes that are installed; runs no model."""
    rows = []
    for name, backend in BACKENDS.items():
        for device in backend.devices:
            try:
                rows.append(Availability(name, device, True, _imported(backend.check)(device)))
            except BackendUnavailable as error:
                rows.append(Availability(name, device, False, error.message, error.hint))
    return tuple(rows)


def _check_spinning(backend: str, in_time: bool) -> None:
    if backend == "torch" and not in_time:
        raise SpecError("runtime.spinning cannot change once torch is loaded", "set it for a process of its own")


def _open(backend: str, source: object, device: str, threads: int, settings: Settings) -> LoadedModel:
    model: LoadedModel = _imported(BACKENDS[backend].open)(source, device, threads, settings)
    return model


def _imported(place: str) -> Any:
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)


def _backend_of(made: object, backend: str, name: str) -> str | None:
    """The backend that drives what build() returned; None for a plain callable."""
    if isinstance(made, Variants):
        have = [each for each in ("onnxruntime", "torch") if getattr(made, each) is not None]
        if not have:
            raise SpecError(
                f"{name} returned Variants without a single variant", "name a function for torch or onnxruntime"
            )
        if backend == AUTO:
            return have[0]
        if backend not in have:
            raise SpecError(f"{name} has no {backend} variant", f"use --backend {have[0]}")
        return backend
    if isinstance(made, OnnxModel | OnnxDecoder):
        natural = "onnxruntime"
    elif isinstance(made, TorchModel | TorchDecoder) or _is_torch_module(made):
        natural = "torch"
    else:
        return None
    if backend not in (AUTO, natural):
        raise SpecError(f"{name} does not run on {backend}", f"use --backend {natural}")
    return natural


def _is_torch_module(made: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(made, torch.nn.Module)


def _set_openmp(settings: Settings) -> bool:
    """Tell OpenMP how to wait, for a torch that is loaded later. False when it is too late for that."""
    if settings.spinning is None:
        return True
    wanted = _OMP_SPINNING[settings.spinning]
    if "torch" in sys.modules:
        return all(os.environ.get(name) == value for name, value in wanted.items())
    os.environ.update(wanted)
    return True
