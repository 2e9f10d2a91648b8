"""A return to the CPU that no record reports ends when the thread is next seen running."""

import pytest

from jitterprof.model.event import EventKind, Vector
from tests.unit.analysis.traces import ME, OTHER, Record, blocked, enters, explain, interval, preempted, request, waking

ON_CPU_1 = enters(50, 1)
#: ME leaves at 300, comes back unnoticed and leaves again at 700.
HIDDEN = [ON_CPU_1, preempted(300, 1, OTHER), preempted(700, 1, OTHER), enters(750, 1, OTHER)]
TICK = interval(EventKind.VECTOR, 400, 410, 1, flags=Vector.LOCAL_TIMER, tid=ME)


def test_an_interrupt_says_whom_it_interrupted() -> None:
    assert explain([*HIDDEN, TICK]) == [
        ("run", "", 200),
        ("unknown", "lost events", 100),
        ("timer", "tick", 10),
        ("run", "", 290),
        ("preempted", "hog/99", 50),
        ("run", "", 150),
    ]


def test_without_a_sighting_all_of_it_is_unknown() -> None:
    assert explain(HIDDEN)[1] == ("unknown", "lost events", 400)


@pytest.mark.parametrize(
    "record",
    [
        interval(EventKind.VECTOR, 400, 410, 1, flags=Vector.LOCAL_TIMER, tid=OTHER),
        interval(EventKind.VECTOR, 200, 210, 1, flags=Vector.LOCAL_TIMER, tid=ME),
    ],
)
def test_only_its_own_and_only_later_sightings_count(record: Record) -> None:
    assert ("unknown", "lost events", 400) in explain([*HIDDEN, record])


def test_a_fault_and_the_edge_of_a_request_are_sightings() -> None:
    fault = interval(EventKind.FAULT, 500, 520, 1, b=0x10, tid=ME)
    assert ("unknown", "lost events", 200) in explain([*HIDDEN, fault])
    parts = explain([*HIDDEN], request(600, 900, cpu=1))
    assert parts[0] == ("run", "", 100)


def test_a_sleep_whose_end_was_not_seen_is_unknown_until_the_sighting() -> None:
    records = [ON_CPU_1, blocked(300, 1, 202), waking(320, 0, OTHER, 1), preempted(700, 1, OTHER), TICK]
    assert explain([*records, enters(750, 1, OTHER)])[1] == ("unknown", "lost events", 100)
