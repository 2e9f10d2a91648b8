"""onnxruntime: providers, the session and its threads. The only importer of `onnxruntime`."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jitterprof.backends.attempt import attempt, one_line
from jitterprof.backends.base import LoadedModel, OnnxDecoder, OnnxModel
from jitterprof.backends.inputs import Slot, settle_axes, synthesise
from jitterprof.backends.ort_binding import Place, bind_decoder, bind_model
from jitterprof.backends.packages import missing_package
from jitterprof.backends.settings import Settings
from jitterprof.errors import BackendUnavailable, SpecError

#: Execution providers of a device, best first.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "rocm": ("ROCMExecutionProvider", "MIGraphXExecutionProvider"),
}
_PACKAGE_OF = {
    "cuda": "pip uninstall onnxruntime; pip install onnxruntime-gpu",
    "rocm": "pip uninstall onnxruntime; pip install onnxruntime-migraphx (https://repo.radeon.com/rocm/manylinux)",
}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint64)": "uint64",
    "tensor(uint32)": "uint32",
    "tensor(uint16)": "uint16",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
_ERRORS_ONLY = 3
_AMD = 0x1002


def open_ort(source: object, device: str, threads: int, settings: Settings) -> LoadedModel:
    """A model file, an OnnxModel or an OnnxDecoder as a LoadedModel; `threads` = intra-op threads.

    Raises BackendUnavailable when onnxruntime or the provider of `device` is not installed, SpecError when the graph
    cannot be loaded or does not run on its inputs.
    """
    if not isinstance(source, Path | OnnxModel | OnnxDecoder):
        raise SpecError(f"onnxruntime cannot run a {type(source).__name__}", "return an OnnxModel or an OnnxDecoder")
    ort = _import()
    provider = _provider(ort, device)
    graph = source if isinstance(source, Path) else source.model
    session = _session(ort, graph, provider, threads, settings)
    rng = np.random.default_rng(settings.seed)
    runtime = {
        "backend": "onnxruntime",
        "onnxruntime": ort.__version__,
        "provider": provider,
        "device": device,
        "threads": str(threads),
        "inter_threads": "1",
        "spinning": "off" if settings.spinning is False else "on",
    }
    place = _place(ort, device)
    if isinstance(source, OnnxDecoder):
        return bind_decoder(place, session, source, rng, runtime)
    if isinstance(source, Path):
        source = _from_signature(session, source, settings)
    return bind_model(place, session, source, rng, runtime)


def check_ort(device: str) -> str:
    """What would run on `device`, without running it. Raises BackendUnavailable."""
    ort = _import()
    return f"onnxruntime {ort.__version__}, {_provider(ort, device)}"


def _import() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as ort
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "onnxruntime") from error
    except ImportError as error:
        raise BackendUnavailable(
            f"onnxruntime is installed but does not load: {one_line(error)}",
            "pip install --force-reinstall onnxruntime",
        ) from error
    if hasattr(ort, "disable_telemetry_events"):
        ort.disable_telemetry_events()
    ort.set_default_logger_severity(_ERRORS_ONLY)
    return ort


def _provider(ort: Any, device: str) -> str:
    available = ort.get_available_providers()
    for name in PROVIDERS[device]:
        if name in available:
            return name
    raise BackendUnavailable(
        f"this onnxruntime has no provider for {device}; it has {', '.join(available)}", _PACKAGE_OF.get(device, "")
    )


def _session(ort: Any, graph: Path | bytes, provider: str, threads: int, settings: Settings) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    if settings.spinning is not None:
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    # The CPU stays behind as the fallback for operators that the device lacks.
    providers = list(dict.fromkeys((provider, "CPUExecutionProvider")))
    what = graph if isinstance(graph, Path) else "the workload's graph"
    session = attempt(
        lambda: ort.InferenceSession(str(graph) if isinstance(graph, Path) else graph, options, providers=providers),
        f"onnxruntime cannot load {what}",
        "check it with onnx.checker.check_model, or export the model again",
    )
    if session.get_providers()[0] != provider:
        raise BackendUnavailable(
            f"{provider} is installed but did not start; onnxruntime fell back to {session.get_providers()[0]}",
            "check the driver and the versions of its libraries: python -c 'import onnxruntime as o; o.preload_dlls()'",
        )
    return session


def _place(ort: Any, device: str) -> Place:
    """Where tensors of a request live: allocated once on the device, so that a request moves nothing."""

    def empty(shape: tuple[int, ...], dtype: Any) -> Any:
        if device != "rocm":
            return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, device, 0)
        if hasattr(ort, "OrtDeviceVendorId"):
            return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, "gpu", 0, _AMD)
        # Before devices had vendors, "cuda" was the name of any GPU.
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, "cuda", 0)

    def value(array: Any) -> Any:
        filled = empty(array.shape, array.dtype.type)
        if array.size:
            filled.update_inplace(array)
        return filled

    def binding(session: Any) -> Any:
        return session.io_binding()

    return Place(empty, value, binding, ort.RunOptions())


def _from_signature(session: Any, path: Path, settings: Settings) -> OnnxModel:
    slots = []
    for each in session.get_inputs():
        if each.type not in _DTYPES:
            raise SpecError(
                f"input '{each.name}' of {path.name} is a {each.type}, which cannot be synthesised",
                "make its inputs yourself in my.py:build and return an OnnxModel",
            )
        slots.append(Slot(each.name, _DTYPES[each.type], tuple(_axis(size) for size in each.shape)))
    shapes = settle_axes(slots, settings.dims)
    return OnnxModel(path, lambda rng: synthesise(slots, shapes, rng))


def _axis(size: object) -> int | str | None:
    if isinstance(size, int) and size > 0:
        return size
    return size if isinstance(size, str) and size not in ("", "?") else None
