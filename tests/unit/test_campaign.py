"""The scoring of the accuracy campaign and of the overhead bench, on numbers that can be checked by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_overhead import Cell, harrell_davis, ratio
from cooccurrence import Counts, outlier, thresholds
from faults import CPUS, cases
from occupants import Foreign, foreign_spans
from scoring import Score, bare
from tables import dose_response, figures, missed, wilson

from jitterprof.model.event import EVENT_DTYPE, EventKind, OutFlag
from jitterprof.model.run import Manifest, RunSpec
from jitterprof.store import Run

SCORE = Score(
    "hog", "ort-1", False, 0, 2_000_000, 0, 2_000_000, 0, True, True, 0, 2_000_000, "preempted", "jp-hog/7", "high",
    True, False, 0, 2_000_000, 2_010_000, (), False, "", False,
)  # fmt: skip
NONE = np.empty(0)


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81/263 and 0/20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_slope_is_that_of_the_line() -> None:
    true = [500_000, 2_000_000, 8_000_000] * 4
    found = dose_response(true, [100 + value * 9 // 10 for value in true])
    assert found is not None
    assert (found.slope, found.low, found.high) == pytest.approx((0.9, 0.9, 0.9), abs=1e-6)
    assert dose_response([5] * 20, list(range(20))) is None


def test_figures_leave_disturbed_pulses_out_and_judge_visible_ones() -> None:
    scores = [
        *[SCORE] * 8,
        replace(SCORE, right=False, billed=0, unknown=2_000_000),
        replace(SCORE, clean=False, right=False, billed=0),
        replace(SCORE, visible=False, right=False, billed=0),
    ]
    found = figures(scores)
    assert (found.pulses, found.clean, found.visible, found.right) == (11, 10, 9, 8)
    assert (found.error_us, found.error_share) == pytest.approx((10, 0.005))
    assert found.unknown == 0
    control = figures([replace(SCORE, control=True, true=-1, named=number == 0) for number in range(50)])
    assert [line.split(":")[0] for line in missed(found, control)] == ["right", "named in controls", "slope"]


def test_a_lock_holder_is_no_culprit() -> None:
    assert bare("jp-fifo/12 (holder jp-holder/9 of futex 0x7f)") == "jp-fifo/12"


def test_every_fault_has_a_case_on_each_workload_and_controls_have_no_fault() -> None:
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)
    assert sum(not case.fault.control for case in cases()) >= 12 * len({case.workload for case in cases()})
    assert all(case.fault.blame for case in cases() if not case.fault.control)
    if len(CPUS) > 1:
        assert "straggler_fifo.ort-2" in names and "straggler_fifo.ort-1" not in names


def _events(*rows: tuple[int, int, EventKind, int, int, int, int]) -> np.ndarray:
    """(ts, cpu, kind, flags, tid, other, a)"""
    events = np.zeros(len(rows), EVENT_DTYPE)
    for event, (ts, cpu, kind, flags, tid, other, a) in zip(events, rows, strict=True):
        event["ts"], event["cpu"], event["kind"], event["flags"] = ts, cpu, kind, flags
        event["tid"], event["other"], event["a"] = tid, other, a
    return events


def _task(tid: int, process: int, comm: bytes) -> tuple[int, int, EventKind, int, int, int, int]:
    return (0, 0, EventKind.TASK, 0, tid, process, int.from_bytes(comm.ljust(8, b"\0"), "little"))


def test_foreign_time_is_what_others_had_while_a_victim_wanted_the_cpu() -> None:
    events = _events(
        _task(10, 10, b"victim"),
        _task(11, 10, b"victim"),
        _task(20, 20, b"jp-hog"),
        _task(30, 30, b"mypy"),
        # Preempted by our own hog, by mypy after it, and back.
        (100, 1, EventKind.SWITCH_OUT, OutFlag.PREEMPT, 10, 20, 0),
        (200, 1, EventKind.OCCUPY, 0, 30, 20, 0),
        (500, 1, EventKind.SWITCH_IN, 0, 10, 30, 0),
        # Asleep: who runs then takes nothing, until a wake-up.
        (600, 1, EventKind.SWITCH_OUT, 0, 10, 30, 1),
        (900, 0, EventKind.WAKING, 0, 10, 0, 1 | 30 << 32),
        (950, 1, EventKind.SWITCH_IN, 0, 10, 30, 0),
        # A thread of the victim's own is nobody else.
        (1000, 1, EventKind.SWITCH_OUT, OutFlag.PREEMPT, 10, 11, 0),
        (1100, 1, EventKind.SWITCH_IN, 0, 10, 11, 0),
    )
    manifest = Manifest(1, "complete", RunSpec("x"), 0, "", pids=(10,))
    run = Run(Path(), manifest, NONE, events, NONE, NONE, NONE)
    found = foreign_spans(run)
    assert list(zip(found.start_ns.tolist(), found.end_ns.tolist(), strict=True)) == [(200, 500), (900, 950)]
    windows = np.array([[0, 2000], [250, 300], [400, 920], [500, 900]])
    assert found.inside(windows[:, 0], windows[:, 1]).tolist() == [350, 50, 120, 0]
    assert Foreign(np.empty(0, np.int64), np.empty(0, np.int64)).inside(windows[:, 0], windows[:, 1]).sum() == 0
    assert len(foreign_spans(run, ("mypy",)).start_ns) == 0


def test_the_baselines_count() -> None:
    start = np.arange(100) * 10_000_000
    end = start + 1_000_000
    burst = np.sort(np.append(start[50] + np.arange(40), start + 500))
    switches = np.repeat(start[70:71], 6) + np.arange(6)
    counts = Counts(
        ("preempted", "blocked", "block_io", "page_fault", "ipi"),
        (switches, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), burst),
    )
    names = outlier(counts, start, end)
    assert names[50] == "ipi" and names[70] == "preempted"
    assert set(names) == {"", "ipi", "preempted"} and names.count("") == 98
    # Six switches count for half a second, whoever was slow then.
    named = thresholds(counts, end)
    assert named[69] == () and named[70] == ("preempted",) and named[110 - 1 - 10] == ("preempted",)


def test_a_ratio_compares_windows_of_one_block() -> None:
    def cell(block: str, arm: str, p99: float) -> Cell:
        return Cell("pinned", block, 0, arm, 100, 1.0, p99, 1.0, 1.0, 0.0, -1, -1.0, -1, -1, -1)

    cells = [
        *(cell("a", "none", 100.0), cell("a", "none", 300.0), cell("a", "perf", 260.0), cell("a", "perf", 260.0)),
        *(cell("b", "none", 1000.0), cell("b", "none", 1000.0), cell("b", "perf", 1100.0), cell("b", "perf", 1100.0)),
    ]
    found = ratio(cells, "perf", "p99")
    assert (found.median, found.low, found.high) == pytest.approx((1.2, 1.1, 1.3))


def test_harrell_davis_quantiles_of_a_uniform_sample() -> None:
    found = harrell_davis(np.arange(1, 10_001))
    assert found == pytest.approx([5000, 9900, 9990], rel=1e-3)
