"""Settings of a backend: what the command line says about inputs and the runtime, parsed once."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from jitterprof.errors import SpecError
from jitterprof.model.run import RunSpec

_SHAPE = re.compile(r"(\d+(?:x\d+)*|scalar)(?::(float16|float32|float64|int32|int64|bool))?")
_SWITCH = {"on": True, "off": False}
#: Settings of the same family that the command line and the launcher of the workload's process act on.
_ELSEWHERE = ("runtime.threads", "runtime.gc", "runtime.omp_wait_policy")


@dataclass(frozen=True, slots=True)
class InputShape:
    """`--input-shape 1x3x224x224` or `1x16:int64`."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Settings:
    """`dims`: sizes of dynamic axes by name. `spinning`: None leaves the runtime's own default."""

    seed: int = 0
    dims: tuple[tuple[str, int], ...] = ()
    input_shapes: tuple[InputShape, ...] = ()
    spinning: bool | None = None


def parse_input_shape(text: str) -> InputShape:
    """One input of a torch file, e.g. "1x3x224x224", "1x16:int64", "scalar:int64". Raises SpecError."""
    match = _SHAPE.fullmatch(text.strip())
    if match is None:
        raise SpecError(
            f"'{text}' is not an input shape", "write sizes joined by x, and a type if not float32: 1x16:int64"
        )
    shape = () if match[1] == "scalar" else tuple(int(size) for size in match[1].split("x"))
    return InputShape(shape, match[2] or "float32")


def read_settings(spec: RunSpec) -> Settings:
    """The backend's part of a spec: seed, dims, and the settings `runtime.*` and `input.shape` (comma-separated)."""
    return parse_settings(spec.settings, seed=spec.seed, dims=spec.dims)


def parse_settings(pairs: Iterable[tuple[str, str]], seed: int = 0, dims: tuple[tuple[str, int], ...] = ()) -> Settings:
    """Reads `runtime.spinning=on|off` and `input.shape=SHAPE[,SHAPE...]`; leaves settings of other owners alone.

    Raises SpecError for an unknown `runtime.` or `input.` setting, or a value that makes no sense.
    """
    pairs = tuple(pairs)
    spinning: bool | None = None
    shapes: tuple[InputShape, ...] = ()
    for name, value in pairs:
        if name == "runtime.spinning":
            if value not in _SWITCH:
                raise SpecError(
                    f"runtime.spinning cannot be '{value}'", "say runtime.spinning=on or runtime.spinning=off"
                )
            spinning = _SWITCH[value]
        elif name == "input.shape":
            shapes = tuple(parse_input_shape(part) for part in value.split(","))
        elif name.startswith(("runtime.", "input.")) and name not in _ELSEWHERE:
            raise SpecError(
                f"no setting '{name}'",
                "known: runtime.spinning, runtime.threads, runtime.gc, runtime.omp_wait_policy, input.shape",
            )
    policy = dict(pairs).get("runtime.omp_wait_policy")
    if spinning is not None and policy == ("passive" if spinning else "active"):
        raise SpecError("runtime.spinning and runtime.omp_wait_policy contradict each other", "give one of them")
    for name, size in dims:
        if size < 1:
            raise SpecError(f"--dim {name}={size}: a size must be at least 1")
    return Settings(seed, tuple(dims), shapes, spinning)
