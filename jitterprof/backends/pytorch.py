"""torch: devices, threads, files. The only importer of `torch` in the package; requests are built in torch_calls."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jitterprof.backends.attempt import attempt, one_line
from jitterprof.backends.base import POOL, Feed, LoadedModel, TorchDecoder, TorchModel
from jitterprof.backends.inputs import from_shapes, label, make_feeds, shapes_of
from jitterprof.backends.packages import missing_package
from jitterprof.backends.settings import Settings
from jitterprof.backends.torch_calls import Engine, calling, generating
from jitterprof.errors import BackendUnavailable, SpecError

_INDEX = {
    "cpu": "https://download.pytorch.org/whl/cpu",
    "cuda": "https://download.pytorch.org/whl/cu126",
    "rocm": "https://download.pytorch.org/whl/rocm6.3",
}


def open_torch(source: object, device: str, threads: int, settings: Settings) -> LoadedModel:
    """A model file, an nn.Module, a TorchModel or a TorchDecoder as a LoadedModel; `threads` = intra-op threads.

    Raises BackendUnavailable when torch or the device is missing, SpecError when the model does not load or does not
    run on its inputs.
    """
    torch = _import()
    place = _device(torch, device)
    _set_threads(torch, threads)
    rng = np.random.default_rng(settings.seed)
    if isinstance(source, Path):
        source = _from_file(torch, source, settings)
    elif isinstance(source, torch.nn.Module):
        source = _bare(torch, source, settings)
    if not isinstance(source, TorchModel | TorchDecoder):
        raise SpecError(f"torch cannot run a {type(source).__name__}", "return a TorchModel or a TorchDecoder")
    if isinstance(source.module, torch.nn.Module):
        # An exported program refuses eval(): its mode was fixed when it was exported.
        if not isinstance(source.module, torch.fx.GraphModule):
            source.module.eval()
        source.module.to(place)
    engine = _engine(torch, device, threads)
    runtime = {
        "backend": "torch",
        "torch": torch.__version__,
        "device": device,
        "threads": str(threads),
        "inter_threads": str(torch.get_num_interop_threads()),
        "spinning": {None: "default", True: "on", False: "off"}[settings.spinning],
    }
    if device != "cpu":
        runtime["accelerator"] = torch.cuda.get_device_name()
        runtime["driver"] = f"hip {torch.version.hip}" if device == "rocm" else f"cuda {torch.version.cuda}"
    if isinstance(source, TorchDecoder):
        return _decoder(torch, source, place, engine, rng, runtime)
    return _model(torch, source, place, engine, rng, runtime)


def check_torch(device: str) -> str:
    """What would run on `device`, without running it. Raises BackendUnavailable."""
    torch = _import()
    name = "" if _device(torch, device) == "cpu" else f", {torch.cuda.get_device_name()}"
    return f"torch {torch.__version__}{name}"


def _import() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "torch") from error
    except (ImportError, OSError) as error:
        # OSError: a shared library of the wheel is missing.
        raise BackendUnavailable(
            f"torch is installed but does not load: {one_line(error)}", "pip install --force-reinstall torch"
        ) from error
    return torch


def _device(torch: Any, device: str) -> str:
    """The torch name of `device`: ROCm builds call theirs "cuda" and say so in torch.version.hip."""
    if device == "cpu":
        return "cpu"
    built_for = "rocm" if torch.version.hip else "cuda" if torch.version.cuda else "cpu"
    if built_for != device:
        raise BackendUnavailable(
            f"this torch {torch.__version__} is built for {built_for}, not {device}",
            f"pip install --force-reinstall torch --index-url {_INDEX[device]}",
        )
    if not torch.cuda.is_available():
        raise BackendUnavailable(
            f"torch {torch.__version__} finds no {device} device",
            "check the driver: " + ("rocminfo" if device == "rocm" else "nvidia-smi"),
        )
    return "cuda"


def _set_threads(torch: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        try:
            torch.set_num_interop_threads(1)
        except RuntimeError as error:
            raise SpecError(
                f"torch has already run something with several inter-op threads: {one_line(error)}",
                "do not run the model while build() makes it",
            ) from error


def _engine(torch: Any, device: str, threads: int) -> Engine:
    def prepare_thread() -> None:
        # OpenMP and MKL keep the number of threads per calling thread.
        torch.set_num_threads(threads)

    if device == "cpu":
        return Engine(torch.inference_mode, prepare_thread, None)
    return Engine(torch.inference_mode, prepare_thread, lambda: _queue(torch))


def _queue(torch: Any) -> tuple[Callable[[], Any], Callable[[], None]]:
    """A device stream of a worker's own: a context that makes it current, and the wait for all that was put into it."""
    stream = torch.cuda.Stream()
    return lambda: torch.cuda.stream(stream), stream.synchronize


