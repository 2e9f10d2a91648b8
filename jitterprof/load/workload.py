"""Which workload a name stands for. Nothing is loaded or imported here: the workload's own process does that."""

from dataclasses import dataclass
from pathlib import Path

from jitterprof.errors import SpecError
from jitterprof.resources import workloads_dir

_TORCH_SUFFIXES = (".pt", ".ts", ".pth", ".pt2")
_FORMS = "or give a model.onnx, a TorchScript file (.pt, .ts), an exported program (.pt2), or my.py:build"


@dataclass(frozen=True, slots=True)
class Workload:
    """`name` is how reports call it. `kind`: python (call `function` of `path`), onnx or torch (load `path`).

    `reference`: one of the models that ship with jitterprof.
    """

    name: str
    kind: str
    path: Path
    function: str = ""
    reference: bool = False


def reference_names() -> tuple[str, ...]:
    """Names of the shipped models, sorted; `silero-vad` is workloads/silero_vad.py."""
    files = workloads_dir().glob("[!_]*.py")
    return tuple(sorted(file.stem.replace("_", "-") for file in files))


def resolve(workload: str) -> Workload:
    """Find what `workload` names. Raises SpecError when there is nothing of that name or the file is not readable."""
    path_text, colon, function = workload.rpartition(":")
    if colon and path_text.endswith(".py"):
        path = _readable(path_text)
        if not function.isidentifier():
            raise SpecError(f"'{function}' is not a function name", f"write {path_text}:build")
        return Workload(f"{path.name}:{function}", "python", path, function)
    suffix = Path(workload).suffix.lower()
    if suffix == ".py":
        raise SpecError(f"{workload} needs the function that builds the model", f"write {workload}:build")
    if suffix == ".onnx":
        path = _readable(workload)
        return Workload(path.name, "onnx", path)
    if suffix in _TORCH_SUFFIXES:
        path = _readable(workload)
        return Workload(path.name, "torch", path)
    names = reference_names()
    name = workload.replace("_", "-")
    if name in names:
        path = workloads_dir() / f"{name.replace('-', '_')}.py"
        return Workload(name, "python", path, "build", reference=True)
    raise SpecError(f"no workload '{workload}'", f"known: {', '.join(names)}; {_FORMS}")


def _readable(text: str) -> Path:
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            raise SpecError(f"{text} is a directory, not a model file", _FORMS)
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise SpecError(f"cannot read {text}: {error.strerror}", "check the path and its permissions") from error
    if empty:
        raise SpecError(f"{text} is empty", "copy or export the model again")
    return path.resolve()
