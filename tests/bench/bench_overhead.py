"""What tracing costs a process: latency quantiles and throughput, traced against not traced, beside peers.

One process serves windows of requests; around each window one arm is attached to it: jitterprof's recorder with all
events or with clocks only, `perf sched record`, bpftrace streaming the same events, nothing, and nothing again (A/A). A
block is all arms in random order and then in the reverse order; what is compared is the mean of an arm's two windows
with the mean of the two of `none`. Needs root; appends each block to a file, so that a long run can be made of short
ones.

    python tests/bench/bench_overhead.py run FILE [--on pinned,hog,switches] [--blocks 8] [--seconds 4] [--budget-s 500]
    python tests/bench/bench_overhead.py rate FILE [--seconds 8]     the recorder at 50,000 events a second
    python tests/bench/bench_overhead.py report FILE
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from tracers import NS, Traced, bpftrace, enabled_tracepoints, nothing, perf_sched, recorder

HERE = Path(__file__).resolve().parent
CPUS = tuple(sorted(os.sched_getaffinity(0)))
#: The workload has the last CPU, tracers the first, except where the workload takes both.
CPU, OTHER = CPUS[-1], CPUS[0]
QUANTILES = (0.5, 0.99, 0.999)
METRICS = ("p50", "p99", "p99.9", "throughput")
TARGET_RATIO, TARGET_CPU, TARGET_BYTES, TARGET_STORED = 1.02, 0.01, 40.0, 12.0
RATE = 50_000
_RESAMPLES = 2000
_MORE_TO_DO = 3

Attach = Callable[[int, tuple[int, ...]], AbstractContextManager[Traced]]
ARMS: dict[str, Attach] = {
    "none": nothing,
    "none again": nothing,
    "jitterprof": lambda pid, cpus: recorder(pid, cpus, "bpf"),
    "clocks": lambda pid, cpus: recorder(pid, cpus, "clocks"),
    "perf": perf_sched,
    "bpftrace": bpftrace,
}
WORKLOADS = ("pinned", "hog", "switches")


@dataclass(frozen=True)
class Cell:
    """One window under one arm. Times in ns, rates per second; -1: the arm has no such figure."""

    workload: str
    block: str
    position: int
    arm: str
    requests: int
    p50: float
    p99: float
    p99_9: float
    throughput: float
    cpu_share: float
    records: int
    records_per_s: float
    lost: int
    stream_bytes: int
    stored_bytes: int


class Windows:
    """A process that serves windows of requests on demand."""

    def __init__(self, words: list[str], times: Path) -> None:
        self._times = times
        self._process = subprocess.Popen(
            [*words, str(times)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = int(self._answer().split()[1])

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the workload's process ended")
        return line

    def serve(self, seconds: float) -> tuple[np.ndarray, float]:
        """Times of the requests in ns, and how long they took together, in s."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"window {round(seconds * NS)}\n")
        count, elapsed = map(int, self._answer().split())
        return np.fromfile(self._times, np.int64, count), elapsed / NS

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def workload(name: str, folder: Path, request_us: float = 1000.0) -> Iterator[tuple[Windows, tuple[int, ...]]]:
    """The process, and the CPUs that are left to tracers."""
    both = ",".join(map(str, CPUS))
    python = [sys.executable, str(HERE / "model_windows.py")]
    hog: subprocess.Popen[bytes] | None = None
    if name == "pinned":
        words, tracers = [*python, "mlp", "4", "1", str(CPU)], (OTHER,)
    elif name == "hog":
        words, tracers = [*python, "convnet", "1", "2", both], CPUS
        hog = subprocess.Popen(["taskset", "-c", both, sys.executable, "-c", "while True: pass"])
    else:
        program = folder / "handoffs"
        source = HERE / "native" / "handoffs.c"
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(program), str(source)], check=True)
        # 20 switches a millisecond: 20,000 a second.
        words, tracers = [str(program), str(CPU), "20", str(round(request_us * 1000))], (OTHER,)
    windows = None
    try:
        windows = Windows(words, folder / "times")
        yield windows, tracers
    finally:
        if windows is not None:
            windows.close()
        if hog is not None:
            hog.kill()
            hog.wait()


def harrell_davis(values: np.ndarray) -> list[float]:
    """QUANTILES of a cell (Harrell & Davis 1982): a weighted mean of all order statistics, less noisy than one."""
    from scipy.stats import beta

    ordered = np.sort(values).astype(float)
    n = len(ordered)
    edges = np.arange(n + 1) / n
    return [float(np.diff(beta.cdf(edges, (n + 1) * q, (n + 1) * (1 - q))) @ ordered) for q in QUANTILES]


