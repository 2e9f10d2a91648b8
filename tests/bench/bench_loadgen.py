"""Null response time of our load generator beside MLPerf LoadGen's (Server scenario), same Poisson rate, one run.

Both answer a request that does nothing, and both count from when the schedule wanted it to start. Rounds of the two
alternate in random order, each in a fresh process, so that whatever else the machine does hits both alike.

    python tests/bench/bench_loadgen.py [--rates 500,2000] [--rounds 6] [--seconds 10] [--workers 1] [--json]
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

QUANTILES = {"p50": "50.00", "p90": "90.00", "p99": "99.00", "p99.9": "99.90"}
#: A round is quiet when everything else took less than this many CPUs beside both arms.
QUIET = 0.2
ARMS = ("jitterprof", "loadgen")


def ours(rate: float, seconds: int, seed: int, workers: int, folder: Path) -> dict[str, float]:
    """Quantiles of end - intended start, ns, over the measured window of one session with default settings."""
    from jitterprof.load.arrival import Poisson
    from jitterprof.load.generator import LoadPlan, run_load
    from jitterprof.load.hygiene import lock_process
    from jitterprof.load.request_file import read_rows
    from jitterprof.model.request import Phase

    class Null:
        def infer(self, index: int) -> None:
            pass

    lock_process()
    plan = LoadPlan(Poisson(rate), duration_ns=seconds * 10**9, warmup_ns=10**9, floor_ns=0, seed=seed)
    run_load(plan, [Null() for _ in range(workers)], folder)
    rows = np.concatenate([read_rows(folder / f"requests.{worker}.stream") for worker in range(workers)])
    rows = rows[rows["state"] >> 8 == Phase.MEASURED]
    response = rows["end"] - rows["intended"]
    found = np.quantile(response, [float(q) / 100 for q in QUANTILES.values()], method="inverted_cdf")
    return dict(zip(QUANTILES, map(float, found), strict=True)) | {"count": len(rows)}


def loadgen(rate: float, seconds: int, seed: int, folder: Path) -> dict[str, float]:
    """The same figures from LoadGen's own summary: its latency is completion - scheduled time in this scenario."""
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    settings.scenario = lg.TestScenario.Server
    settings.mode = lg.TestMode.PerformanceOnly
    settings.server_target_qps = rate
    settings.server_target_latency_ns = 10**9
    settings.min_duration_ms = seconds * 1000
    settings.min_query_count = int(rate * seconds)
    settings.schedule_rng_seed = seed
    log = lg.LogSettings()
    log.log_output.outdir = str(folder)
    log.enable_trace = False

    def issue(samples: list[object]) -> None:
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples])  # type: ignore[attr-defined]

    sut = lg.ConstructSUT(issue, lambda: None)
    qsl = lg.ConstructQSL(1024, 1024, lambda indices: None, lambda indices: None)
    lg.StartTestWithLogSettings(sut, qsl, settings, log)
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)
    summary = (folder / "mlperf_log_summary.txt").read_text()
    found = {
        name: float(re.search(rf"^{label} percentile latency \(ns\)\s*:\s*(\d+)", summary, re.M)[1])  # type: ignore[index]
        for name, label in QUANTILES.items()
    }
    detail = (folder / "mlperf_log_detail.txt").read_text()
    count = re.search(r'"key": "result_query_count", "value": (\d+)', detail)
    return found | {"count": float(count[1]) if count else float("nan")}


