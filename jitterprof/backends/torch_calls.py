"""Requests of a torch module as closures: everything they touch is bound beforehand. Knows no torch by name."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from threading import get_ident
from typing import Any

from jitterprof.backends.base import BoundStream, Outputs


@dataclass(frozen=True, slots=True)
class Engine:
    """What a request needs around the call of the module.

    `no_grad` makes the context that switches autograd off; it holds for the calling thread alone. `prepare_thread` is
    called once on each thread that runs requests. `queue` makes a device stream: its context, and the wait for its end.
    """

    no_grad: Callable[[], Any]
    prepare_thread: Callable[[], None]
    queue: Callable[[], tuple[Callable[[], Any], Callable[[], None]]] | None


def calling(
    engine: Engine, module: Any, arguments: Sequence[tuple[Any, ...]], flat: Callable[[Any], Outputs]
) -> BoundStream:
    """One call of the module a request."""
    count, prepare, guard = len(arguments), engine.prepare_thread, engine.no_grad()
    owner = 0

    def call(index: int) -> Any:
        nonlocal owner
        if owner != get_ident():
            prepare()
            owner = get_ident()
        with guard:
            return module(*arguments[index % count])

    if engine.queue is None:

        def infer(index: int) -> None:
            call(index)

        return BoundStream(infer, lambda index: flat(call(index)))

    current, wait = engine.queue()

    def call_and_wait(index: int) -> Any:
        with current():
            result = call(index)
        wait()
        return result

    def infer_on_device(index: int) -> None:
        call_and_wait(index)

    return BoundStream(infer_on_device, lambda index: flat(call_and_wait(index)))


def generating(
    engine: Engine, module: Any, prompts: Sequence[Any], new_tokens: int, flat: Callable[[Any], Outputs]
) -> BoundStream:
    """A prefill and `new_tokens - 1` steps a request; each token is waited for before its mark, as in a server."""
    count, prepare, guard, cache = len(prompts), engine.prepare_thread, engine.no_grad(), module.start()
    current, wait = (nullcontext, _no_wait) if engine.queue is None else engine.queue()
    length = prompts[0].shape[1]
    made: list[Any] = [None] * new_tokens
    owner = 0

    def infer(index: int, mark: Callable[[], None]) -> None:
        nonlocal owner
        if owner != get_ident():
            prepare()
            owner = get_ident()
        with guard, current():
            token = made[0] = module(prompts[index % count], 0, cache)
            wait()
            mark()
            for done in range(1, new_tokens):
                token = made[done] = module(token, length + done - 1, cache)
                wait()
                mark()

    def outputs(index: int) -> Outputs:
        infer(index, _no_wait)
        return flat(made)

    return BoundStream(infer, outputs)


def _no_wait() -> None:
    pass
