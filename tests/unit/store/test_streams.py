"""Append-only files: what survives a torn tail, a full disk and a killed worker."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from fakes import request_table, switch_events, words_of, write_row_stream

from jitterprof.errors import RunFileError
from jitterprof.model.stream import ROW_HEADER, ROW_MAGIC, ROW_VERSION, STATE_DTYPE
from jitterprof.store import EventStream, read_events
from jitterprof.store.streams import StateStream, read_rows, read_states


def _write(path: Path, count: int = 30, batch: int = 10) -> None:
    events = switch_events(count)
    with EventStream(path) as stream:
        for start in range(0, count, batch):
            stream.write_batch(events[start : start + batch])


def test_events_come_back(tmp_path: Path) -> None:
    _write(tmp_path / "events.stream")
    read = read_events(tmp_path / "events.stream")
    assert np.array_equal(read.events, switch_events(30))
    assert read.dropped_bytes == 0


@pytest.mark.parametrize("lost", [1, 40, 399, 410])
def test_a_torn_last_batch_is_dropped_and_counted(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "events.stream"
    _write(path)
    os.truncate(path, path.stat().st_size - lost)
    read = read_events(path)
    assert np.array_equal(read.events, switch_events(20))
    assert read.dropped_bytes == 416 - lost


def test_a_flipped_bit_ends_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "events.stream"
    _write(path)
    content = bytearray(path.read_bytes())
    content[416 + 100] ^= 1
    path.write_bytes(content)
    read = read_events(path)
    assert np.array_equal(read.events, switch_events(10))
    assert read.dropped_bytes == 2 * 416


def test_a_foreign_file_is_not_a_stream(tmp_path: Path) -> None:
    (tmp_path / "events.stream").write_bytes(b"hello world, this is not it")
    with pytest.raises(RunFileError, match="not an event stream"):
        read_events(tmp_path / "events.stream")


def test_a_full_disk_leaves_full_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.stream"
    stream = EventStream(path)
    stream.write_batch(switch_events(10))
    real = os.writev
    calls = 0

    def full(descriptor: int, buffers: list[memoryview]) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return real(descriptor, [buffers[0], buffers[1][:55]])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OSError, match="No space"):
        stream.write_batch(switch_events(10))
    monkeypatch.undo()
    stream.close()
    assert path.stat().st_size == 416
    assert len(read_events(path).events) == 10


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda descriptor, buffers: real(descriptor, [buffers[0][:7]]))
    _write(tmp_path / "events.stream")
    monkeypatch.undo()
    assert np.array_equal(read_events(tmp_path / "events.stream").events, switch_events(30))


def test_rows_end_at_the_first_open_row(tmp_path: Path) -> None:
    words = words_of(request_table([1000] * 5))
    words[3, 2] = 0
    write_row_stream(tmp_path / "requests.0.stream", 0, 77, words)
    rows = read_rows(tmp_path / "requests.0.stream")
    assert rows is not None
    assert (len(rows.rows), rows.tid, rows.worker) == (3, 77, 0)


def test_a_worker_that_died_before_its_header_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "requests.0.stream").write_bytes(bytes(8192))
    assert read_rows(tmp_path / "requests.0.stream") is None
    (tmp_path / "requests.0.stream").write_bytes(b"")
    assert read_rows(tmp_path / "requests.0.stream") is None


@pytest.mark.parametrize(
    "header",
    [b"ELF!", ROW_HEADER.pack(ROW_MAGIC, ROW_VERSION + 1, 0, 1, 0, 4), ROW_HEADER.pack(b"XXXX", 1, 0, 1, 0, 4)],
)
def test_foreign_and_newer_row_files_are_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "requests.0.stream").write_bytes(header.ljust(8192, b"\0"))
    with pytest.raises(RunFileError):
        read_rows(tmp_path / "requests.0.stream")


def test_states_read_back_up_to_a_torn_batch(tmp_path: Path) -> None:
    path = tmp_path / "states.stream"
    rows = np.zeros(1000, STATE_DTYPE)
    rows["seq"], rows["wakeup"] = np.arange(1000), np.arange(1000) % 7
    with StateStream(path) as stream:
        stream.write(rows[:600])
        stream.write(rows[600:600])
        stream.write(rows[600:])
    assert path.stat().st_size < 12 * len(rows)
    assert np.array_equal(read_states(path), rows)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert np.array_equal(read_states(path), rows[:600])
    path.write_bytes(content[:-5] + b"torn!")
    assert np.array_equal(read_states(path), rows[:600])
    assert not len(read_states(tmp_path / "none.stream"))
