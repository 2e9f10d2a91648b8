"""The backend that does nothing: what is left is the cost of the load generator itself."""

from collections.abc import Callable

from jitterprof.backends.base import BoundStream, LoadedModel, Outputs


def check_null(device: str) -> str:
    """It is always there, and has no device."""
    return "measures the load generator itself"


def open_null(tokens: int = 0) -> LoadedModel:
    """A model whose request is an empty call, or `tokens` marks and nothing between them."""

    def nothing(index: int) -> None:
        pass

    def marks(index: int, mark: Callable[[], None]) -> None:
        for _ in range(tokens):
            mark()

    def no_outputs(index: int) -> Outputs:
        return ()

    stream = BoundStream(marks if tokens else nothing, no_outputs)
    return LoadedModel(
        shapes=("none",),
        shape_of=(0,),
        runtime={"backend": "null"},
        open_stream=lambda worker: stream,
        emits_tokens=tokens > 0,
        max_tokens=tokens,
    )
