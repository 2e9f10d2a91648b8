"""Victims whose faults are known: `jitterprof run tests/truth/victims.py:build`.

`build`: a fixed piece of arithmetic on one thread, about 1 to 2 ms. `build_ort` and `build_ort_pool`: the convolutional
reference model in onnxruntime, about 1.2 ms, with one intra-op thread and with two, the second on the CPU that
OTHER_CPU_ENV names. When the control file (its path is in CONTROL_ENV) asks for an action, the next request does that
too and answers with its exact start and end (victim_actions.py).
"""

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "injectors"))

from control import CONTROL_ENV, OTHER_CPU_ENV, Control

_WORKLOADS = Path(__file__).resolve().parents[2] / "workloads"
_ELEMENTS = 1 << 17
_ROUNDS = 8
_REGISTER_GLOBAL_EXPEDITED = 4
_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283}


def build() -> Callable[[], Any]:
    """The workload: a callable that is one request."""
    source = np.random.default_rng(7).random(_ELEMENTS, dtype=np.float32)
    result = np.empty_like(source)

    def work() -> None:
        # Element-wise on purpose: a matrix product would start BLAS threads of its own.
        for _ in range(_ROUNDS):
            np.sin(source, out=result)
            np.exp(result, out=result)
            np.sqrt(result, out=result)

    return _with_actions(work)


def build_ort() -> Callable[[], Any]:
    """One run of the model on one thread."""
    session, feed = _session(1)
    return _with_actions(lambda: session.run(None, feed))


def build_ort_pool() -> Callable[[], Any]:
    """Two runs on two threads: as long as one run on one."""
    session, feed = _session(2)

    def work() -> None:
        session.run(None, feed)
        session.run(None, feed)

    return _with_actions(work)


def _session(threads: int) -> tuple[Any, dict[str, Any]]:
    """An onnxruntime session of workloads/convnet.py, warm, and an input."""
    import onnxruntime

    sys.path.insert(0, str(_WORKLOADS))
    import convnet

    model = convnet.build_onnx()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    if threads > 1:
        # The numbers that onnxruntime wants begin at 1.
        other = str(int(os.environ[OTHER_CPU_ENV]) + 1)
        options.add_session_config_entry("session.intra_op_thread_affinities", other)
    session = onnxruntime.InferenceSession(model.model, options, providers=["CPUExecutionProvider"])
    feed = dict(model.inputs(np.random.default_rng(0))[0])
    for _ in range(50):
        session.run(None, feed)
    return session, feed


def _with_actions(work: Callable[[], Any]) -> Callable[[], Any]:
    """`work`, and after it the actions of the control file where there is one."""
    path = os.environ.get(CONTROL_ENV)
    if not path:
        return work
    # So that membarrier's IPIs reach this process (ipi_storm --how membarrier); the perf kind needs no consent.
    number = _SYS_MEMBARRIER.get(platform.machine())
    if number is not None and ctypes.CDLL(None, use_errno=True).syscall(number, _REGISTER_GLOBAL_EXPEDITED, 0, 0):
        raise OSError(ctypes.get_errno(), "membarrier registration")
    from victim_actions import Actions

    requested = Actions(Control(Path(path))).requested

    def request() -> None:
        work()
        requested()

    return request
