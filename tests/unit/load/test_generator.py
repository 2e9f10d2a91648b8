"""The generator in virtual time: what is recorded, to the nanosecond."""

import heapq
import threading
from pathlib import Path

import numpy as np
import pytest
from unit.load.virtual import MS, S, Server, VirtualTime, run, serve, virtual

from jitterprof.errors import JitterprofError, SpecError
from jitterprof.load.arrival import Closed, Constant, Poisson
from jitterprof.load.generator import run_load
from jitterprof.load.request_file import RowFile, read_rows
from jitterprof.load.stop import StopCell
from jitterprof.load.worker import StateClocks
from jitterprof.model.event import CLOCK_SLOTS, CLOCK_VERSION, CLOCK_WORDS
from jitterprof.model.request import Phase, Status
from jitterprof.model.stream import CLOCK_ROW


def test_a_stall_makes_the_requests_behind_it_late(tmp_path: Path) -> None:
    """No coordinated omission: followers count from when they were wanted, not from when they got their turn."""
    result, rows = serve(virtual(Constant(100.0), requests=20), tmp_path, lambda i: 100 * MS if i == 3 else MS)
    response = rows["end"] - rows["intended"]
    expected = [MS] * 3 + [100 * MS] + [max(MS, 100 * MS - 9 * MS * k) for k in range(1, 17)]
    assert response.tolist() == expected
    assert (np.diff(rows["intended"]) == 10 * MS).all()
    assert rows["seq"].tolist() == list(range(20))
    assert result.served == 20
    assert result.dispatch_lag.max_ns == 0  # they waited for the stalled request, not for the generator
    assert not result.saturated


@pytest.mark.parametrize("workers", [2, 3])
def test_several_workers_serve_first_come_first_served(tmp_path: Path, workers: int) -> None:
    rng = np.random.default_rng(5)
    service = (rng.exponential(workers * 0.9, 300) * MS).astype(int).tolist()
    result, rows = serve(virtual(Poisson(1000.0), requests=300, seed=3), tmp_path, lambda i: service[i], workers)
    free = [0] * workers  # Kiefer-Wolfowitz: the next request goes to whoever is free first
    for intended, start, end, seq in rows[["intended", "start", "end", "seq"]].tolist():
        begin = max(intended, heapq.heappop(free))
        assert (start, end) == (begin, begin + service[seq])
        heapq.heappush(free, end)
    assert rows["seq"].tolist() == list(range(300))
    assert len(set(result.tids)) == workers
    assert result.dispatch_lag.max_ns == 0


def test_overload_is_reported_with_the_measured_maximum_and_not_served_for_ever(tmp_path: Path) -> None:
    result, rows = serve(virtual(Constant(200.0), duration_ns=3 * S), tmp_path, lambda i: 10 * MS)
    assert result.saturated
    assert result.max_rate == pytest.approx(100.0)
    assert result.achieved_rate == pytest.approx(100.0)
    assert result.offered_rate == pytest.approx(200.0)
    # 3 s of window and 2 s of grace at 100 per second
    assert (result.served, result.not_served) == (500, 100)
    assert result.final_lag_ns == rows["start"][-1] - rows["intended"][-1] == 499 * 5 * MS
    assert result.stopped == ""


@pytest.mark.parametrize(("rate", "saturated"), [(95.0, False), (99.0, False), (105.0, True)])
def test_a_backlog_that_would_grow_for_ever_is_told_from_a_busy_server(
    tmp_path: Path, rate: float, saturated: bool
) -> None:
    result, _ = serve(virtual(Constant(rate), duration_ns=10 * S), tmp_path, lambda i: 10 * MS)
    assert result.not_served == 0
    assert result.saturated is saturated
    assert result.max_rate == pytest.approx(100.0)


def test_one_long_stall_is_not_saturation(tmp_path: Path) -> None:
    result, _ = serve(virtual(Constant(50.0), duration_ns=10 * S), tmp_path, lambda i: 2 * S if i == 200 else 10 * MS)
    assert not result.saturated


