"""Running time beyond the usual: planted parts are found, what is not known stays unexplained, sums are exact."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from fakes import MS, START_NS, WORKER_TID, ledger_of, manifest, request_table, run_of, task_event

from jitterprof.analysis.explanation import explain
from jitterprof.analysis.inflation import Inflation, split
from jitterprof.analysis.neighbours import neighbours
from jitterprof.analysis.running_time import count_work, mean_khz, running_time
from jitterprof.analysis.silent_gaps import silent_gaps
from jitterprof.analysis.spikes import select
from jitterprof.model.cause import Cause
from jitterprof.model.event import EVENT_DTYPE, CountersFlag, EventKind, Neighbour, Vector
from jitterprof.model.run import ProbeStatus
from jitterprof.model.stream import CANARY_DTYPE, CANARY_GAP
from jitterprof.store import Run

Rows = npt.NDArray[np.void]
HOG = 99
NO_PMU = ProbeStatus("pmu", "missing", "no PMU")


def record(
    kind: EventKind, ts: int, tid: int = 0, other: int = 0, a: int = 0, b: int = 0, flags: int = 0, cpu: int = 1
) -> tuple[int, ...]:
    return (ts, 0, cpu, kind, flags, tid, other, a, b)


def events_of(rows: list[tuple[int, ...]]) -> Rows:
    table = np.array(rows, EVENT_DTYPE)
    return table[np.argsort(table["ts"], kind="stable")]


def session(response: npt.NDArray[np.int64], events: Rows, shape: npt.NDArray[np.int64] | int = 0) -> Run:
    described = manifest(probes=(NO_PMU,))
    return replace(run_of(request_table(response, shape=shape), described), events=events)


def explained(run: Run) -> Inflation:
    return split(run, ledger_of(run.requests, {}), select(run.requests))


def counters(
    requests: Rows, instructions: npt.NDArray[np.int64], cycles: npt.NDArray[np.int64], flags: int = 0
) -> Rows:
    """One record per request, longer than it at both ends by the same rate."""
    rows = []
    for request, i, c in zip(requests, instructions.tolist(), cycles.tolist(), strict=True):
        start, end = int(request["start_ns"]), int(request["end_ns"])
        # Cut at a tick in the middle, a third and two thirds.
        cut = start + (end - start) // 3
        rows.append(record(EventKind.COUNTERS, cut, WORKER_TID, a=start, b=c // 3 | (i // 3) << 32, flags=flags))
        rows.append(
            record(EventKind.COUNTERS, end, WORKER_TID, a=cut, b=(c - c // 3) | (i - i // 3) << 32, flags=flags)
        )
    return events_of(rows)


def factors(seed: int, count: int = 600, slow: int = 5) -> tuple[npt.NDArray[np.float64], ...]:
    """Instructions, cycles per instruction, GHz of requests of about 3 ms."""
    rng = np.random.default_rng(seed)
    work = 6e6 * rng.normal(1, 0.002, count)
    cpi, ghz = np.full(count, 1.25) * rng.normal(1, 0.002, count), np.full(count, 2.5)
    return work, cpi, ghz


@pytest.mark.parametrize(
    ("which", "name"), [(0, "work"), (1, "cycles per instruction"), (2, "frequency")], ids=["work", "cpi", "frequency"]
)
def test_counters_tell_why(which: int, name: str) -> None:
    parts = factors(which)
    parts[which][::100] *= 1.5 if which < 2 else 1 / 1.5
    work, cpi, ghz = parts
    response = (work * cpi / ghz).astype(np.int64)
    run = session(response, np.empty(0, EVENT_DTYPE))
    run = replace(run, events=counters(run.requests, work.astype(np.int64), (work * cpi).astype(np.int64)))
    found = explained(run)
    rows = {row.name: row for row in found.rows}
    assert rows.keys() == {"work", "cycles per instruction", "frequency"}
    assert rows[name].ns == pytest.approx(found.excess_ns, rel=0.02)
    assert rows[name].low_ns <= rows[name].ns <= rows[name].high_ns
    assert sum(row.ns for row in found.rows) == found.excess_ns > MS
    assert {row.basis for row in found.rows} == {"counters"}
    assert f"{name} (" in found.caveats[0] and "by counters" in found.caveats[0]


@pytest.mark.parametrize("seed", range(5))
def test_parts_sum_exactly_whatever_they_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    work, cpi, ghz = factors(seed)
    slow = rng.random(len(work)) < 0.03
    for part in (work, cpi, ghz):
        part[slow] *= rng.uniform(0.7, 2.0, slow.sum())
    shape = rng.integers(0, 3, len(work))
    work *= 1 + shape
    response = (work * cpi / ghz).astype(np.int64)
    run = session(response, np.empty(0, EVENT_DTYPE), shape)
    run = replace(run, events=counters(run.requests, work.astype(np.int64), (work * cpi).astype(np.int64)))
    found = explained(run)
    assert found.rows
    assert sum(row.ns for row in found.rows) == found.excess_ns


def slow_session(events: Rows | None = None, count: int = 600) -> Run:
    response = np.random.default_rng(0).normal(3 * MS, 0.01 * MS, count).astype(np.int64)
    response[::100] += 2 * MS
    return session(response, np.empty(0, EVENT_DTYPE) if events is None else events)


def test_without_counters_it_stays_unexplained_and_says_why() -> None:
    found = explained(slow_session())
    assert [(row.name, row.ns) for row in found.rows] == [("not explained", found.excess_ns)]
    assert found.excess_ns == pytest.approx(2 * MS, rel=0.02)
    assert found.caveats == (
        "slow requests ran 2.00 ms longer than usual: on the CPU, not explained further: no counters (no PMU)",
    )


@pytest.mark.parametrize("flag", [CountersFlag.SHARED, CountersFlag.LONG])
def test_counters_that_are_known_to_be_wrong_explain_nothing(flag: CountersFlag) -> None:
    run = slow_session()
    work = np.full(len(run.requests), 6_000_000)
    run = replace(run, events=counters(run.requests, work, work, flag))
    assert [row.name for row in explained(run).rows] == ["not explained"]


def test_slow_requests_that_were_not_counted_are_left_over() -> None:
    run = slow_session()
    work = np.full(len(run.requests), 6_000_000)
    work[::100] = 10_000_000
    every = counters(run.requests, work, work)
    half = {int(start) for start in run.requests["start_ns"][::200]}
    gone = np.array([int(a) in half for a in every["a"]])
    assert gone.any()
    found = explained(replace(run, events=every[~gone]))
    rows = {row.name: row.ns for row in found.rows}
    # Of those, only the last two thirds are covered.
    assert rows["not explained"] == pytest.approx(found.excess_ns / 2, rel=0.1)
    assert rows["work"] > 0.3 * found.excess_ns
    assert sum(rows.values()) == found.excess_ns


def test_frequency_changes_tell_their_share() -> None:
    """Slow requests run at half the frequency: all of it. The same again with twice the work: a part."""
    for factor, share in ((1.0, 1.0), (2.0, 0.5)):
        response = np.full(400, 3 * MS)
        response[::100] = int(6 * MS * factor)
        requests = request_table(response)
        rows = [record(EventKind.FREQUENCY, START_NS - 1, other=1, a=3_000_000)]
        for request in requests[::100]:
            rows.append(record(EventKind.FREQUENCY, int(request["start_ns"]), other=1, a=1_500_000))
            rows.append(record(EventKind.FREQUENCY, int(request["end_ns"]), other=1, a=3_000_000))
        found = explained(session(response, events_of(rows)))
        parts = {row.name: row for row in found.rows}
        assert parts["frequency"].ns == pytest.approx(found.excess_ns * share, rel=0.01)
        assert sum(row.ns for row in found.rows) == found.excess_ns
        assert parts["frequency"].basis == "frequency changes"


def test_a_frequency_that_is_not_known_from_the_beginning_is_not_known() -> None:
    requests = request_table([2 * MS, 2 * MS])
    middle = int(requests["start_ns"][0]) + MS
    events = events_of([record(EventKind.FREQUENCY, middle, other=1, a=1_000_000)])
    khz = mean_khz(running_time(ledger_of(requests, {}), np.arange(2), 2), events)
    assert khz is not None
    assert np.isnan(khz[0]) and khz[1] == 1_000_000


def test_only_running_time_is_counted() -> None:
    """Half of the record's time the thread was preempted on paper: half of the work is the request's running time."""
    requests = request_table([2 * MS])
    ledger = ledger_of(requests, {0: [(Cause.SOFTIRQ, "NET_RX", MS)]})
    work = np.array([4_000_000])
    counted = count_work(running_time(ledger, np.arange(1), 1), counters(requests, work, 2 * work))
    assert counted is not None
    assert counted.instructions[0] == pytest.approx(2_000_000, rel=0.01)
    assert counted.cycles[0] == pytest.approx(4_000_000, rel=0.01)


def test_running_time_that_is_not_the_trouble_is_not_discussed() -> None:
    response = np.full(400, 3 * MS)
    response[::100] += 2 * MS
    run = session(response, np.empty(0, EVENT_DTYPE))
    waits = {row: [(Cause.PREEMPTED, "hog/99", 2 * MS)] for row in range(0, 400, 100)}
    found = split(run, ledger_of(run.requests, waits), select(run.requests))
    assert found == Inflation(0)


@pytest.mark.parametrize("mode", ["none", "procfs", "clocks"])
def test_without_events_nothing_is_split(mode: str) -> None:
    run = slow_session()
    run = replace(run, manifest=replace(run.manifest, probe_mode=mode))
    assert explained(run) == Inflation()


def looks(
    requests: Rows, beside: npt.NDArray[np.bool_], kind: Neighbour = Neighbour.CACHE, every_ns: int = 4 * MS
) -> Rows:
    """A tick looks every 4 ms; the hog runs from the beginning of the requests `beside` to the gap after them."""
    times = np.arange(int(requests["start_ns"][0]) - every_ns, int(requests["end_ns"][-1]) + 2 * every_ns, every_ns)
    at = np.clip(np.searchsorted(requests["start_ns"], times, "right") - 1, 0, len(requests) - 1)
    rows = [
        record(EventKind.NEIGHBOUR, int(ts), HOG if busy else 0, 0, WORKER_TID, 0, int(kind if busy else 0))
        for ts, busy in zip(times, beside[at], strict=True)
    ]
    return np.concatenate([task_event(HOG, HOG, "hog"), events_of(rows)])


def periods(count: int, length: int = 40) -> npt.NDArray[np.bool_]:
    """On for so many requests, off for as many."""
    return np.arange(count) // length % 2 == 1


@pytest.mark.parametrize("kind", [Neighbour.SMT, Neighbour.CACHE])
def test_a_neighbour_that_slows_requests_down_is_named(kind: Neighbour) -> None:
    rng = np.random.default_rng(1)
    beside = periods(2000)
    response = (3 * MS + rng.normal(0, 0.03 * MS, 2000) + beside * 0.4 * MS).astype(np.int64)
    response[rng.random(2000) < 0.02] += MS
    requests = request_table(response)
    found = explained(session(response, looks(requests, beside, kind)))
    assert [one.name for one in found.neighbours] == ["hog/99"]
    hog = found.neighbours[0]
    assert hog.ns == pytest.approx(0.4 * MS, rel=0.1)
    assert 0 < hog.low_ns <= 0.4 * MS * 1.05 and hog.low_ns <= hog.ns <= hog.high_ns
    assert hog.kind == kind
    assert any("hog/99 ran" in line for line in found.caveats)
    # It is part of the running time, not on top.
    assert sum(row.ns for row in found.rows) == found.excess_ns


@pytest.mark.parametrize("seed", range(6))
def test_a_neighbour_without_effect_is_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    response = (3 * MS + rng.normal(0, 0.03 * MS, 2000)).astype(np.int64)
    response[rng.random(2000) < 0.02] += MS
    requests = request_table(response)
    found = explained(session(response, looks(requests, periods(2000))))
    assert found.rows and found.neighbours == ()


@pytest.mark.parametrize("seed", range(4))
def test_longer_requests_meet_more_neighbours_by_themselves(seed: int) -> None:
    """A hog that comes and goes without any effect meets a request of twice the length twice as often."""
    rng = np.random.default_rng(seed)
    response = np.where(rng.random(3000) < 0.3, 12 * MS, 6 * MS).astype(np.int64)
    requests = request_table(response)
    times = np.arange(int(requests["start_ns"][0]), int(requests["end_ns"][-1]), 4 * MS)
    busy = (times // (30 * MS)) % 2 == 0
    rows = [
        record(EventKind.NEIGHBOUR, int(ts), HOG if on else 0, 0, WORKER_TID, 0, int(on))
        for ts, on in zip(times, busy, strict=True)
    ]
    events = np.concatenate([task_event(HOG, HOG, "hog"), events_of(rows)])
    excess = (response - 6 * MS).astype(np.int64)
    assert neighbours(requests, excess, excess > 0, 6 * MS, events) == ()
    # With an effect, the same looks are enough to see it.
    start, end = requests["start_ns"], requests["end_ns"]
    inside = ((start - 4 * MS) // (30 * MS) == (end + 4 * MS) // (30 * MS)) & (start // (30 * MS) % 2 == 0)
    assert [one.name for one in neighbours(requests, excess + 2 * MS * inside, excess > 0, 6 * MS, events)] == [
        "hog/99"
    ]


def test_looks_that_are_too_far_away_say_nothing() -> None:
    beside = periods(600)
    response = (np.full(600, 3 * MS) + beside * MS).astype(np.int64)
    requests = request_table(response)
    sparse = looks(requests, beside, every_ns=100 * MS)
    assert neighbours(requests, response - 3 * MS, beside, 3 * MS, sparse) == ()


def test_the_report_says_it() -> None:
    run = slow_session()
    found = explain(run, ledger_of(run.requests, {})).health
    assert found.inflation.rows[0].name == "not explained"
    assert {*found.inflation.caveats} <= {*found.caveats}
    # What it lacks for that is said there, and not a second time.
    assert not any(line.startswith("probe pmu") for line in found.caveats)


def test_threads_beyond_those_that_are_followed_are_told() -> None:
    run = slow_session()
    many = replace(run.manifest, oracles={"probes": [{"slotless": 3}, {"slotless": 4}]})
    found = explain(replace(run, manifest=many), ledger_of(run.requests, {})).health
    assert any("more than 1024 threads at a time: 7 times" in line for line in found.loud)
    assert not any("1024" in line for line in explain(run, ledger_of(run.requests, {})).health.caveats)


def gaps(starts: list[int], length: int) -> Rows:
    return np.array([(START_NS + at, START_NS + at + length, WORKER_TID, 0, CANARY_GAP) for at in starts], CANARY_DTYPE)


def test_gaps_without_an_event_are_the_hypervisors() -> None:
    every = [number * 10 * MS for number in range(31)]
    canary = gaps(every, 30_000)
    # Every second one is a tick; one is told as steal.
    ticks = [
        record(EventKind.VECTOR, START_NS + at + 29_000, WORKER_TID, a=START_NS + at + 2_000, flags=Vector.LOCAL_TIMER)
        for at in every[::2]
    ]
    steal = record(EventKind.STEAL, START_NS + every[2] - 1_000, a=START_NS + every[1] - 1_000, b=25_000)
    found = silent_gaps(canary, events_of([*ticks, steal]))
    assert found is not None
    span = 300 * MS + 30_000
    assert found.share == pytest.approx(14 * 30_000 / span)
    assert found.per_second == pytest.approx(14 / span * 1e9)
    assert found.longest_ns == 30_000


def test_few_gaps_say_nothing() -> None:
    assert silent_gaps(gaps([0, 100 * MS], 30_000), np.empty(0, EVENT_DTYPE)) is None
    assert silent_gaps(gaps([*range(0, 900_000, 100_000)], 30_000), np.empty(0, EVENT_DTYPE)) is None


def test_time_that_nobody_told_of_is_a_caveat() -> None:
    run = slow_session()
    every = [number * 10 * MS for number in range(31)]
    kernel = {"steal_ns": [40_000_000, 0], "elapsed_ns": 1_000_000_000}
    run = replace(run, canary=gaps(every, 100_000), manifest=replace(run.manifest, oracles={"kernel": kernel}))
    text = explained(run).caveats
    assert any("a spinning thread lost 1.0% of its time" in line and "103 times a second" in line for line in text)
    assert any("2.0% of this machine's time" in line for line in text)
