"""What explaining a session costs: time and memory per stage, over sessions of 1e4 to 1e7 records.

Each session is made by `synthetic_session` and written to disk; each measurement runs in a fresh process that opens it
and goes through the stages of `jitterprof explain`. `whole` is that command's own path in a process of its own. The
best of a few rounds is shown (another process may have had the CPU), and the peak of the resident memory.

    python tests/bench/bench_analysis.py [--sizes 1e4,1e5,1e6,1e7] [--rounds 3] [--folder DIR] [--profile STAGE]
"""

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from synthetic_session import EVENTS_PER_REQUEST, write_session

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
#: The promise for the largest size, on two CPUs.
LIMIT_S, LIMIT_GB = 20.0, 3.0
#: A stage is linear when a record costs at most this much more in the largest session than in one a tenth its size.
LINEAR = 1.5


@dataclass(frozen=True)
class Cost:
    """One stage over one session: elapsed and CPU seconds, and the highest resident memory while it ran."""

    stage: str
    events: int
    wall_s: float
    cpu_s: float
    peak_gb: float


@dataclass
class Stages:
    """The stages of `jitterprof explain`, each on what the ones before it left."""

    folder: Path

    def open(self) -> None:
        from jitterprof.store import open_run

        self.run = open_run(self.folder)

    def evidence(self) -> None:
        from jitterprof.analysis.evidence import evidence_of

        self.evidence_of_run = evidence_of(self.run.manifest, self.run.events, self.run.gc)

    def states(self) -> None:
        from jitterprof.analysis.timeline import sort_out

        self.recording = sort_out(self.run.requests, self.evidence_of_run)

    def ledger(self) -> None:
        from jitterprof.analysis.ledger import build_ledger_and_claims

        found = build_ledger_and_claims(self.run.requests, self.evidence_of_run, timeline=self.recording)
        self.ledger_of_run, self.claims = found
        del self.recording

    def run_excess(self) -> None:
        from jitterprof.analysis.run_excess import bill_run_excess

        run, gaps = self.run, self.evidence_of_run.gaps
        self.ledger_of_run = bill_run_excess(run.requests, run.events, self.ledger_of_run, None, self.claims, gaps)[0]
        del self.claims, self.evidence_of_run

    def queue(self) -> None:
        from jitterprof.analysis.queueing import inherit_queue

        self.ledger_of_run = inherit_queue(self.run.requests, self.ledger_of_run)

    def explain(self) -> None:
        from jitterprof.analysis.explanation import explain

        explain(self.run, self.ledger_of_run)

    def whole(self) -> None:
        from jitterprof.analysis.explanation import explain
        from jitterprof.analysis.session_ledger import session_ledger
        from jitterprof.store import open_run

        run = open_run(self.folder)
        explain(run, session_ledger(run))


PARTS = ("open", "evidence", "states", "ledger", "run_excess", "queue", "explain")


def peak_gb() -> float:
    """The highest resident memory since `forget_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measured(stage: str, events: int, act: Callable[[], None]) -> Cost:
    forget_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return Cost(stage, events, time.perf_counter() - wall, time.process_time() - cpu, peak_gb())


def child(folder: Path, events: int, names: list[str], profile: str) -> None:
    """Run the stages in this process, and print their costs as JSON; or profile one of them."""
    stages = Stages(folder)
    costs = []
    for name in names:
        act = getattr(stages, name)
        if name == profile:
            profiler = cProfile.Profile()
            profiler.runcall(act)
            pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
        else:
            costs.append(measured(name, events, act))
    print(json.dumps([asdict(cost) for cost in costs]))


def in_fresh_process(folder: Path, events: int, names: tuple[str, ...], profile: str = "") -> list[Cost]:
    command = [sys.executable, __file__, "--child", str(folder), str(events), ",".join(names), profile]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return [Cost(**cost) for cost in json.loads(done.stdout)]


def session(folder: Path, events: int) -> tuple[Path, int]:
    """The session of about that many events under `folder`, made by a process of its own if it is not there yet."""
    path = folder / f"{events}.jprof"
    count = path.with_suffix(".count")
    if not count.exists():
        command = [sys.executable, __file__, "--make", str(path), str(events)]
        count.write_text(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return path, int(count.read_text())


def costs_of(folder: Path, sizes: tuple[int, ...], rounds: int) -> list[Cost]:
    """Per size and stage the round that took least time, with the highest memory of any."""
    found: list[Cost] = []
    for size in sizes:
        path, events = session(folder, size)
        tries = [
            in_fresh_process(path, events, PARTS) + in_fresh_process(path, events, ("whole",)) for _ in range(rounds)
        ]
        for costs in zip(*tries, strict=True):
            best = min(costs, key=lambda cost: cost.wall_s)
            found.append(
                Cost(best.stage, events, best.wall_s, min(c.cpu_s for c in costs), max(c.peak_gb for c in costs))
            )
    return found


def table(costs: list[Cost]) -> str:
    sizes = sorted({cost.events for cost in costs})
    lines = ["stage        " + "".join(f"{size:>22,} events" for size in sizes) + "  linear", ""]
    for stage in (*PARTS, "whole"):
        mine = sorted((cost for cost in costs if cost.stage == stage), key=lambda cost: cost.events)
        cells = [f"{c.wall_s:8.2f} s {c.wall_s / c.events * 1e9:7.0f} ns {c.peak_gb:5.2f} GB" for c in mine]
        lines.append(f"{stage:12} " + "  ".join(f"{cell:>27}" for cell in cells) + f"  {linearity(mine)}")
    return "\n".join(lines)


def linearity(costs: list[Cost]) -> str:
    """CPU time per record in the largest session over that in the one before."""
    if len(costs) < 2:
        return ""
    ratio = (costs[-1].cpu_s / costs[-1].events) / max(costs[-2].cpu_s / costs[-2].events, 1e-12)
    return f"{'yes' if ratio <= LINEAR else 'NO'} ({ratio:.2f})"


@pytest.mark.bench
def test_analysis_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = costs_of(tmp_path, SIZES, 2)
    with capsys.disabled():
        print("\n" + table(costs))
    whole = costs[-1]
    assert whole.stage == "whole"
    assert whole.wall_s <= LIMIT_S
    assert whole.peak_gb <= LIMIT_GB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", default=",".join(f"{size:.0e}" for size in SIZES), help="events per session")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the sessions here, and use the ones that are there")
    parser.add_argument("--profile", metavar="STAGE", choices=(*PARTS, "whole"), help="profile one stage instead")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = tuple(int(float(size)) for size in arguments.sizes.split(","))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if arguments.profile:
            names = ("whole",) if arguments.profile == "whole" else PARTS[: PARTS.index(arguments.profile) + 1]
            for size in sizes:
                path, events = session(folder, size)
                in_fresh_process(path, events, names, arguments.profile)
            return
        costs = costs_of(folder, sizes, arguments.rounds)
    print(json.dumps([asdict(cost) for cost in costs], indent=1) if arguments.json else table(costs))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(","), sys.argv[5])
    elif sys.argv[1:2] == ["--make"]:
        print(write_session(Path(sys.argv[2]), int(sys.argv[3]) // EVENTS_PER_REQUEST)[1])
    else:
        main()