@pytest.mark.parametrize(("at", "stall"), [(400, 2 * S), (495, S), (499, 20 * S)])
def test_a_stall_that_the_window_does_not_outlast_is_not_saturation_either(tmp_path: Path, at: int, stall: int) -> None:
    plan = virtual(Constant(50.0), duration_ns=10 * S)
    result, rows = serve(plan, tmp_path, lambda i: stall if i == at else 10 * MS)
    assert (rows["end"] - rows["intended"]).max() >= stall
    assert not result.saturated


def test_errors_are_rows_and_the_session_goes_on(tmp_path: Path) -> None:
    def service(index: int) -> int:
        if index % 3 == 1:
            raise ValueError(f"no input {index}")
        return MS

    result, rows = serve(virtual(Constant(100.0), requests=30), tmp_path, service)
    assert (rows["state"] & 0xFF).tolist() == [Status.OK, Status.ERROR, Status.OK] * 10
    assert (rows["end"] > 0).all()
    assert (result.served, result.errors, result.first_error) == (20, 10, "ValueError: no input 1")
    assert not result.aborted
    assert result.stopped == ""


@pytest.mark.parametrize("arrival", [Closed(), Constant(100.0)])
def test_when_nothing_works_it_stops_early_and_says_why(tmp_path: Path, arrival: Closed | Constant) -> None:
    time = VirtualTime()

    class Broken:
        def infer(self, index: int) -> None:
            time.work(MS)
            raise RuntimeError("weights are missing")

    result, rows = run(virtual(arrival, requests=500), tmp_path, time, [Broken()])
    assert len(rows) == 10
    assert result.aborted
    assert result.stopped == "the first 10 requests failed: RuntimeError: weights are missing"
    assert result.served == 0


def test_a_failure_after_a_good_start_does_not_stop_it(tmp_path: Path) -> None:
    def service(index: int) -> int:
        if index:
            raise RuntimeError
        return MS

    result, _ = serve(virtual(Constant(100.0), requests=40), tmp_path, service)
    assert (result.served, result.errors, result.aborted) == (1, 39, False)
    assert result.first_error == "RuntimeError:"


@pytest.mark.parametrize("arrival", [Closed(), Constant(100.0)])
def test_a_stop_request_ends_early_with_what_there_is(tmp_path: Path, arrival: Closed | Constant) -> None:
    stop = StopCell()

    def service(index: int) -> int:
        if index == 5:
            stop.request("interrupted")
        return MS

    result, rows = serve(virtual(arrival, requests=400), tmp_path, service, stop=stop)
    assert rows["seq"].tolist() == list(range(6))
    assert (result.stopped, result.not_served, result.saturated, result.aborted) == ("interrupted", 0, False, False)
    assert result.window_ns == (rows["intended"][0], rows["end"][-1])


def test_a_stop_request_does_not_wait_for_the_next_arrival(tmp_path: Path) -> None:
    """One request every 100 s: the worker looks up from its sleep now and then."""
    time, stop = VirtualTime(), StopCell()
    begin = time.time
    sleep = time.sleep_until

    def sleep_until(deadline: int) -> None:
        sleep(deadline)
        if time.time > begin + S:
            stop.request()

    object.__setattr__(time.clock, "sleeper", lambda: sleep_until)
    result, rows = run(virtual(Constant(0.01), requests=3), tmp_path, time, [Server(time, lambda i: MS)], stop=stop)
    assert len(rows) == 1
    assert time.time < begin + 2 * S
    assert result.stopped == "stopped on request"


def test_stopped_before_the_measurement_there_is_nothing(tmp_path: Path) -> None:
    stop = StopCell()
    stop.request("interrupted")
    result, rows = serve(virtual(Constant(100.0), requests=5), tmp_path, lambda i: MS, stop=stop)
    assert len(rows) == 0
    assert result.window_ns == (0, 0)
    assert not result.saturated


def test_the_measurement_carries_on_where_the_warm_up_is(tmp_path: Path) -> None:
    """Nothing is drained at the seam: the last warm-up request's delay is inherited by the first measured one."""
    plan = virtual(Constant(100.0), requests=4, warmup_ns=50 * MS)
    time = VirtualTime()
    served: list[int] = []

    def service(index: int) -> int:
        served.append(index)
        return 35 * MS if len(served) == 5 else MS

    result, rows = run(plan, tmp_path, time, [Server(time, service)])
    everything = read_rows(tmp_path / "requests.0.stream")
    assert (everything["state"] >> 8).tolist() == [Phase.WARMUP] * 5 + [Phase.MEASURED] * 4
    assert (np.diff(everything["intended"]) == 10 * MS).all()
    assert served == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert (rows["end"] - rows["intended"]).tolist() == [26 * MS, 17 * MS, 8 * MS, MS]
    assert result.window_ns == (rows["intended"][0], rows["end"][-1])
    assert result.served == 4
    assert result.dispatch_lag.max_ns == 0


