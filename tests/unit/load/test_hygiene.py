"""What is in force is what the kernel says is in force."""

import gc
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from jitterprof.errors import SpecError
from jitterprof.load.clock import MONOTONIC, wake_margin_ns, wake_overshoot
from jitterprof.load.hygiene import lock_buffers, pin, release_gc, set_timer_slack, settle_gc

ALLOWED = sorted(os.sched_getaffinity(0))


def test_timer_slack_is_what_proc_says() -> None:
    found: list[int] = []

    def in_thread() -> None:
        found.append(set_timer_slack())
        found.append(int(Path(f"/proc/{threading.get_native_id()}/timerslack_ns").read_text()))

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert found[0] == 1
    # 0 for a thread of a real-time class
    assert found[1] in (0, 1)


@pytest.mark.parametrize("mode", ["frozen", "on"])
def test_gc_is_settled_and_released(mode: str) -> None:
    assert gc.isenabled()
    before = gc.get_freeze_count()
    try:
        settle_gc(mode)
        assert gc.isenabled() is (mode == "on")
        assert (gc.get_freeze_count() > before) is (mode == "frozen")
    finally:
        assert release_gc(mode) == ""
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0 or mode == "on"


def test_garbage_that_piles_up_unseen_is_said() -> None:
    settle_gc("frozen")
    kept = [[] for _ in range(250_000)]  # type: ignore[var-annotated]
    assert "piled up" in release_gc("frozen")
    del kept


def test_unknown_gc_mode() -> None:
    with pytest.raises(SpecError, match="unknown gc mode 'off'"):
        settle_gc("off")


def test_pin_takes_effect_and_names_a_cpu_that_is_not_there() -> None:
    def in_thread() -> None:
        outcome.append(pin([ALLOWED[-1]]))
        outcome.append(os.sched_getaffinity(0))
        for cpus in ([100_000], [ALLOWED[0], 1023], [-1], []):
            try:
                pin(cpus)
            except SpecError as error:
                outcome.append(error.message)
        outcome.append(os.sched_getaffinity(0))

    outcome: list[object] = []
    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert outcome[:2] == [(ALLOWED[-1],), {ALLOWED[-1]}]
    assert "100000" in str(outcome[2])
    assert "1023" in str(outcome[3])
    assert "-1" in str(outcome[4])
    assert "(none)" in str(outcome[5])
    assert outcome[6] == {ALLOWED[-1]}


_LOCK = """
import ctypes, mmap, os, resource, sys
from pathlib import Path
from jitterprof.load.hygiene import lock_buffers, lock_process
if sys.argv[1] == "refused":
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    if os.geteuid() == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
buffer = mmap.mmap(-1, 1 << 20)
caveat = lock_buffers([buffer])
whole = lock_process()
locked = int(Path("/proc/self/status").read_text().split("VmLck:")[1].split()[0])
later = mmap.mmap(-1, 1 << 22)
later.write(bytes(1 << 22))
later.madvise(mmap.MADV_DONTNEED)  # what a model maps later stays its own
print(bool(caveat), bool(whole), locked >= 1024, caveat, "|", whole)
"""


def _lock(how: str) -> str:
    done = subprocess.run([sys.executable, "-c", _LOCK, how], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_locking_or_saying_that_it_was_refused() -> None:
    refused = _lock("refused")
    assert refused.startswith("True True False")
    assert refused.count("RLIMIT_MEMLOCK") == 2
    if os.geteuid() == 0:
        assert _lock("granted").startswith("False False True")


def test_a_locked_buffer_can_still_be_remapped() -> None:
    buffer = mmap.mmap(-1, 1 << 16)
    lock_buffers([buffer])
    buffer.close()  # BufferError if a pointer into it were left


def test_wakes_are_never_early_and_the_margin_has_bounds() -> None:
    late = wake_overshoot(MONOTONIC, MONOTONIC.sleeper(), 1_000_000)
    assert late.min() >= 0
    assert 50_000 <= wake_margin_ns(late, 10_000_000, alone=True) <= 300_000
    assert 0 <= wake_margin_ns(late, 10_000_000, alone=False) <= 5_000


@pytest.mark.parametrize(
    ("late", "gap", "margin"),
    [
        (120_000, 10_000_000, 120_000),
        (9_000, 10_000_000, 50_000),
        (9_000_000, 10_000_000, 300_000),
        (120_000, 500_000, 100_000),  # a fifth of the gap
        (120_000, 20_000, 50_000),
    ],
)
def test_the_margin_covers_late_wakes_but_does_not_spin_the_gap_away(late: int, gap: int, margin: int) -> None:
    assert wake_margin_ns(np.full(600, late), gap, alone=True) == margin
