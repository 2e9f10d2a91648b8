"""The file that injectors and victim share."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from jitterprof.inject.timetable import EPOCH, PID, Done, Slot, Timetable, draw

MS = 1_000_000
SLOTS = (Slot(3, 5 * MS, 5 * MS), Slot(0, 150 * MS, 250 * MS))


def test_pulses_come_in_random_order_and_never_together() -> None:
    table = draw(SLOTS, pulses=20, gap_ns=100 * MS, seed=1)
    assert Counter(due.fault for due in table) == {0: 20, 3: 20}
    assert [due.fault for due in table] != sorted(due.fault for due in table)
    longest = {slot.fault: slot.longest_ns for slot in SLOTS}
    for first, second in pairwise(table):
        gap = second.start_ns - first.start_ns - longest[first.fault]
        assert 50 * MS <= gap <= 150 * MS
    assert table == draw(SLOTS, 20, 100 * MS, 1) != draw(SLOTS, 20, 100 * MS, 2)


def test_what_one_process_logs_another_reads(tmp_path: Path) -> None:
    planned = draw(SLOTS, 2, 100 * MS, 1)
    ours = Timetable.create(tmp_path / "table", planned)
    theirs = Timetable(tmp_path / "table")
    assert theirs.due() == planned
    assert ours.done() == ()
    ours.words[EPOCH] = 7
    assert theirs.wait_for(EPOCH) == 7 and theirs.words[PID] == 0
    theirs.log(2, 100, 250, 120)
    assert ours.done() == (Done(planned[2].fault, 100, 250, 120),)


def test_a_timetable_is_not_written_over(tmp_path: Path) -> None:
    Timetable.create(tmp_path / "table", ())
    with pytest.raises(FileExistsError):
        Timetable.create(tmp_path / "table", ())
