"""The request rows of a measurement, read while it is written."""

from pathlib import Path

import numpy as np

from jitterprof.experiment.row_follower import RowFollower
from jitterprof.load.request_file import ROW_BYTES, ClockFile, RowFile
from jitterprof.model.event import CLOCK_CLASSES, CLOCK_NS, CLOCK_TID, CLOCK_VERSION
from jitterprof.model.request import Kind, Phase
from jitterprof.model.stream import CLOCK_RING, CLOCK_ROW, ROW_PAGE, ROW_WORDS, WORD_END
from tests.fakes import request_table, words_of


class Worker:
    """Writes rows as load.worker does."""

    def __init__(self, folder: Path, number: int, capacity: int = 4) -> None:
        self.file = RowFile(folder / f"requests.{number}.stream", Kind.REQUEST, number, 700 + number, capacity)

    def begin(self, row: list[int]) -> int:
        """All of a row but its END; where that belongs."""
        if self.file.rows == self.file.capacity:
            self.file.grow(2 * self.file.capacity)
        at = ROW_PAGE + self.file.rows * ROW_BYTES
        words = np.array(row, "<i8")
        words[WORD_END] = 0
        self.file.bytes[at : at + ROW_BYTES] = words.tobytes()
        self.file.rows += 1
        return at + 8 * WORD_END

    def end(self, at: int, end_ns: int) -> None:
        self.file.bytes[at : at + 8] = np.int64(end_ns).tobytes()

    def write(self, row: list[int]) -> None:
        self.end(self.begin(row), row[WORD_END])


def test_rows_come_once_and_when_they_are_complete(tmp_path: Path) -> None:
    follower = RowFollower(tmp_path, 2)
    assert not len(follower.finished())
    first, requests = Worker(tmp_path, 0), request_table([1000] * 12)
    rows = words_of(requests).tolist()
    assert not len(follower.finished())
    for row in rows[:9]:
        first.write(row)
    at = first.begin(rows[9])
    second = Worker(tmp_path, 1)
    second.write(rows[10])
    found = follower.finished()
    assert found["worker"].tolist() == [0] * 9 + [1]
    assert found["tid"].tolist() == [700] * 9 + [701]
    assert found["seq"].tolist() == [*range(9), 10]
    assert set(found["phase"].tolist()) == {Phase.MEASURED}
    assert not len(follower.finished())
    first.end(at, rows[9][WORD_END])
    assert follower.finished()["seq"].tolist() == [9]
    follower.close()


def test_more_rows_than_one_read_takes(tmp_path: Path) -> None:
    count = 10_000
    requests = request_table([1000] * count)
    worker = Worker(tmp_path, 0, count + 5)
    worker.file.bytes[ROW_PAGE : ROW_PAGE + count * ROW_BYTES] = words_of(requests).astype("<i8").tobytes()
    found = RowFollower(tmp_path, 1).finished()
    assert found["seq"].tolist() == list(range(count))
    assert np.array_equal(found["end_ns"], requests["end_ns"])
    assert ROW_WORDS * 8 == ROW_BYTES


def test_a_request_is_ready_when_its_worker_is(tmp_path: Path) -> None:
    worker, requests = Worker(tmp_path, 0), request_table([1000, 1000, 1000, 1000])
    # Intended before the one before it ends; after it; before it, but started late.
    requests["intended_ns"] = [100, 900, 3000, 3500]
    requests["start_ns"] = [100, 1100, 3100, 4300]
    requests["end_ns"] = [1100, 2100, 4100, 5000]
    follower, found = RowFollower(tmp_path, 1), []
    for row in words_of(requests).tolist():
        worker.write(row)
        found.append(int(follower.finished()["ready_ns"][0]))
    assert found == [100, 1100, 3000, 4100]


def _clocks(row: int, version: int = 2) -> bytes:
    """Snapshots between which the thread waited for `row` ns."""
    pair = np.zeros(1, CLOCK_ROW)
    pair["begin"][0, CLOCK_NS + CLOCK_CLASSES.index("wakeup")] = 1000
    pair["end"][0, CLOCK_NS + CLOCK_CLASSES.index("wakeup")] = 1000 + row
    pair["end"][0, CLOCK_TID], pair["end"][0, CLOCK_VERSION] = 700, version
    return pair.tobytes()


def test_state_clocks_are_taken_from_their_ring(tmp_path: Path) -> None:
    count = CLOCK_RING + 100
    rows = words_of(request_table([1000] * count)).astype("<i8")
    worker, clocks = Worker(tmp_path, 0, count), ClockFile(tmp_path / "clocks.0.stream", CLOCK_RING)
    follower, size = RowFollower(tmp_path, 1), CLOCK_ROW.itemsize

    def write(first: int, until: int) -> None:
        for row in range(first, until):
            place = row % CLOCK_RING * size
            clocks.bytes[place : place + size] = _clocks(row, version=3 if row == 7 else 2)
        worker.file.bytes[ROW_PAGE + first * ROW_BYTES : ROW_PAGE + until * ROW_BYTES] = rows[first:until].tobytes()

    write(0, 10)
    assert follower.finished()["seq"].tolist() == list(range(10))
    states = follower.states()
    # One was copied while the kernel wrote it.
    assert states["seq"].tolist() == states["wakeup"].tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert not states["softirq"].any()
    assert not len(follower.states())
    # Round and past the last one that was read: what was written over has no clocks any more.
    write(10, count)
    assert len(follower.finished()) == count - 10
    states = follower.states()
    assert states["seq"].tolist() == states["wakeup"].tolist() == list(range(count - CLOCK_RING + 1, count))


def test_no_clocks_no_states(tmp_path: Path) -> None:
    worker = Worker(tmp_path, 0)
    worker.write(words_of(request_table([1000])).tolist()[0])
    follower = RowFollower(tmp_path, 1)
    assert len(follower.finished()) == 1
    assert not len(follower.states())
    # A thread without a slot copies nothing.
    ClockFile(tmp_path / "clocks.0.stream", 4)
    worker.write(words_of(request_table([1000])).tolist()[0])
    assert len(follower.finished()) == 1
    assert not len(follower.states())
