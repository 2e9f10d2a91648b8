"""The figures of a session, workload by workload: latency, closure, unknown, lost, observer, dispatch lag, floor.

Each is recorded through the command line's own path, with Poisson arrivals at about half of what the workload serves.

    python tests/bench/bench_sessions.py [--seconds 30] [--cpu 1] [--only silero-vad:onnxruntime,...]
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

#: Workload, backend, requests per second.
CASES = (
    ("silero-vad", "onnxruntime", 1000.0),
    ("silero-vad", "torch", 600.0),
    ("textline-cls", "onnxruntime", 300.0),
    ("decoder", "onnxruntime", 10.0),
    ("decoder", "torch", 6.0),
)
COLUMNS = (
    "workload", "backend", "requests", "p50 us", "p99 us", "p99.9 us", "closed", "unknown", "lost",
    "observer", "lag p99 us", "floor p50 us", "floor p99 us", "floor p99.9 us", "explain s",
)  # fmt: skip


def measure(workload: str, backend: str, rate: float, seconds: float, cpu: int) -> tuple[str, ...]:
    """One recorded and explained session as a table row."""
    from jitterprof.analysis.explanation import explain
    from jitterprof.analysis.session_ledger import session_ledger
    from jitterprof.cli.spec import run_spec
    from jitterprof.experiment.session import record_session
    from jitterprof.model.request import Kind, Phase

    spec = run_spec(workload, backend=backend, cpus=str(cpu), arrival=f"poisson:{rate}", duration=f"{seconds}s")
    with tempfile.TemporaryDirectory() as folder:
        recording = record_session(spec, Path(folder) / "session.jprof")
        begun = time.monotonic()
        ledger = session_ledger(recording.run)
        found = explain(recording.run, ledger)
        took = time.monotonic() - begun
    requests = recording.run.requests
    mine = np.flatnonzero((requests["phase"] == Phase.MEASURED) & (requests["kind"] == Kind.REQUEST))
    sums = np.bincount(ledger.pieces["row"], ledger.pieces["ns"], len(requests)).astype(np.int64)
    closed = sums[mine] == (requests["end_ns"] - requests["intended_ns"])[mine]
    health, latency = found.health, found.latency
    us = [f"{ns / 1000:.0f}" for ns in (latency.p50_ns, latency.p99_ns, latency.p99_9_ns)]
    floor = [f"{ns / 1000:.1f}" for ns in (health.floor.p50_ns, health.floor.p99_ns, health.floor.p99_9_ns)]
    return (
        workload,
        backend,
        str(len(mine)) + (" saturated" if recording.trouble else ""),
        *us,
        f"{closed.mean():.2%}",
        f"{health.unknown_share:.3%}",
        str(health.lost_events),
        f"{health.observer_share:.3%}",
        f"{health.dispatch_lag.p99_ns / 1000:.1f}",
        *floor,
        f"{took:.1f}",
    )


def main(arguments: list[str]) -> None:
    """Print one row per case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="")
    chosen = parser.parse_args(arguments)
    only = {tuple(name.split(":")) for name in chosen.only.split(",") if name}
    print(" | ".join(COLUMNS))
    for workload, backend, rate in CASES:
        if not only or (workload, backend) in only:
            print(" | ".join(measure(workload, backend, rate, chosen.seconds, chosen.cpu)), flush=True)


@pytest.mark.bench
def test_sessions() -> None:
    main(["--seconds", "10"])


if __name__ == "__main__":
    main(sys.argv[1:])
