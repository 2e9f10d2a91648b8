"""The CPU cell against the one authority: being pinned there."""

import os
import platform
import threading

import pytest

from jitterprof.load import cpu as module
from jitterprof.load.cpu import CPU, thread_cpu

ALLOWED = sorted(os.sched_getaffinity(0))


def visited(source_of: list[str]) -> list[tuple[int, int]]:
    """In a thread of its own: (pinned to, cell says) for every allowed CPU, there and back."""
    seen: list[tuple[int, int]] = []

    def look() -> None:
        mine = thread_cpu()
        source_of.append(mine.source)
        for target in ALLOWED + ALLOWED[::-1]:
            os.sched_setaffinity(0, {target})
            seen.append((target, mine.cells[CPU]))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return seen


def test_the_cell_follows_the_thread() -> None:
    source: list[str] = []
    seen = visited(source)
    assert len(seen) == 2 * len(ALLOWED)
    assert all(target == said for target, said in seen)


def test_modern_glibc_needs_no_call() -> None:
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        pytest.skip(f"{name} {version} does not publish its rseq area")
    if "glibc.pthread.rseq=0" in os.environ.get("GLIBC_TUNABLES", ""):
        pytest.skip("rseq is switched off by GLIBC_TUNABLES")
    mine = thread_cpu()
    assert mine.source == "rseq"
    assert isinstance(mine.cells, memoryview)


def test_two_threads_have_two_cells() -> None:
    if len(ALLOWED) < 2:
        pytest.skip("needs two CPUs")
    first, second = ALLOWED[0], ALLOWED[-1]
    before = os.sched_getaffinity(0)
    ours = thread_cpu()
    said: list[int] = []

    def elsewhere() -> None:
        theirs = thread_cpu()
        os.sched_setaffinity(0, {second})
        said.extend((theirs.cells[CPU], ours.cells[CPU]))

    try:
        os.sched_setaffinity(0, {first})
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    finally:
        os.sched_setaffinity(0, before)
    assert said == [second, first]


def test_asking_leaves_the_affinity_alone() -> None:
    before = os.sched_getaffinity(0)
    thread_cpu()
    assert os.sched_getaffinity(0) == before


def test_a_cell_that_lies_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # As memory that only looks like an rseq area would: constant, and right on no more than one CPU.
    wrong = memoryview(bytearray((max(ALLOWED) + 1).to_bytes(4, "little") * 2)).cast("i")
    monkeypatch.setattr(module, "_rseq_cells", lambda: wrong)
    source: list[str] = []
    seen = visited(source)
    assert source == ["sched_getcpu"]
    assert all(target == said for target, said in seen)


def test_no_rseq_falls_back_to_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_rseq_cells", lambda: None)
    source: list[str] = []
    seen = visited(source)
    assert source == ["sched_getcpu"]
    assert all(target == said for target, said in seen)


def test_an_address_that_is_not_there_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_thread_pointer", lambda libc: 0x10)
    assert module._rseq_cells() is None
