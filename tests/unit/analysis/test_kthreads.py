"""The kernel's threads that do the work of an interrupt have its cause, as occupants of a CPU and as wakers."""

import pytest

from jitterprof.model.event import OutFlag
from tests.unit.analysis.traces import (
    EPOLL_WAIT,
    IO_URING_ENTER,
    READ,
    blocked,
    enters,
    explain,
    preempted,
    task,
    waking,
)

KTHREAD = 60
ON_CPU_1 = enters(50, 1)


@pytest.mark.parametrize(
    ("comm", "cause", "culprit"),
    [
        ("irq/24-nvme0q1", "hardirq", "nvme0q1"),
        ("ksoftirqd/1", "softirq", "ksoftirqd/1/60"),
        ("napi/eth0-8193", "softirq", "NET_RX"),
        ("ktimers/1", "softirq", "TIMER"),
        ("rcuc/1", "softirq", "RCU"),
        ("kworker/1:0", "preempted", "kworker/1:0/60"),
    ],
)
def test_behind_a_thread_that_stands_for_an_interrupt(comm: str, cause: str, culprit: str) -> None:
    records = [task(KTHREAD, comm, kernel=True), ON_CPU_1, preempted(300, 1, KTHREAD), enters(400, 1, KTHREAD)]
    assert explain(records) == [("run", "", 200), (cause, culprit, 100), ("run", "", 500)]


def test_a_program_may_call_itself_what_it_likes() -> None:
    records = [task(KTHREAD, "ksoftirqd/1"), ON_CPU_1, preempted(300, 1, KTHREAD), enters(400, 1, KTHREAD)]
    assert ("preempted", "ksoftirqd/1/60", 100) in explain(records)


def test_woken_by_a_threaded_interrupt_is_woken_by_the_device() -> None:
    records = [
        task(KTHREAD, "irq/24-nvme0q1", kernel=True),
        ON_CPU_1,
        blocked(300, 1, IO_URING_ENTER),
        waking(400, 0, KTHREAD, 1),
        enters(400, 1),
    ]
    assert explain(records) == [("run", "", 200), ("block_io", "nvme0q1", 100), ("run", "", 500)]


@pytest.mark.parametrize("call", [READ, EPOLL_WAIT])
def test_woken_by_threaded_napi_is_woken_by_the_network(call: int) -> None:
    records = [
        task(KTHREAD, "napi/eth0-8193", kernel=True),
        ON_CPU_1,
        blocked(300, 1, call),
        waking(400, 0, KTHREAD, 1),
        enters(400, 1),
    ]
    assert explain(records) == [("run", "", 200), ("net", "NET_RX", 100), ("run", "", 500)]


def test_a_disk_wait_keeps_its_device() -> None:
    records = [
        task(KTHREAD, "irq/24-nvme0q1", kernel=True),
        ON_CPU_1,
        blocked(300, 1, READ, state=2, flags=OutFlag.IOWAIT, b=254 << 20),
        waking(400, 0, KTHREAD, 1),
        enters(400, 1),
    ]
    assert explain(records)[1][0] == "block_io"