def _from_file(torch: Any, path: Path, settings: Settings) -> TorchModel:
    if path.suffix.lower() == ".pt2":
        return _exported(torch, path)
    module = attempt(
        lambda: torch.jit.load(str(path), map_location="cpu"),
        f"torch cannot load {path} as TorchScript",
        "save it with torch.jit.save, or as .pt2 with torch.export.save; for a state_dict write a my.py:build",
    )
    return _bare(torch, module, settings)


def _bare(torch: Any, module: Any, settings: Settings) -> TorchModel:
    if not settings.input_shapes:
        raise SpecError(
            "this torch model does not say what inputs it takes", "give one --input-shape 1x3x224x224 per input"
        )
    return TorchModel(module, lambda rng: from_shapes(settings.input_shapes, rng))


def _exported(torch: Any, path: Path) -> TorchModel:
    program = attempt(
        lambda: torch.export.load(str(path)),
        f"torch cannot load {path} as an exported program",
        "save it with torch.export.save",
    )
    example = program.example_inputs
    if example is None or example[1]:
        raise SpecError(
            f"{path.name} holds " + ("no example inputs" if example is None else "keyword inputs"),
            "load it in a my.py:build and return a TorchModel with its inputs",
        )

    def inputs(rng: np.random.Generator) -> Sequence[Feed]:
        # Integers stay as in the example: only the exporter knew what is valid.
        def fresh(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            if not value.is_floating_point():
                return value.detach()
            return torch.from_numpy(rng.standard_normal(tuple(value.shape))).to(value.dtype)

        from_example = example[0]
        return [{f"input{position}": fresh(value) for position, value in enumerate(from_example)} for _ in range(POOL)]

    return TorchModel(program.module(), inputs)


def _model(
    torch: Any, source: TorchModel, place: str, engine: Engine, rng: np.random.Generator, runtime: dict[str, str]
) -> LoadedModel:
    feeds = make_feeds(source.inputs, rng)
    shapes, shape_of = shapes_of(feeds)
    arguments = [tuple(_tensor(torch, value, place) for value in feed.values()) for feed in feeds]

    def open_stream(worker: int) -> Any:
        module = copy.deepcopy(source.module) if source.stateful else source.module
        return calling(engine, module, arguments, _results(torch))

    trial = open_stream(0)
    for first in (shape_of.index(shape) for shape in range(len(shapes))):
        attempt(
            partial(trial.infer, first),
            f"the model does not run on inputs {label(feeds[first])}",
            "give the shapes that it takes: --input-shape 1x3x224x224, or the inputs of the TorchModel",
        )
    return LoadedModel(shapes, shape_of, runtime, open_stream)


def _decoder(
    torch: Any, source: TorchDecoder, place: str, engine: Engine, rng: np.random.Generator, runtime: dict[str, str]
) -> LoadedModel:
    feeds = make_feeds(source.prompts, rng)
    shapes, shape_of = shapes_of(feeds)
    if len(shapes) > 1:
        raise SpecError("all prompts of a decoder must have the shape [1, n] with one n")
    prompts = [_tensor(torch, feed["tokens"], place) for feed in feeds]
    flat = _results(torch)

    def joined(tokens: Any) -> tuple[Any, ...]:
        return (np.concatenate(flat(tokens), axis=1),)

    def open_stream(worker: int) -> Any:
        return generating(engine, source.module, prompts, source.new_tokens, joined)

    attempt(
        lambda: open_stream(0).outputs(0), f"the decoder does not run on a prompt {shapes[0]}", "correct the module"
    )
    return LoadedModel(shapes, shape_of, runtime, open_stream, emits_tokens=True, max_tokens=source.new_tokens)


def _tensor(torch: Any, value: Any, place: str) -> Any:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    return value.to(place) if isinstance(value, torch.Tensor) else value


def _results(torch: Any) -> Callable[[Any], tuple[Any, ...]]:
    """Whatever a module returned, as a flat tuple of arrays."""

    def flat(result: Any) -> tuple[Any, ...]:
        if isinstance(result, torch.Tensor):
            return (result.detach().cpu().numpy(),)
        if isinstance(result, dict):
            return tuple(array for value in result.values() for array in flat(value))
        if isinstance(result, Sequence) and not isinstance(result, str):
            return tuple(array for value in result for array in flat(value))
        return () if result is None else (np.asarray(result),)

    return flat
