"""The injectors themselves: each does what its log says, on the CPU it was told, and leaves nothing behind.

Without this a truth test that fails could not say whether the blame or the fault was wrong.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from injectors.control import CONTROL_ENV, Control
from injectors.disk import interrupted_cpus
from injectors.injector import PROGRAMS, VICTIM_ACTIONS, Injector

HERE = Path(__file__).resolve().parent
#: The CPU of the victim: the last one, where the disk's interrupts go on many guests.
CPU = max(os.sched_getaffinity(0))
PULSES = 6
RPS = Path("/sys/class/net/lo/queues/rx-0/rps_cpus")


@contextmanager
def spinner(folder: Path, cpu: int = CPU) -> Iterator[tuple[int, Path]]:
    """Its pid and the file that holds its gaps once the block is left."""
    out = folder / "gaps"
    process = subprocess.Popen(
        [sys.executable, str(HERE / "spinner.py"), str(cpu), str(out)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process.pid, out
    finally:
        process.terminate()
        process.communicate(timeout=30)


def counter(file: str, row: str, cpu: int = CPU) -> int:
    """The count of `cpu` in the row of /proc/interrupts or /proc/softirqs whose label or last word is `row`."""
    lines = Path(file).read_text().splitlines()
    column = lines[0].split().index(f"CPU{cpu}") + 1
    return sum(
        int(words[column])
        for words in map(str.split, lines[1:])
        if words[0] == f"{row}:" or (not words[0][:-1].isupper() and words[-1].endswith(row))
    )


def lost_ns(gaps: npt.NDArray[np.int64], t0_ns: int, t1_ns: int) -> int:
    """How much of [t0, t1) lies in gaps."""
    return int(np.clip(np.minimum(gaps[:, 1], t1_ns) - np.maximum(gaps[:, 0], t0_ns), 0, None).sum())


def disturb(kind: str, folder: Path, cpu: int = CPU, **options: object) -> tuple[list[float], list[float], Injector]:
    """Shares of each pulse, and of the time just before each pulse, that the spinner lost."""
    with spinner(folder, cpu) as (pid, out):
        if kind in ("quota", "sigstop"):
            options["pid"] = pid
        with Injector(kind, cpu, pulses=PULSES, **options) as injector:
            pass
    gaps = np.fromfile(out, dtype=np.int64).reshape(-1, 2)
    inside = [lost_ns(gaps, t0, t1) / (t1 - t0) for t0, t1 in injector.pulses]
    before = [lost_ns(gaps, t0 - 20_000_000, t0) / 20_000_000 for t0, _ in injector.pulses]
    return inside, before, injector


@pytest.mark.parametrize(
    ("kind", "options", "share_min", "share_max"),
    [
        ("fifo_burner", {"pulse_ms": 5}, 0.95, 1.0),
        ("hog", {"pulse_ms": 40}, 0.25, 0.75),
        ("hog", {"pulse_ms": 40, "hogs": 3, "gap_ms": 200}, 0.5, 0.95),
        ("sigstop", {"pulse_ms": 5}, 0.9, 1.0),
        ("quota", {"pulse_ms": 300, "gap_ms": 400}, 0.5, 0.95),
    ],
)
def test_off_cpu_kinds_take_the_time_they_log(
    kind: str, options: dict[str, float], share_min: float, share_max: float, tmp_path: Path
) -> None:
    inside, before, injector = disturb(kind, tmp_path, **options)
    assert len(inside) == PULSES
    print(f"\n{kind} {options}: lost inside {np.median(inside):.3f}, before {np.median(before):.3f}")
    assert share_min <= np.median(inside) <= share_max
    assert np.median(before) < 0.2
    if kind == "quota":
        throttled = [row["throttled_ns"] / (row["t1_ns"] - row["t0_ns"]) for row in injector.rows]
        assert np.median(throttled) == pytest.approx(np.median(inside), abs=0.15)
    if kind in ("fifo_burner", "hog"):
        burnt = [row["cpu_ns"] / (row["t1_ns"] - row["t0_ns"]) for row in injector.rows]
        assert np.median(burnt) == pytest.approx(np.median(inside), abs=0.1)


@pytest.mark.parametrize(
    ("kind", "options", "file", "row"),
    [
        ("timer_storm", {"pulse_ms": 10}, "/proc/interrupts", "LOC"),
        ("ipi_storm", {"pulse_ms": 10}, "/proc/interrupts", "CAL"),
        ("net_rx", {"pulse_ms": 10}, "/proc/softirqs", "NET_RX"),
        ("irq_storm", {"pulse_ms": 10}, "/proc/interrupts", "req.0"),
    ],
)
def test_interrupt_kinds_interrupt_the_cpu(
    kind: str, options: dict[str, float], file: str, row: str, tmp_path: Path
) -> None:
    cpu = min(interrupted_cpus(), default=CPU) if kind == "irq_storm" else CPU
    count = counter(file, row, cpu)
    inside, before, injector = disturb(kind, tmp_path, cpu, **options)
    count = counter(file, row, cpu) - count
    asked = sum(line["count"] for line in injector.rows)
    print(f"\n{kind}: asked {asked}, counted {count}, lost inside {np.median(inside):.3f}")
    assert asked >= 50 * PULSES
    assert count >= 0.3 * asked
    assert np.median(before) < 0.2


def test_membarrier_reaches_only_who_registered(tmp_path: Path) -> None:
    count = counter("/proc/interrupts", "CAL")
    options = {"pulses": PULSES, "pulse_ms": 10, "how": "membarrier"}
    with victim(tmp_path) as control, Injector("ipi_storm", CPU, control=control, **options) as injector:
        pass
    count = counter("/proc/interrupts", "CAL") - count
    assert count >= 0.3 * sum(line["count"] for line in injector.rows)


def test_sham_does_nothing(tmp_path: Path) -> None:
    inside, _, injector = disturb("sham", tmp_path, pulse_ms=5)
    assert len(injector.pulses) == PULSES
    assert np.median(inside) < 0.2


@contextmanager
def victim(folder: Path) -> Iterator[Path]:
    """tests/truth/victims.py working in a thread of its own, pinned; yields its control file."""
    control = folder / "control"
    code = f"import os, sys; sys.path.insert(0, {str(HERE)!r}); os.sched_setaffinity(0, {{{CPU}}})\n"
    code += "import victims; request = victims.build()\nwhile True: request()"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {CONTROL_ENV: str(control)})
    try:
        yield control
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("action", "least_ns", "most_ns"),
    [
        ("madvise", 200_000, 50_000_000),
        ("cold_file", 50_000, 100_000_000),
        ("lock", 4_500_000, 20_000_000),
        ("work", 1_000_000, 100_000_000),
        ("gc", 500_000, 200_000_000),
        ("sleep", 5_000_000, 20_000_000),
        ("chain", 4_500_000, 20_000_000),
    ],
)
def test_victim_answers_every_pulse(action: str, least_ns: int, most_ns: int, tmp_path: Path) -> None:
    with victim(tmp_path) as control, Injector(action, CPU, pulses=PULSES, gap_ms=30, control=control) as injector:
        pass
    took = [t1 - t0 for t0, t1 in injector.pulses]
    print(f"\n{action}: median {np.median(took) / 1e3:.0f} us")
    assert len(took) == PULSES
    assert least_ns <= np.median(took) <= most_ns


@pytest.mark.parametrize("action", ["madvise", "cold_file", "lock", "work", "gc", "sleep", "chain"])
def test_victim_takes_as_long_as_it_is_asked_to(action: str, tmp_path: Path) -> None:
    doses = {"pulse_ms": "1,8", "pulses": 8, "gap_ms": 40}
    with victim(tmp_path) as control, Injector(action, CPU, control=control, **doses) as injector:
        pass
    took = np.array([t1 - t0 for t0, t1 in injector.pulses])
    short, long = np.median(took[::2]), np.median(took[1::2])
    print(f"\n{action}: {short / 1e3:.0f} and {long / 1e3:.0f} us")
    assert [row["dose_ns"] for row in injector.rows] == [1_000_000, 8_000_000] * 4
    assert long > 3 * short


def test_a_lock_holder_loses_its_cpu_while_the_victim_waits(tmp_path: Path) -> None:
    with victim(tmp_path) as control, Injector("held_lock", CPU, pulses=PULSES, gap_ms=40, control=control) as injector:
        pass
    shared = Control(control)
    spans = [shared.answered(number) for number in range(PULSES)]
    assert len(injector.rows) == PULSES
    for (t0, t1, cpu), row in zip(spans, injector.rows, strict=True):
        # The victim was at the lock, and off its CPU, all the time that the holder's CPU was taken.
        assert t0 < row["t0_ns"] < row["t1_ns"] < t1
        assert t1 - t0 - cpu > 0.9 * row["cpu_ns"] > 0.8 * 5_000_000


def test_an_injector_that_is_ended_restores_and_logs(tmp_path: Path) -> None:
    rps = RPS.read_text()
    injector = Injector("net_rx", CPU, pulses=1000, pulse_ms=5, gap_ms=50)
    with pytest.raises(KeyboardInterrupt), injector:
        pulses_begun = threading.Event()
        while not pulses_begun.wait(0.01):
            if RPS.read_text() != rps:
                pulses_begun.set()
        raise KeyboardInterrupt
    assert RPS.read_text() == rps
    assert 0 <= len(injector.pulses) < 1000


def test_a_quota_that_is_ended_leaves_no_cgroup(tmp_path: Path) -> None:
    def groups() -> list[str]:
        return [str(path) for path in Path("/sys/fs/cgroup").glob("**/jp-quota-*")]

    with spinner(tmp_path) as (pid, _):
        injector = Injector("quota", CPU, pid=pid, pulses=100, pulse_ms=400, gap_ms=400)
        with pytest.raises(KeyboardInterrupt), injector:
            while not groups():
                os.sched_yield()
            raise KeyboardInterrupt
        os.kill(pid, signal.SIGCONT)
    assert not groups()


def test_every_program_is_in_the_table() -> None:
    files = {path.stem for path in (HERE / "injectors").glob("*.py")}
    assert files == set(PROGRAMS) | {"victim_side", "control", "disk", "program", "injector"}
    assert len(VICTIM_ACTIONS) == 7