def one(arm: str, rate: float, seconds: int, seed: int, workers: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        if arm == "loadgen":
            return loadgen(rate, seconds, seed, Path(folder))
        return ours(rate, seconds, seed, workers, Path(folder))


def _busy_seconds() -> float:
    """CPU time that the machine has spent on anything but idling."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _child_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def fresh(arm: str, rate: float, seconds: int, seed: int, workers: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", arm, "--rates", str(rate)]
    command += ["--seconds", str(seconds), "--seed", str(seed), "--workers", str(workers)]
    began, busy, ours = time.monotonic(), _busy_seconds(), _child_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    others = (_busy_seconds() - busy - (_child_seconds() - ours)) / (time.monotonic() - began)
    if done.returncode:
        raise RuntimeError(f"{arm} failed: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]) | {"others": max(0.0, others)}


def compare(rate: float, rounds: int, seconds: int, workers: int) -> dict[str, object]:
    """Medians over rounds, and per-round ratios ours / theirs with their range."""
    seen: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for number in range(rounds):
        for arm in random.sample(ARMS, 2):
            seen[arm].append(fresh(arm, rate, seconds, number + 1, workers))
    table: dict[str, object] = {"rate": rate, "rounds": rounds, "workers": workers}
    others = np.array([[result["others"] for result in seen[arm]] for arm in ARMS])
    quiet = (others < QUIET).all(axis=0)
    table["quiet_rounds"] = int(quiet.sum())
    for name in QUANTILES:
        by_arm = {arm: np.array([result[name] for result in seen[arm]]) for arm in ARMS}
        ratio = by_arm["jitterprof"] / by_arm["loadgen"]
        table[name] = {
            **{f"{arm}_ns": float(np.median(values)) for arm, values in by_arm.items()},
            "ratio": float(np.median(ratio)),
            "ratio_min": float(ratio.min()),
            "ratio_max": float(ratio.max()),
            "quiet_ratio": float(np.median(ratio[quiet])) if quiet.any() else float("nan"),
            "quiet_ns": [float(np.median(by_arm[arm][quiet])) if quiet.any() else float("nan") for arm in ARMS],
        }
    table["others"] = {arm: [round(result["others"], 2) for result in seen[arm]] for arm in ARMS}
    table["count"] = {arm: [result["count"] for result in seen[arm]] for arm in ARMS}
    return table


@pytest.mark.bench
@pytest.mark.parametrize("rate", [500.0, 2000.0])
def test_null_response_is_below_loadgen(rate: float) -> None:
    table = compare(rate, rounds=5, seconds=5, workers=1)
    print(json.dumps(table))
    assert all(table[name]["ratio"] < 1 for name in QUANTILES), table  # type: ignore[index]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="500,2000")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", choices=ARMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    rates = [float(rate) for rate in given.rates.split(",")]
    if given.one:
        print(json.dumps(one(given.one, rates[0], given.seconds, given.seed, given.workers)))
        return 0
    tables = [compare(rate, given.rounds, given.seconds, given.workers) for rate in rates]
    if given.json:
        print(json.dumps(tables))
    for table in () if given.json else tables:
        print(f"\nnull response time at {table['rate']:g}/s, {given.rounds} rounds of {given.seconds} s, medians")
        print(
            f"{'':8}{'jitterprof':>12}{'LoadGen':>12}{'ratio':>9}   (lowest - highest of the rounds)"
            f"   quiet rounds: {table['quiet_rounds']}"
        )
        for name in QUANTILES:
            cell = table[name]
            assert isinstance(cell, dict)
            print(
                f"{name:8}{cell['jitterprof_ns'] / 1e3:9.1f} us{cell['loadgen_ns'] / 1e3:9.1f} us"
                f"{cell['ratio']:9.3f}   ({cell['ratio_min']:.3f} - {cell['ratio_max']:.3f})"
                f"   {cell['quiet_ns'][0] / 1e3:.1f} / {cell['quiet_ns'][1] / 1e3:.1f} us = {cell['quiet_ratio']:.3f}"
            )
        print(f"requests per round: {table['count']}")
        print(f"CPUs' worth of other work meanwhile: {table['others']}")
    above = [
        f"{name} at {table['rate']:g}/s"
        for table in tables
        for name in QUANTILES
        if table[name]["ratio"] >= 1  # type: ignore[index]
    ]
    if above:
        print(f"NOT below LoadGen: {', '.join(above)}", file=sys.stderr)
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
