"""The row files: layout, growth, progress, and what is left after kill -9."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from unit.load.virtual import MS, serve, virtual

from jitterprof.errors import JitterprofError
from jitterprof.load.arrival import Constant
from jitterprof.load.request_file import Progress, RowFile, progress, read_rows
from jitterprof.model.request import Kind, Phase
from jitterprof.model.stream import ROW_HEADER, ROW_MAGIC, ROW_PAGE, ROW_VERSION, ROW_WORDS, WORD_END, WORD_STATE


def fill(file: RowFile, rows: int) -> None:
    words = file.bytes.cast("q")
    for _ in range(rows):
        at = ROW_PAGE // 8 + file.rows * ROW_WORDS
        words[at + WORD_STATE] = Phase.MEASURED << 8
        words[at + WORD_END] = 1000 + file.rows
        file.rows += 1
    words.release()


def test_header_and_size_follow_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "requests.3.stream"
    file = RowFile(path, Kind.TOKEN, 3, 4711, 100)
    assert path.stat().st_size == ROW_PAGE + 100 * 64
    assert path.stat().st_blocks * 512 >= path.stat().st_size  # really on disk
    assert ROW_HEADER.unpack_from(path.read_bytes()) == (ROW_MAGIC, ROW_VERSION, 3, 4711, Kind.TOKEN, 100)
    fill(file, 7)
    file.grow(1000)
    assert ROW_HEADER.unpack_from(path.read_bytes())[5] == 1000
    assert read_rows(path)["end"].tolist() == list(range(1000, 1007))
    fill(file, 5)
    file.finish()
    assert path.stat().st_size == ROW_PAGE + 12 * 64
    assert ROW_HEADER.unpack_from(path.read_bytes())[5] == 12
    assert read_rows(path)["end"].tolist() == list(range(1000, 1012))


@pytest.mark.parametrize("rows", [0, 1, 2, 63, 64, 99, 100])
def test_progress_finds_the_last_complete_row(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "requests.0.stream"
    file = RowFile(path, Kind.REQUEST, 0, 1, 100)
    fill(file, rows)
    expected = Progress(rows, Phase.MEASURED, 999 + rows) if rows else Progress()
    assert progress(path) == expected
    file.finish()
    assert progress(path) == expected


def test_progress_of_nothing(tmp_path: Path) -> None:
    assert progress(tmp_path / "requests.0.stream") == Progress()
    (tmp_path / "empty").touch()
    assert progress(tmp_path / "empty") == Progress()


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(JitterprofError, match=r"cannot write .*: No such file or directory"):
        RowFile(tmp_path / "not" / "there", Kind.REQUEST, 0, 1, 10)
    (tmp_path / "file").touch()
    with pytest.raises(JitterprofError, match="cannot make"):
        serve(virtual(Constant(10.0), requests=1), tmp_path / "file", lambda i: MS)


_VICTIM = """
import sys
from pathlib import Path
from jitterprof.load.arrival import Closed
from jitterprof.load.generator import LoadPlan, run_load
class Sum:
    def infer(self, index):
        sum(range(200))
        if index == 3000:
            print("going", flush=True)
run_load(LoadPlan(Closed(), requests=10**6, warmup_ns=0, floor_ns=0), [Sum()], Path(sys.argv[1]))
"""


def test_kill_9_leaves_every_complete_row(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _VICTIM, str(tmp_path)], stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "going\n"
        victim.send_signal(signal.SIGKILL)
    assert victim.returncode == -signal.SIGKILL
    path = tmp_path / "requests.0.stream"
    rows = read_rows(path)
    assert len(rows) == progress(path).rows >= 3000
    assert rows["seq"].tolist() == list(range(len(rows)))
    assert (rows["end"] > rows["start"]).all()
    assert (np.diff(rows["start"]) > 0).all()
    assert path.stat().st_size > ROW_PAGE + len(rows) * 64
