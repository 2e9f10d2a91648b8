"""A model that serves one window of requests whenever it is asked: `model_windows.py NAME RUNS THREADS CPUS FILE`.

NAME: a reference model in workloads/; a request is RUNS runs of it. Reads "window NS" from stdin, serves requests one
after another for that long, writes their times in ns (int64) to FILE and answers with "COUNT ELAPSED_NS". One process,
one session, all windows: what differs between windows is what traces it.
"""

import gc
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_WORKLOADS = Path(__file__).resolve().parents[2] / "workloads"
_MOST = 1 << 21


def load(name: str, threads: int) -> tuple[Any, dict[str, Any]]:
    """An onnxruntime session and an input."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    spec = importlib.util.spec_from_file_location(name, _WORKLOADS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.build_onnx()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model.model, options, providers=["CPUExecutionProvider"])
    return session, dict(model.inputs(np.random.default_rng(0))[0])


def main() -> None:
    name, runs, threads, cpus, file = sys.argv[1:]
    os.sched_setaffinity(0, map(int, cpus.split(",")))
    session, feed = load(name, int(threads))
    took = np.zeros(_MOST, np.int64)
    cells, now, run, times = took.data, time.monotonic_ns, session.run, range(int(runs))
    for _ in range(200):
        run(None, feed)
    gc.collect()
    gc.freeze()
    gc.disable()
    print("ready", os.getpid(), flush=True)
    for line in sys.stdin:
        length = int(line.split()[1])
        count, at = 0, now()
        start = at
        while at - start < length and count < _MOST:
            begin = at
            for _ in times:
                run(None, feed)
            at = now()
            cells[count] = at - begin
            count += 1
        Path(file).write_bytes(took[:count].tobytes())
        print(count, at - start, flush=True)


if __name__ == "__main__":
    main()
