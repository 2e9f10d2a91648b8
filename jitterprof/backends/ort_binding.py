"""Requests of an onnxruntime session as bindings made beforehand: at run time nothing is allocated or looked up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitterprof.backends.attempt import attempt
from jitterprof.backends.base import BoundStream, Feed, LoadedModel, OnnxDecoder, OnnxModel, Outputs
from jitterprof.backends.inputs import label, make_feeds, shapes_of
from jitterprof.errors import SpecError

_SIZES = "choose its dynamic axes ({}) with --dim NAME=N, or make its inputs yourself in my.py:build"


@dataclass(frozen=True, slots=True)
class Place:
    """How to make tensors on the session's device: `empty(shape, dtype)`, `value(array)`, and a fresh `binding`."""

    empty: Callable[[tuple[int, ...], Any], Any]
    value: Callable[[Any], Any]
    binding: Callable[[Any], Any]
    run_options: Any


def bind_model(
    place: Place, session: Any, source: OnnxModel, rng: np.random.Generator, runtime: Mapping[str, str]
) -> LoadedModel:
    """One run a request. Raises SpecError when the graph does not run on its first input of each shape."""
    feeds = [_contiguous(feed) for feed in make_feeds(source.inputs, rng)]
    shapes, shape_of = shapes_of(feeds)
    names = {each.name for each in session.get_inputs()}
    if set(feeds[0]) != names:
        raise SpecError(f"the workload gives inputs {sorted(feeds[0])}, its graph takes {sorted(names)}")
    measured = [_run_once(session, feeds[shape_of.index(shape)]) for shape in range(len(shapes))]
    settled = _settled_outputs(session)

    def open_stream(worker: int) -> BoundStream:
        # Outputs that are carried over alternate with their inputs between two buffers: nothing is copied.
        state = {name: tuple(place.value(feeds[0][name]) for _ in range(2)) for name in source.carry.values()}
        results = [
            {
                name: place.empty(array.shape, array.dtype.type)
                for name, array in found.items()
                if name in settled and name not in source.carry
            }
            for found in measured
        ]
        rows = []
        for parity in range(2 if state else 1):
            row = []
            for position, feed in enumerate(feeds):
                binding = place.binding(session)
                for name, array in feed.items():
                    value = state[name][parity] if name in state else place.value(array)
                    binding.bind_ortvalue_input(name, value)
                for output in measured[shape_of[position]]:
                    if output in source.carry:
                        binding.bind_ortvalue_output(output, state[source.carry[output]][1 - parity])
                    elif output in settled:
                        binding.bind_ortvalue_output(output, results[shape_of[position]][output])
                    else:
                        binding.bind_output(output)
                row.append(binding)
            rows.append(row)
        return _alternating(session, place, rows) if state else _plain(session, place, rows[0])

    return LoadedModel(shapes, shape_of, runtime, open_stream)


def _plain(session: Any, place: Place, bindings: list[Any]) -> BoundStream:
    run, options, count = session.run_with_iobinding, place.run_options, len(bindings)

    def infer(index: int) -> None:
        run(bindings[index % count], options)

    def outputs(index: int) -> Outputs:
        infer(index)
        return tuple(bindings[index % count].copy_outputs_to_cpu())

    return BoundStream(infer, outputs)


def _alternating(session: Any, place: Place, rows: list[list[Any]]) -> BoundStream:
    run, options, count = session.run_with_iobinding, place.run_options, len(rows[0])
    current, following = rows

    def infer(index: int) -> None:
        nonlocal current, following
        run(current[index % count], options)
        current, following = following, current

    def outputs(index: int) -> Outputs:
        binding = current[index % count]
        infer(index)
        return tuple(binding.copy_outputs_to_cpu())

    return BoundStream(infer, outputs)


def bind_decoder(
    place: Place, session: Any, source: OnnxDecoder, rng: np.random.Generator, runtime: Mapping[str, str]
) -> LoadedModel:
    """One run a token. The cache of each length has its own buffers, so every run of a request is bound beforehand."""
    prompts = [_contiguous(feed)["tokens"] for feed in make_feeds(source.prompts, rng)]
    length, new_tokens = prompts[0].shape[1], source.new_tokens
    if any(prompt.shape != (1, length) for prompt in prompts):
        raise SpecError("all prompts of a decoder must have the shape [1, n] with one n")
    *prefix, width = source.cache_shape

    def cache(past: int) -> dict[str, Any]:
        return {name: place.empty((*prefix, past, width), np.float32) for name in source.cache}

    def step(tokens: Any, start: int, count: int, past: dict[str, Any], present: dict[str, Any], result: Any) -> Any:
        binding = place.binding(session)
        binding.bind_ortvalue_input("tokens", tokens)
        binding.bind_ortvalue_input("positions", place.value(np.arange(start, start + count, dtype=np.int64)[None]))
        binding.bind_ortvalue_output("next", result)
        for name, output in source.cache.items():
            binding.bind_ortvalue_input(name, past[name])
            binding.bind_ortvalue_output(output, present[name])
        return binding

    def open_stream(worker: int) -> BoundStream:
        made = [place.empty((1, 1), np.int64) for _ in range(new_tokens)]
        caches = [cache(0), *(cache(length + done) for done in range(new_tokens))]
        prefills = [step(place.value(prompt), 0, length, caches[0], caches[1], made[0]) for prompt in prompts]
        steps = [
            step(made[done - 1], length + done - 1, 1, caches[done], caches[done + 1], made[done])
            for done in range(1, new_tokens)
        ]
        run, options, count = session.run_with_iobinding, place.run_options, len(prompts)

        def infer(index: int, mark: Callable[[], None]) -> None:
            run(prefills[index % count], options)
            mark()
            for binding in steps:
                run(binding, options)
                mark()

        def outputs(index: int) -> Outputs:
            infer(index, lambda: None)
            return (np.concatenate([token.numpy() for token in made], axis=1),)

        return BoundStream(infer, outputs)

    attempt(lambda: open_stream(0).outputs(0), f"the decoder does not run on a prompt 1x{length}", "correct its graph")
    return LoadedModel((f"1x{length}",), (0,), runtime, open_stream, emits_tokens=True, max_tokens=new_tokens)


def _contiguous(feed: Feed) -> dict[str, Any]:
    return {name: np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value) for name, value in feed.items()}


def _run_once(session: Any, feed: dict[str, Any]) -> dict[str, Any]:
    names = [each.name for each in session.get_outputs()]
    arrays: list[Any] = attempt(
        lambda: session.run(names, feed),
        f"the model does not run on inputs {label(feed)}",
        _SIZES.format(_dynamic_axes(session)),
    )
    return dict(zip(names, arrays, strict=True))


def _settled_outputs(session: Any) -> set[str]:
    """Outputs whose shape follows from the inputs' by the graph's own account; the others are allocated by the run."""
    axes = {axis for each in session.get_inputs() for axis in each.shape if isinstance(axis, str)}
    return {
        each.name
        for each in session.get_outputs()
        if each.type.startswith("tensor(")
        and all((isinstance(axis, int) and axis > 0) or axis in axes for axis in each.shape)
    }


def _dynamic_axes(session: Any) -> str:
    names = {
        axis if isinstance(axis, str) and axis not in ("", "?") else f"{each.name}.{position}"
        for each in session.get_inputs()
        for position, axis in enumerate(each.shape)
        if not isinstance(axis, int)
    }
    return ", ".join(sorted(names)) or "it has none"
