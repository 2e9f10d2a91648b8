"""The workload's process: loads the model, then serves the schedule. Nothing of the recorder runs in here."""

import dataclasses
import mmap
import os
import signal
import traceback
from pathlib import Path

import numpy as np

from jitterprof.backends.catalog import open_model
from jitterprof.backends.settings import read_settings
from jitterprof.errors import JitterprofError
from jitterprof.experiment.channel import Channel
from jitterprof.experiment.children import enter_child
from jitterprof.load.arrival import parse_arrival
from jitterprof.load.generator import FLOOR_NS, LoadPlan, run_load
from jitterprof.load.hygiene import lock_process, pin
from jitterprof.load.stop import StopCell
from jitterprof.load.worker import StateClocks
from jitterprof.load.workload import resolve
from jitterprof.model.event import CLOCK_SLOTS, CLOCK_TID, CLOCK_WORDS
from jitterprof.model.run import RunSpec
from jitterprof.model.stream import CLOCK_RING
from jitterprof.store.manifest import read_manifest
from jitterprof.system.thread_settings import apply_to_thread
from jitterprof.units import NS_PER_MS, parse_duration_ns

_FLOOR_MIN_NS = 200 * NS_PER_MS


def map_clocks(fd: int, ring: int = 0) -> StateClocks:
    """The state clocks that the probes keep, read-only; a thread finds its slot by its tid. `ring`: see StateClocks."""
    size = CLOCK_SLOTS * CLOCK_WORDS * 8
    mapped = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
    os.close(fd)
    table = np.frombuffer(mapped, np.uint64).reshape(CLOCK_SLOTS, CLOCK_WORDS)

    def slot_of(tid: int) -> int | None:
        found = np.flatnonzero(table[:, CLOCK_TID] == tid)
        return int(found[0]) if found.size else None

    return StateClocks(memoryview(mapped).cast("Q"), slot_of, ring)


def _apply(settings: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Thread settings, on this thread, and so on all that the runtime and the generator start from it, and on those
    that the imports have started already (numpy's pool)."""
    effective = apply_to_thread(0, settings)
    # mlock is the process's; a pool thread waits without a timer, and setting its slack would take CAP_SYS_NICE.
    others = tuple(pair for pair in settings if pair[0] not in ("mlock", "timerslack"))
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != os.getpid():
            apply_to_thread(int(task.name), others)
    return effective


def floor_ns(spec: RunSpec) -> int:
    """How long to measure the generator's own floor: a fifth of a short session, FLOOR_NS at most."""
    if spec.requests is not None:
        return FLOOR_NS
    return min(FLOOR_NS, max(_FLOOR_MIN_NS, spec.duration_ns // 5))


def _serve(channel: Channel, stop: StopCell) -> None:
    start = channel.receive()
    assert start is not None
    assert start.kind == "load"
    out = Path(str(start.body["out"]))
    spec = read_manifest(out).spec
    caveats = [lock_process()]
    if spec.cpus:
        pin(spec.cpus)
    effective = _apply(spec.settings)
    model = open_model(resolve(spec.workload), spec.backend, spec.device, spec.threads, read_settings(spec))
    streams = [model.stream(worker) for worker in range(spec.workers)]
    channel.send(
        "ready",
        pid=os.getpid(),
        shapes=list(model.shapes),
        runtime=dict(model.runtime),
        effective=[list(pair) for pair in effective],
    )
    go = channel.receive()
    assert go is not None
    plan = LoadPlan(
        arrival=parse_arrival(spec.arrival),
        duration_ns=spec.duration_ns,
        requests=spec.requests,
        warmup_ns=spec.warmup_ns,
        floor_ns=floor_ns(spec),
        timer_slack_ns=parse_duration_ns(dict(effective).get("timerslack", "1ns")),
        seed=spec.seed,
        gc=spec.gc,
        emits_tokens=model.emits_tokens,
        procfs=bool(go.body["procfs"]),
    )
    ring = CLOCK_RING if spec.keep == "tail" else 0
    clocks = map_clocks(go.fd, ring) if go.fd >= 0 and go.body["snapshots"] else None
    result = run_load(plan, streams, out, shape_of=model.shape, clocks=clocks, stop=stop)
    body = dataclasses.asdict(result)
    body["caveats"] = [*body["caveats"], *filter(None, caveats)]
    channel.send("done", **body)
    channel.receive()  # keep the threads' counters readable until the recorder has looked at them
    model.close()


def main() -> None:
    """Entry point of `python -m`."""
    channel = enter_child()
    stop = StopCell()
    signal.signal(signal.SIGTERM, lambda *_: stop.request("interrupted"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _serve(channel, stop)
    except JitterprofError as error:
        channel.send_error(error)
    except EOFError:
        pass
    except Exception:
        traceback.print_exc()
        raise


if __name__ == "__main__":
    main()
