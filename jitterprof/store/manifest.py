"""manifest.json: explicit conversion to and from `model.run.Manifest`, written atomically.

Keys that this version does not know are ignored, so that a newer minor version can add some; a newer *schema* is
refused.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar, cast

from jitterprof.errors import RunFileError
from jitterprof.model.run import SCHEMA_VERSION, Health, Loss, Manifest, ProbeStatus, Quantiles, RunSpec

MANIFEST_NAME = "manifest.json"

STATE_RECORDING = "recording"
STATE_COMPLETE = "complete"

_T = TypeVar("_T")


def manifest_to_json(manifest: Manifest) -> dict[str, object]:
    """`manifest` as JSON values: tuples become lists, everything else keeps its name."""
    return asdict(manifest)


def manifest_from_json(data: Mapping[str, object]) -> Manifest:
    """Rebuild a manifest; unknown keys are ignored. Raises KeyError, TypeError or ValueError if `data` is none."""
    return Manifest(
        schema=_integer(data["schema"]),
        state=_text(data["state"]),
        spec=_spec(_object(data["spec"])),
        started_ns=_integer(data["started_ns"]),
        started_wall=_text(data["started_wall"]),
        host=_text(data.get("host", "")),
        arm=_text(data.get("arm", "")),
        window_ns=_window(data.get("window_ns", [0, 0])),
        pids=_integers(data.get("pids", [])),
        worker_tids=_integers(data.get("worker_tids", [])),
        observer_pids=_integers(data.get("observer_pids", [])),
        shapes=tuple(_text(name) for name in _array(data.get("shapes", []))),
        environment=dict(_object(data.get("environment", {}))),
        probes=tuple(_probe(_object(row)) for row in _array(data.get("probes", []))),
        probe_mode=_text(data.get("probe_mode", "none")),
        health=_health(_object(data.get("health", {}))),
        irq_names=_names(data.get("irq_names", {})),
        symbols=_names(data.get("symbols", {})),
        devices=_names(data.get("devices", {})),
        cgroups=_names(data.get("cgroups", {})),
        maps=tuple(_mapping(row) for row in _array(data.get("maps", []))),
        cpu_seq={cpu: _integer(last) for cpu, last in _object(data.get("cpu_seq", {})).items()},
        oracles=dict(_object(data.get("oracles", {}))),
    )


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace manifest.json: a reader sees the old text or the new one, also after a power cut. Raises OSError."""
    text = json.dumps(manifest_to_json(manifest), indent=1, sort_keys=False)
    temporary = path / (MANIFEST_NAME + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path / MANIFEST_NAME)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the run directory `path`. Raises RunFileError: missing, foreign, damaged or newer."""
    if not path.exists():
        raise RunFileError(f"there is no run at {path}", "give the directory that `jitterprof run --out DIR` wrote")
    file = path / MANIFEST_NAME
    if not path.is_dir() or not file.is_file():
        raise RunFileError(
            f"{path} is not a jitterprof run: it has no {MANIFEST_NAME}",
            "give a NAME.jprof directory, not a file in it",
        )
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFileError(f"cannot read {file}: {error.strerror}", "check the rights on the run directory") from error
    except ValueError as error:
        raise RunFileError(f"{file} is damaged: {error}", "the run cannot be opened; record it again") from error
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int) or "spec" not in data:
        raise RunFileError(
            f"{file} was not written by jitterprof: it has no schema and spec", "give a NAME.jprof directory"
        )
    if data["schema"] > SCHEMA_VERSION:
        raise RunFileError(
            f"{path} has schema {data['schema']}; this version reads up to {SCHEMA_VERSION}", "upgrade jitterprof"
        )
    try:
        return manifest_from_json(data)
    except KeyError as error:
        raise RunFileError(
            f"{file} is damaged: no {error.args[0]}", "the run cannot be opened; record it again"
        ) from error
    except (TypeError, ValueError) as error:
        raise RunFileError(f"{file} is damaged: {error}", "the run cannot be opened; record it again") from error


def _spec(data: Mapping[str, object]) -> RunSpec:
    default = RunSpec(workload="")
    requests, slo = data.get("requests"), data.get("slo_ns")
    return RunSpec(
        workload=_text(data["workload"]),
        backend=_text(data.get("backend", default.backend)),
        device=_text(data.get("device", default.device)),
        threads=_integer(data.get("threads", default.threads)),
        workers=_integer(data.get("workers", default.workers)),
        cpus=_integers(data.get("cpus", [])),
        arrival=_text(data.get("arrival", default.arrival)),
        duration_ns=_integer(data.get("duration_ns", default.duration_ns)),
        requests=None if requests is None else _integer(requests),
        warmup_ns=_integer(data.get("warmup_ns", default.warmup_ns)),
        seed=_integer(data.get("seed", default.seed)),
        probes=_text(data.get("probes", default.probes)),
        keep=_text(data.get("keep", default.keep)),
        slo_ns=None if slo is None else _integer(slo),
        dims=_pairs(data.get("dims", []), _integer),
        gc=_text(data.get("gc", default.gc)),
        settings=_pairs(data.get("settings", []), _text),
    )


def _health(data: Mapping[str, object]) -> Health:
    loss = _object(data.get("loss", {}))
    return Health(
        loss=Loss(
            ring_full=_integer(loss.get("ring_full", 0)),
            recursion_misses=_integer(loss.get("recursion_misses", 0)),
            sequence_gaps=_integer(loss.get("sequence_gaps", 0)),
        ),
        floor=_quantiles(_object(data.get("floor", {}))),
        dispatch_lag=_quantiles(_object(data.get("dispatch_lag", {}))),
        achieved_rate=_number(data.get("achieved_rate", 0.0)),
        offered_rate=_number(data.get("offered_rate", 0.0)),
        saturated=bool(data.get("saturated", False)),
        cut=bool(data.get("cut", False)),
        caveats=tuple(_text(line) for line in _array(data.get("caveats", []))),
    )


def _quantiles(data: Mapping[str, object]) -> Quantiles:
    return Quantiles(
        count=_integer(data.get("count", 0)),
        p50_ns=_integer(data.get("p50_ns", 0)),
        p90_ns=_integer(data.get("p90_ns", 0)),
        p99_ns=_integer(data.get("p99_ns", 0)),
        p99_9_ns=_integer(data.get("p99_9_ns", 0)),
        max_ns=_integer(data.get("max_ns", 0)),
        mean_ns=_number(data.get("mean_ns", 0.0)),
    )


def _probe(data: Mapping[str, object]) -> ProbeStatus:
    return ProbeStatus(_text(data["name"]), _text(data["state"]), _text(data.get("reason", "")))


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not an object")
    return cast("dict[str, object]", value)


def _array(value: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} is not an array")
    return list(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not an integer")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _integers(value: object) -> tuple[int, ...]:
    return tuple(_integer(item) for item in _array(value))


def _names(value: object) -> dict[str, str]:
    return {key: _text(name) for key, name in _object(value).items()}


def _pairs(value: object, convert: Callable[[object], _T]) -> tuple[tuple[str, _T], ...]:
    return tuple((_text(name), convert(item)) for name, item in map(_array, _array(value)))


def _window(value: object) -> tuple[int, int]:
    start, end = _integers(value)
    return start, end


def _mapping(value: object) -> tuple[int, int, str]:
    start, end, what = _array(value)
    return _integer(start), _integer(end), _text(what)
