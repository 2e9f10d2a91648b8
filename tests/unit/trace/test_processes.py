"""Which processes are followed, with a made-up /proc."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitterprof.trace.processes import MARK_CANARY, MARK_EVER, MARK_FOLLOWED, PID_LIMIT, Processes


class Kernel:
    """The map of marks, and a /proc of processes with their parents."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.fd = os.memfd_create("pids")
        os.ftruncate(self.fd, PID_LIMIT)

    def starts(self, pid: int, parent: int, comm: str = "a) (b) S 7") -> None:
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "stat").write_text(f"{pid} ({comm}) S {parent} 1 1 0 -1")

    def mark(self, pid: int) -> int:
        return os.pread(self.fd, 1, pid)[0]


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path)
    yield kernel
    os.close(kernel.fd)


def test_descendants_are_found_however_deep(kernel: Kernel) -> None:
    for pid, parent in ((100, 1), (300, 100), (200, 300), (4000000, 200), (500, 1), (501, 500)):
        kernel.starts(pid, parent)
    processes = Processes(kernel.fd)
    processes.follow((100,))
    processes.follow_descendants(kernel.proc)
    assert processes.followed() == (100, 200, 300, 4000000)
    assert kernel.mark(200) == MARK_FOLLOWED | MARK_EVER
    assert kernel.mark(501) == 0
    processes.close()


def test_children_of_the_canary_are_not(kernel: Kernel) -> None:
    kernel.starts(7, 1)
    kernel.starts(8, 7)
    processes = Processes(kernel.fd)
    processes.follow_canary(7)
    processes.follow_descendants(kernel.proc)
    assert kernel.mark(7) == MARK_CANARY
    assert kernel.mark(8) == 0
    assert processes.followed() == ()
    processes.close()


def test_a_process_that_ends_meanwhile_is_passed_over(kernel: Kernel) -> None:
    kernel.starts(9, 1)
    (kernel.proc / "10").mkdir()
    (kernel.proc / "self").mkdir()
    processes = Processes(kernel.fd)
    processes.follow((9,))
    processes.follow_descendants(kernel.proc)
    assert processes.followed() == (9,)
    processes.close()


def test_what_is_gone_is_still_told(kernel: Kernel) -> None:
    """The programs keep MARK_EVER when the number goes to somebody else."""
    processes = Processes(kernel.fd)
    processes.follow((11, 12))
    os.pwrite(kernel.fd, bytes([MARK_EVER]), 11)
    assert processes.followed() == (11, 12)
    processes.close()
