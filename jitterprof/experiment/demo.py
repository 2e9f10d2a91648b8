"""The demo: a reference model under load, with a neighbour that we start, and end, ourselves."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jitterprof.experiment.neighbour import COMM as NEIGHBOUR
from jitterprof.experiment.session import Listener, Recording, record_session
from jitterprof.model.run import RunSpec
from jitterprof.system.cpus import allowed_cpus
from jitterprof.system.files import Host
from jitterprof.units import NS_PER_S

__all__ = ["NEIGHBOUR", "demo_folder", "record_demo"]

DURATION_NS = 25 * NS_PER_S
#: Requests per second: so few that a burst hits one of them and not a queue.
RATE = 100


@contextmanager
def _neighbour(cpu: int) -> Iterator[None]:
    command = [sys.executable, "-m", "jitterprof.experiment.neighbour", str(cpu), str(os.getpid())]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def demo_workload() -> tuple[str, str]:
    """Workload and backend: real weights where they are installed, else the smallest model that runs."""
    if importlib.util.find_spec("onnxruntime") is not None:
        if importlib.util.find_spec("silero_vad") is not None:
            return "silero-vad", "onnxruntime"
        if importlib.util.find_spec("onnx") is not None:
            return "mlp", "onnxruntime"
    return "mlp", "torch"


@contextmanager
def demo_folder() -> Iterator[Path]:
    """A temporary directory, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="jitterprof-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def record_demo(out: Path, listen: Listener) -> Recording:
    """Record the demo's model with its neighbour beside it, which has ended when this returns."""
    workload, backend = demo_workload()
    cpu = allowed_cpus(Host())[-1]
    spec = RunSpec(workload, backend, cpus=(cpu,), arrival=f"poisson:{RATE}", duration_ns=DURATION_NS)
    with _neighbour(cpu):
        return record_session(spec, out, listen)
