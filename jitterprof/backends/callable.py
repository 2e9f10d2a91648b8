"""Any Python callable, or object with `infer`, as a model: what most `my.py:build` functions return."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from jitterprof.backends.attempt import attempt
from jitterprof.backends.base import BoundStream, LoadedModel, Outputs
from jitterprof.errors import SpecError

_FORMS = "return a callable taking nothing or the request index, or an object with infer(index) or infer(index, mark)"


def open_callable(source: object) -> LoadedModel:
    """A LoadedModel that calls `source`, one call a request. Raises SpecError for anything that cannot be called."""
    infer = getattr(source, "infer", None)
    if infer is None:
        if not callable(source) or isinstance(source, type):
            raise SpecError(f"build() returned {_described(source)}, which cannot be called", _FORMS)
        arguments = _arguments(source)
        if arguments > 1:
            raise SpecError(f"the callable that build() returned needs {arguments} arguments", _FORMS)
        return _loaded(source, lambda worker: _stream(source), emits_tokens=False)
    if not callable(infer):
        raise SpecError(f"'infer' of the {_described(source)} that build() returned is not a method", _FORMS)
    arguments = _arguments(infer)
    if arguments > 2:
        raise SpecError(f"infer() of the object that build() returned needs {arguments} arguments", _FORMS)
    own = getattr(source, "stream", None)
    return _loaded(
        source,
        lambda worker: _stream(infer if own is None else own(worker).infer),
        emits_tokens=arguments == 2,
    )


def _loaded(source: object, open_stream: Callable[[int], BoundStream], emits_tokens: bool) -> LoadedModel:
    shapes = tuple(getattr(source, "shapes", ("any",)))
    if not shapes or not all(isinstance(label, str) for label in shapes):
        raise SpecError(
            "'shapes' of the object that build() returned is not a tuple of labels", 'e.g. ("1x16", "1x64")'
        )
    shape_of: Any = getattr(source, "shape", None) if len(shapes) > 1 else (0,)
    if shape_of is None:
        raise SpecError("the object that build() returned has several 'shapes' but no shape(index)", _FORMS)
    return LoadedModel(
        shapes=shapes,
        shape_of=shape_of,
        runtime={"backend": "callable", "python": sys.version.split()[0]},
        open_stream=open_stream,
        emits_tokens=emits_tokens,
        max_tokens=int(getattr(source, "max_tokens", 0)),
        on_close=getattr(source, "close", None),
    )


def _stream(call: Callable[..., Any]) -> BoundStream:
    if _arguments(call) == 0:

        def infer(index: int) -> None:
            call()

        return BoundStream(infer, lambda index: _results(call()))
    if _arguments(call) == 1:
        return BoundStream(call, lambda index: _results(call(index)))
    return BoundStream(call, lambda index: _results(call(index, lambda: None)))


def _arguments(call: Callable[..., Any]) -> int:
    """Positional arguments that `call` requires, or takes by the names `index` and `mark`."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        # A callable written in C that does not describe itself.
        return 0
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return sum(each.default is each.empty or each.name in ("index", "mark") for each in positional)


def _results(value: Any) -> Outputs:
    if value is None:
        return ()
    return (attempt(lambda: np.asarray(value), "the result of a request is no array", "return arrays or numbers"),)


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    return "nothing" if value is None else f"a {type(value).__name__}"