def one_cell(windows: Windows, tracers: tuple[int, ...], arm: str, seconds: float, where: tuple[str, str, int]) -> Cell:
    with ARMS[arm](windows.pid, tracers) as traced:
        # Attaching disturbs: the first moments are not measured.
        windows.serve(0.3)
        cpu, begin = traced.cpu_ns(), time.monotonic_ns()
        times, elapsed = windows.serve(seconds)
        share = (traced.cpu_ns() - cpu) / (time.monotonic_ns() - begin)
        attached = time.monotonic_ns()
    p50, p99, p99_9 = harrell_davis(times)
    # Records of the settling are among them; their rate is that of the window.
    rate = traced.records / (elapsed + 0.3) if traced.records >= 0 else -1.0
    assert attached > begin
    return Cell(
        *where, arm, len(times), p50, p99, p99_9, len(times) / elapsed, share,
        traced.records, rate, traced.lost, traced.stream_bytes, traced.stored_bytes,
    )  # fmt: skip


def run(out: Path, names: list[str], blocks: int, seconds: float, budget_s: float, arms: list[str]) -> int:
    """Append blocks until there are `blocks` of each workload, or the budget is used up (then 3)."""
    begin, longest = time.monotonic(), 0.0
    done = {name: len({cell.block for cell in read(out) if cell.workload == name}) for name in names}
    while left := [name for name in names if done[name] < blocks]:
        name = min(left, key=lambda each: done[each])
        started = time.monotonic()
        if started - begin + longest > budget_s:
            print(f"blocks so far: {done}, of {blocks}: run the same command again", file=sys.stderr)
            return _MORE_TO_DO
        append(out, block(name, seconds, arms))
        done[name] += 1
        longest = max(longest, time.monotonic() - started)
        print(f"{name}: block {done[name]}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


def block(name: str, seconds: float, arms: list[str]) -> list[Cell]:
    """All arms in random order, then in the reverse order."""
    order = random.sample(arms, len(arms))
    number = f"{time.time_ns():x}"
    before = enabled_tracepoints()
    with tempfile.TemporaryDirectory(prefix="jp-overhead-") as folder, workload(name, Path(folder)) as (serving, cpus):
        serving.serve(1.0)
        cells = [
            one_cell(serving, cpus, arm, seconds, (name, number, position))
            for position, arm in enumerate([*order, *reversed(order)])
        ]
    left = set(enabled_tracepoints()) - set(before)
    if left:
        raise RuntimeError(f"tracepoints were left enabled: {', '.join(sorted(left))}")
    return cells


def rate(out: Path, seconds: float) -> None:
    """jitterprof on a process that makes RATE events a second: the length of a request is set by a first try."""
    request_us = 1000.0
    for final in (False, True):
        place = ("rate", f"{time.time_ns():x}", 0)
        with (
            tempfile.TemporaryDirectory(prefix="jp-overhead-") as folder,
            workload("switches", Path(folder), request_us) as (serving, cpus),
        ):
            cell = one_cell(serving, cpus, "jitterprof", seconds if final else 1.0, place)
        request_us *= cell.records_per_s / RATE
    append(out, [cell])


def append(out: Path, cells: list[Cell]) -> None:
    with out.open("a") as file:
        file.write("".join(json.dumps(asdict(cell)) + "\n" for cell in cells))


def read(out: Path) -> list[Cell]:
    """All cells so far."""
    return [Cell(**json.loads(line)) for line in out.read_text().splitlines()] if out.exists() else []


@dataclass(frozen=True)
class Ratio:
    """Of an arm to `none`: median over blocks, lowest and highest block, and a 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    ci_low: float
    ci_high: float


def value(cell: Cell, metric: str) -> float:
    return {"p50": cell.p50, "p99": cell.p99, "p99.9": cell.p99_9, "throughput": cell.throughput}[metric]


def ratio(cells: list[Cell], arm: str, metric: str) -> Ratio:
    """Per block the mean of the arm's windows by the mean of those of `none`."""
    per_block = []
    for number in dict.fromkeys(cell.block for cell in cells):
        mine = [value(cell, metric) for cell in cells if cell.block == number and cell.arm == arm]
        none = [value(cell, metric) for cell in cells if cell.block == number and cell.arm == "none"]
        per_block.append(float(np.mean(mine) / np.mean(none)))
    ratios = np.array(per_block)
    draws = np.random.default_rng(0).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), (0.025, 0.975))
    return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()), float(low), float(high))


