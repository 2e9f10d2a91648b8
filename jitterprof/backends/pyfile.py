"""Workload files: run `build()` of a Python file, and turn whatever goes wrong in it into one line."""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from jitterprof.backends.attempt import one_line
from jitterprof.backends.base import Definition
from jitterprof.backends.packages import import_failure
from jitterprof.errors import JitterprofError, SpecError


def build(definition: Definition) -> object:
    """What the function of a workload file returns.

    Raises SpecError when the file does not run, has no such function, or the function fails; BackendUnavailable when
    it needs a package that an extra of jitterprof brings.
    """
    path, name = definition.path, definition.function
    module = _load(path)
    function = getattr(module, name, None)
    if function is None:
        functions = sorted(each for each, value in vars(module).items() if callable(value) and _is_from(module, value))
        raise SpecError(f"{path} has no function '{name}'", f"it has: {', '.join(functions) or 'none'}")
    if not callable(function):
        raise SpecError(f"'{name}' in {path} is not a function", f"define: def {name}(): ...")
    return guard(path, f"{name}()", function)


def guard(path: Path, what: str, call: Callable[[], object]) -> object:
    """Run code of the file at `path`; `what` names it in the error. For the exceptions see `build`."""
    try:
        return call()
    except (JitterprofError, KeyboardInterrupt):
        raise
    except ImportError as error:
        raise import_failure(error, f"{what} of {path}") from error
    except BaseException as error:
        # BaseException: a file that calls exit() has failed too.
        raise SpecError(
            f"{what} of {path} failed: {type(error).__name__}: {one_line(error)}", f"see {_where(path, error)}"
        ) from error


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"jitterprof_workload_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SpecError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # As `python my.py` would: the file's neighbours can be imported, and its dataclasses find their module.
    sys.modules[spec.name] = module
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    loader = spec.loader
    try:
        guard(path, "the top level", lambda: loader.exec_module(module))
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _is_from(module: ModuleType, value: object) -> bool:
    return getattr(value, "__module__", None) == module.__name__ and not getattr(value, "__name__", "_").startswith("_")


def _where(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    inside = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{inside[-1].lineno}" if inside else str(path)
