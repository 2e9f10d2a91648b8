"""What a backend hands to the load generator, and what the function of a workload file may return.

`jitterprof run my.py:build` calls `build()` without arguments, once per process. It may return

* any Python callable taking nothing or the request index: one call is one request;
* an object with `infer(index)`, or `infer(index, mark)` that calls `mark()` after each token it makes, and optionally
  `shapes: tuple[str, ...]` with `shape(index) -> int` (requests of one shape are compared with each other),
  `max_tokens: int`, `stream(worker)` (an object of its own for each worker thread) and `close()`;
* a `TorchModel`, `TorchDecoder`, `OnnxModel` or `OnnxDecoder`, which the matching backend drives;
* `Variants`, naming one function per backend: what the reference models do;
* a bare `torch.nn.Module`, whose input shapes then come from `--input-shape`.

Weights must come from a fixed seed or a file, so that two processes run the same model. Inputs are made before the
measured window, from the seed of the session.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

#: The tensors of one request by input name; torch takes the values in order. Plain numbers are passed on as they are.
Feed = Mapping[str, Any]
Outputs = tuple[npt.NDArray[Any], ...]

#: How many different inputs a workload prepares; request `index` gets input `index % len(inputs)`.
POOL = 16


class Stream(Protocol):
    """One worker's way to run requests. A stream is used by one thread at a time."""

    @property
    def infer(self) -> Callable[..., None]:
        """`infer(index)` runs one request to its real end; `infer(index, mark)` where the model emits tokens."""

    @property
    def outputs(self) -> Callable[[int], Outputs]:
        """Runs one request and returns its results. For checks, never inside a measured window."""


class Model(Protocol):
    """A loaded model. `shapes` are labels; `max_tokens`: the most marks a request can make (0: none, or unknown)."""

    @property
    def shapes(self) -> tuple[str, ...]: ...
    @property
    def emits_tokens(self) -> bool: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def runtime(self) -> Mapping[str, str]: ...
    def shape(self, index: int) -> int:
        """Position in `shapes` of request `index`."""

    def stream(self, worker: int) -> Stream:
        """A stream of its own for one worker thread."""

    def close(self) -> None: ...


class Definition(Protocol):
    """What `load.workload.resolve` found: the seam between `load` and `backends`, which do not import one another."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str:
        """python, onnx or torch."""

    @property
    def path(self) -> Path: ...
    @property
    def function(self) -> str:
        """The function of a python file that builds the model."""


@dataclass(frozen=True, slots=True)
class BoundStream:
    """A stream of two closures: everything a request needs is bound when the stream is made."""

    infer: Callable[..., None]
    outputs: Callable[[int], Outputs]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The Model that all backends return. `shape_of`: the shape of request `index`, asked for or in a repeating row."""

    shapes: tuple[str, ...]
    shape_of: tuple[int, ...] | Callable[[int], int]
    runtime: Mapping[str, str]
    open_stream: Callable[[int], Stream]
    emits_tokens: bool = False
    max_tokens: int = 0
    on_close: Callable[[], None] | None = None

    def shape(self, index: int) -> int:
        if callable(self.shape_of):
            return self.shape_of(index)
        return self.shape_of[index % len(self.shape_of)]

    def stream(self, worker: int) -> Stream:
        return self.open_stream(worker)

    def close(self) -> None:
        if self.on_close is not None:
            self.on_close()


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A torch module and the inputs of its requests.

    `inputs(rng)` returns the pool of inputs. `stateful`: the module keeps state between calls, so that each worker
    gets a copy of its own.
    """

    module: Any
    inputs: Callable[[np.random.Generator], Sequence[Feed]]
    stateful: bool = False


@dataclass(frozen=True, slots=True)
class TorchDecoder:
    """A torch module that generates tokens: one prefill and `new_tokens - 1` steps a request.

    `module.start()` returns an empty cache; `module(tokens, position, cache)` takes int64 tokens [1, n] that stand at
    `position` onwards, extends the cache in place and returns the next token, int64 [1, 1]. `prompts(rng)` returns
    the pool of prompts under the one name "tokens".
    """

    module: Any
    prompts: Callable[[np.random.Generator], Sequence[Feed]]
    new_tokens: int


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """An ONNX graph (file or serialised bytes) and the inputs of its requests.

    `inputs(rng)` returns the pool, each with all inputs of the graph. `carry` maps an output to the input that
    receives it at the worker's next request; the first request takes that input from the pool.
    """

    model: Path | bytes
    inputs: Callable[[np.random.Generator], Sequence[Feed]]
    carry: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OnnxDecoder:
    """An ONNX graph that makes one token a run, with its key/value cache as inputs and outputs.

    Inputs: `tokens` and `positions`, int64 [1, n], and each key of `cache`, [*prefix, past, width] with the prefix and
    width given by `cache_shape` = (*prefix, width). Outputs: `next`, int64 [1, 1], and each value of `cache`, which is
    its input extended by n along `past`.
    """

    model: Path | bytes
    prompts: Callable[[np.random.Generator], Sequence[Feed]]
    new_tokens: int
    cache: Mapping[str, str]
    cache_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Variants:
    """The same model for several backends, each built only when its backend was asked for."""

    torch: Callable[[], TorchModel | TorchDecoder] | None = None
    onnxruntime: Callable[[], OnnxModel | OnnxDecoder] | None = None