def report(cells: list[Cell]) -> tuple[str, list[str]]:
    """The tables in markdown, and the targets that were missed."""
    lines, missed = [], []
    for name in dict.fromkeys(cell.workload for cell in cells if cell.workload != "rate"):
        mine = [cell for cell in cells if cell.workload == name]
        arms = [arm for arm in ARMS if any(cell.arm == arm for cell in mine)]
        none = [cell for cell in mine if cell.arm == "none"]
        times = ", ".join(f"{metric} {np.median([value(cell, metric) for cell in none]) / 1000:.0f} us"
                          for metric in METRICS[:3])  # fmt: skip
        blocks = len({cell.block for cell in mine})
        lines += [
            f"{name}: {blocks} blocks; without tracing {times}, "
            f"{np.median([cell.throughput for cell in none]):.0f} requests/s",
            "",
            "| | " + " | ".join(METRICS) + " | tracer's CPU | records/s |",
            "|" + "---|" * (len(METRICS) + 3),
        ]
        ratios = {(arm, metric): ratio(mine, arm, metric) for arm in arms for metric in METRICS}
        for arm in arms[1:]:
            of_arm = [cell for cell in mine if cell.arm == arm]
            parts = [_words(ratios[arm, metric]) for metric in METRICS]
            parts.append(f"{np.median([cell.cpu_share for cell in of_arm]):.2%}")
            found = float(np.median([cell.records_per_s for cell in of_arm]))
            parts.append(f"{found:.0f}" if found >= 0 else "")
            lines.append(f"| {arm} | " + " | ".join(parts) + " |")
        lines.append("")
        missed += _missed(name, arms, ratios)
    text, too_much = _bytes(cells)
    return "\n".join([*lines, text]), missed + too_much


def _missed(name: str, arms: list[str], ratios: dict[tuple[str, str], Ratio]) -> list[str]:
    found = []
    for metric in ("p50", "p99"):
        ours, same = ratios["jitterprof", metric], ratios["none again", metric]
        if not same.low <= ours.median <= same.high:
            found.append(f"{name} {metric}: {ours.median:.3f} is outside of A/A {same.low:.3f} to {same.high:.3f}")
        if metric == "p99" and ours.median > TARGET_RATIO:
            found.append(f"{name} p99: {ours.median:.3f} > {TARGET_RATIO}")
        for peer in ("perf", "bpftrace"):
            if peer in arms and ours.median > ratios[peer, metric].median:
                found.append(f"{name} {metric}: {ours.median:.3f}, {peer} {ratios[peer, metric].median:.3f}")
    return found


def _bytes(cells: list[Cell]) -> tuple[str, list[str]]:
    """What a record costs on disk, workload by workload, and the recorder at RATE."""
    text, missed = "", []
    for name in dict.fromkeys(cell.workload for cell in cells):
        ours = [cell for cell in cells if cell.workload == name and cell.records > 0]
        records = sum(cell.records for cell in ours)
        if not records:
            continue
        stream = sum(cell.stream_bytes for cell in ours) / records
        stored = sum(cell.stored_bytes for cell in ours) / records
        text += (
            f"{name}: {records} records, {sum(cell.lost for cell in ours)} lost; {stream:.1f} bytes each as recorded, "
        )
        text += f"{stored:.1f} once compressed\n"
        # A batch of records has a header of 16 bytes.
        if round(stream, 1) > TARGET_BYTES:
            missed.append(f"{name}: {stream:.1f} bytes a record > {TARGET_BYTES}")
        if stored > TARGET_STORED:
            missed.append(f"{name}: {stored:.1f} bytes a stored record > {TARGET_STORED}")
    for cell in cells:
        if cell.workload == "rate":
            text += f"recorder at {cell.records_per_s:.0f} records/s: {cell.cpu_share:.2%} of a CPU\n"
            if cell.cpu_share > TARGET_CPU * cell.records_per_s / RATE:
                missed.append(f"recorder: {cell.cpu_share:.2%} of a CPU at {cell.records_per_s:.0f} records/s")
    return text, missed


def _words(found: Ratio) -> str:
    return f"{found.median:.3f} ({found.ci_low:.3f} - {found.ci_high:.3f})"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "rate", "report"))
    parser.add_argument("file", type=Path, help="cells, as JSON lines")
    parser.add_argument("--on", default=",".join(WORKLOADS))
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one window")
    parser.add_argument("--budget-s", type=float, default=500.0)
    given = parser.parse_args(arguments)
    if len(CPUS) < 2:
        parser.error("needs two CPUs")
    if given.what == "run":
        arms = given.arms.split(",")
        return run(given.file, given.on.split(","), given.blocks, given.seconds, given.budget_s, arms)
    if given.what == "rate":
        rate(given.file, given.seconds)
        return 0
    text, missed = report(read(given.file))
    print(text)
    for line in missed:
        print(f"MISSED: {line}", file=sys.stderr)
    return 1 if missed else 0


@pytest.mark.bench
def test_overhead(tmp_path: Path) -> None:
    out = tmp_path / "cells.jsonl"
    main(["run", str(out), "--blocks", "2", "--seconds", "2"])
    main(["rate", str(out), "--seconds", "4"])
    main(["report", str(out)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
