"""The request rows of a measurement, read while it is written."""

from pathlib import Path

import numpy as np

from jitterprof.experiment.row_follower import RowFollower
from jitterprof.load.request_file import ROW_BYTES, RowFile
from jitterprof.model.request import Kind, Phase
from jitterprof.model.stream import ROW_PAGE, ROW_WORDS, WORD_END
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