def test_closed_loop_intends_what_it_starts(tmp_path: Path) -> None:
    result, rows = serve(virtual(Closed(), duration_ns=S, warmup_ns=100 * MS), tmp_path, lambda i: (1 + i % 2) * MS)
    assert (rows["intended"] == rows["start"]).all()
    assert (rows["start"][1:] == rows["end"][:-1]).all()
    assert len(rows) == 667
    assert result.achieved_rate == pytest.approx(666.67, rel=1e-3)
    assert not result.saturated
    assert result.dispatch_lag.count == 0


def test_closed_loop_with_two_workers_numbers_requests_once(tmp_path: Path) -> None:
    result, rows = serve(virtual(Closed(), requests=101, warmup_ns=20 * MS), tmp_path, lambda i: (1 + i % 3) * MS, 2)
    assert rows["seq"].tolist() == list(range(101))
    assert result.served == 101


def test_closed_loop_makes_its_room_during_the_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time = VirtualTime()
    grown: list[tuple[int, int]] = []
    grow = RowFile.grow

    def noted(self: RowFile, capacity: int) -> None:
        grown.append((time.time, capacity))
        grow(self, capacity)

    monkeypatch.setattr(RowFile, "grow", noted)
    plan = virtual(Closed(), duration_ns=S, warmup_ns=S // 10)
    result, rows = run(plan, tmp_path, time, [Server(time, lambda i: 10_000)])
    assert len(rows) == 100_000
    assert [when < result.window_ns[0] for when, _ in grown] == [True]
    assert grown[0][1] >= 200_000


def test_closed_loop_faster_than_its_warm_up_promised_keeps_every_row(tmp_path: Path) -> None:
    time = VirtualTime()
    begin = time.time
    streams = [Server(time, lambda i: MS if time.time < begin + S else 2_000)]
    result, rows = run(virtual(Closed(), duration_ns=S // 2, warmup_ns=S), tmp_path, time, streams)
    assert len(rows) == result.served == 250_000
    assert rows["seq"].tolist() == list(range(250_000))
    assert (tmp_path / "requests.0.stream").stat().st_size == 4096 + 64 * (250_000 + 1000)


def test_a_disk_that_fills_up_ends_the_window_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    real, limit = os.posix_fallocate, 6 << 20

    def fallocate(file: int, offset: int, size: int) -> None:
        if size > limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    result, rows = serve(virtual(Closed(), duration_ns=S), tmp_path, lambda i: 2_000)
    assert "No space left on device" in result.stopped
    assert "requests.0.stream" in result.stopped
    assert result.served == len(rows) == 65_536
    assert rows["seq"].tolist() == list(range(65_536))


def test_a_disk_that_is_full_at_the_start_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def fallocate(file: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    with pytest.raises(JitterprofError, match=r"cannot reserve .* No space left on device"):
        serve(virtual(Constant(100.0), requests=5), tmp_path, lambda i: MS, 2)


def test_what_kills_a_worker_reaches_the_caller(tmp_path: Path) -> None:
    class Fatal(BaseException):
        pass

    def service(index: int) -> int:
        if index == 2:
            raise Fatal("gone")
        return MS

    with pytest.raises(Fatal, match="gone"):
        serve(virtual(Constant(100.0), requests=1000), tmp_path, service, 2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jp-worker")]


def test_tokens_are_rows_of_their_own(tmp_path: Path) -> None:
    time = VirtualTime()

    class Decoder:
        def infer(self, index: int, mark) -> None:  # type: ignore[no-untyped-def]
            for token in range(index + 1):
                time.work((token + 1) * MS)
                mark()
            time.work(MS)

    plan = virtual(Constant(10.0), requests=3, emits_tokens=True, max_tokens=1)
    _, rows = run(plan, tmp_path, time, [Decoder()], shape_of=lambda index: index % 2)
    tokens = read_rows(tmp_path / "tokens.0.stream")
    assert rows["shape"].tolist() == [0, 1, 0]
    assert tokens["parent"].tolist() == [0, 1, 1, 2, 2, 2]
    assert tokens["seq"].tolist() == [0, 0, 1, 0, 1, 2]
    assert tokens["shape"].tolist() == [0, 1, 1, 0, 0, 0]
    assert (tokens["end"] - tokens["start"]).tolist() == [MS, MS, 2 * MS, MS, 2 * MS, 3 * MS]
    assert (tokens["intended"] == tokens["start"]).all()
    first = tokens[tokens["seq"] == 0]
    assert (first["start"] == rows["start"]).all()
    assert (tokens["state"] >> 8 == Phase.MEASURED).all()
    assert (rows["parent"] == -1).all()


def test_more_tokens_than_announced_are_kept(tmp_path: Path) -> None:
    time = VirtualTime()

    class Chatty:
        def infer(self, index: int, mark) -> None:  # type: ignore[no-untyped-def]
            for _ in range(500):
                mark()
            time.work(MS)

    run(virtual(Constant(10.0), requests=3, emits_tokens=True), tmp_path, time, [Chatty()])
    tokens = read_rows(tmp_path / "tokens.0.stream")
    assert tokens["seq"].tolist() == list(range(500)) * 3
    assert tokens["parent"].tolist() == [0] * 500 + [1] * 500 + [2] * 500


def test_state_clocks_are_copied_at_both_edges_of_the_callers_slot(tmp_path: Path) -> None:
    time = VirtualTime()
    array = np.zeros((CLOCK_SLOTS, CLOCK_WORDS), dtype=np.uint64)
    slot = 7

    class Clocked:
        def infer(self, index: int) -> None:
            time.work(MS)
            array[slot, 4] += 1000
            array[slot, CLOCK_VERSION] += 2

    clocks = StateClocks(array.reshape(-1).data, lambda tid: slot)
    run(virtual(Constant(10.0), requests=4), tmp_path, time, [Clocked()], clocks=clocks)
    rows = np.fromfile(tmp_path / "clocks.0.stream", dtype=CLOCK_ROW)
    assert rows["begin"][:, 4].tolist() == [0, 1000, 2000, 3000]
    assert rows["end"][:, 4].tolist() == [1000, 2000, 3000, 4000]
    assert rows["end"][:, CLOCK_VERSION].tolist() == [2, 4, 6, 8]


def test_a_slot_that_never_settles_is_marked_and_does_not_hang(tmp_path: Path) -> None:
    array = np.zeros((CLOCK_SLOTS, CLOCK_WORDS), dtype=np.uint64)
    array[0, CLOCK_VERSION] = 5
    clocks = StateClocks(array.reshape(-1).data, lambda tid: 0)
    serve(virtual(Constant(10.0), requests=2), tmp_path, lambda i: MS, clocks=clocks)
    rows = np.fromfile(tmp_path / "clocks.0.stream", dtype=CLOCK_ROW)
    assert (rows["begin"][:, CLOCK_VERSION] % 2 == 1).all()


def test_a_thread_without_a_slot_has_empty_snapshots(tmp_path: Path) -> None:
    array = np.ones((CLOCK_SLOTS, CLOCK_WORDS), dtype=np.uint64)
    clocks = StateClocks(array.reshape(-1).data, lambda tid: None)
    serve(virtual(Constant(10.0), requests=2), tmp_path, lambda i: MS, clocks=clocks)
    rows = np.fromfile(tmp_path / "clocks.0.stream", dtype=CLOCK_ROW)
    assert not rows["begin"].any()


def test_a_plan_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="at least one worker"):
        run_load(virtual(Closed()), [], tmp_path)
    with pytest.raises(SpecError, match="negative"):
        run_load(virtual(Closed(), seed=-1), [Server(VirtualTime(), lambda i: MS)], tmp_path)
    with pytest.raises(SpecError, match="unknown gc mode"):
        serve(virtual(Constant(10.0), requests=1, gc="sometimes"), tmp_path, lambda i: MS)
