"""The ledger against a machine that knows where every nanosecond went."""

from dataclasses import replace
from unittest import mock

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from jitterprof.analysis import interruptions
from jitterprof.analysis.calibration import HostCosts
from jitterprof.analysis.cause_clock import CauseClock, spent_by_cause
from jitterprof.analysis.event_counts import EVENT_CLASSES
from jitterprof.analysis.evidence import Evidence, find_gaps
from jitterprof.analysis.ledger import build_ledger, build_ledger_and_claims, check_closure
from jitterprof.analysis.run_excess import bill_run_excess
from jitterprof.analysis.timeline import build_timeline
from jitterprof.model.cause import CAUSE_IDS, Cause
from jitterprof.model.event import EventKind
from jitterprof.model.ledger import Ledger
from jitterprof.model.request import Phase
from tests import simulator
from tests.simulator import Piece, Trace, simulate, without

SEEDS = st.integers(0, 2**32)
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(100, 700))


def evidence_of(trace: Trace) -> Evidence:
    return Evidence(
        events=trace.events,
        gaps=find_gaps(trace.events, trace.cpu_seq),
        gc=trace.gc,
        window=trace.window,
        pids=(simulator.PROCESS,),
        irq_names=simulator.IRQ_NAMES,
        symbols=simulator.SYMBOLS,
        devices=simulator.DEVICES,
        cgroups=simulator.CGROUPS,
        maps=simulator.MAPS,
    )


def simulated(seed: int, shape: tuple[int, int, int]) -> Trace:
    cpus, threads, steps = shape
    return simulate(seed, steps, cpus, threads)


def pieces_of(ledger: Ledger) -> list[Piece]:
    """As the simulator writes them: neighbours that differ only in CPU or thread are one."""
    joined: list[Piece] = []
    for row, start, ns, _, _, culprit, _, _, cause, _ in ledger.pieces.tolist():
        blame = (CAUSE_IDS[cause], ledger.culprits[culprit])
        if joined and joined[-1][0] == row and joined[-1][3:] == blame:
            joined[-1] = (row, joined[-1][1], joined[-1][2] + ns, *blame)
        else:
            joined.append((row, start, ns, *blame))
    return joined


def spent(trace: Trace) -> npt.NDArray[np.int64]:
    ledger = build_ledger(trace.requests, evidence_of(trace))
    return spent_by_cause(ledger.pieces, len(trace.requests))


@settings(max_examples=150, deadline=None)
@given(SEEDS, SHAPES)
def test_the_ledger_is_what_happened(seed: int, shape: tuple[int, int, int]) -> None:
    trace = simulated(seed, shape)
    assert pieces_of(build_ledger(trace.requests, evidence_of(trace))) == list(trace.truth)


@settings(max_examples=150, deadline=None)
@given(SEEDS, SHAPES, st.sampled_from([0.001, 0.01, 0.05, 0.2]), st.randoms(use_true_random=False))
def test_losing_records_moves_time_to_unknown_only(
    seed: int, shape: tuple[int, int, int], share: float, random: object
) -> None:
    trace = simulated(seed, shape)
    lost = np.random.default_rng(random.getrandbits(32)).random(len(trace.events)) < share  # type: ignore[attr-defined]
    lost[random.randrange(len(lost))] = True  # type: ignore[attr-defined]
    grown = spent(without(trace, lost)) - spent(trace)
    grown[:, Cause.UNKNOWN] = 0
    assert grown.max(initial=0) == 0


@settings(max_examples=30, deadline=None)
@given(SEEDS, SHAPES)
def test_any_single_record_may_be_lost(seed: int, shape: tuple[int, int, int]) -> None:
    trace = simulated(seed, (shape[0], shape[1], 120))
    whole = spent(trace)
    for number in range(len(trace.events)):
        lost = np.arange(len(trace.events)) == number
        grown = spent(without(trace, lost)) - whole
        grown[:, Cause.UNKNOWN] = 0
        assert grown.max(initial=0) == 0, trace.events[number]


@settings(max_examples=40, deadline=None)
@given(SEEDS, SHAPES, st.integers(-900_000_000, 10**15))
def test_the_time_of_day_does_not_matter(seed: int, shape: tuple[int, int, int], shift: int) -> None:
    trace = simulated(seed, shape)
    events, requests, gc = trace.events.copy(), trace.requests.copy(), trace.gc.copy()
    events["ts"] += np.int64(shift).astype(np.uint64)
    spans = np.isin(events["kind"], range(EventKind.HARDIRQ, EventKind.STEAL + 1)) | (events["kind"] == EventKind.WORK)
    events["a"][spans] += np.int64(shift).astype(np.uint64)
    for name in ("intended_ns", "start_ns", "end_ns"):
        requests[name] += shift
    gc["start_ns"] += shift
    gc["end_ns"] += shift
    window = (trace.window[0] + shift, trace.window[1] + shift)
    moved = replace(trace, events=events, requests=requests, gc=gc, window=window)
    expected = [(row, start + shift, ns, cause, culprit) for row, start, ns, cause, culprit in trace.truth]
    assert pieces_of(build_ledger(moved.requests, evidence_of(moved))) == expected


@settings(max_examples=40, deadline=None)
@given(SEEDS, SHAPES, st.permutations(range(4)))
def test_the_numbers_of_cpus_do_not_matter(seed: int, shape: tuple[int, int, int], to: list[int]) -> None:
    trace = simulated(seed, shape)
    events, requests = trace.events.copy(), trace.requests.copy()
    table = np.array(to, np.uint64)
    events["cpu"] = table[events["cpu"]]
    placed = np.isin(events["kind"], (EventKind.WAKING, EventKind.WAKEUP, EventKind.MIGRATE))
    low = np.uint64(0xFFFFFFFF)
    events["a"][placed] = events["a"][placed] & ~low | table[events["a"][placed] & low]
    for name in ("cpu_start", "cpu_end"):
        requests[name] = table[requests[name]]
    relabelled = replace(
        trace, events=events, requests=requests, cpu_seq={to[cpu]: seq for cpu, seq in trace.cpu_seq.items()}
    )
    assert pieces_of(build_ledger(relabelled.requests, evidence_of(relabelled))) == list(trace.truth)


@settings(max_examples=60, deadline=None)
@given(SEEDS, SHAPES, st.floats(0, 0.05))
def test_the_clock_says_what_the_ledger_says(seed: int, shape: tuple[int, int, int], share: float) -> None:
    trace = simulated(seed, shape)
    lost = np.random.default_rng(seed).random(len(trace.events)) < share
    trace = without(trace, lost)
    # Requests that are ready when they start have nothing before their start.
    requests = trace.requests.copy()
    requests["intended_ns"] = requests["start_ns"]
    evidence = evidence_of(trace)
    timeline = build_timeline(requests, evidence)
    expected = spent_by_cause(build_ledger(requests, evidence, timeline=timeline).pieces, len(requests))
    for tid in np.unique(requests["tid"]).tolist():
        mine = requests["tid"] == tid
        clock = CauseClock.of(timeline, tid)
        starts, ends = requests["start_ns"][mine], requests["end_ns"][mine]
        assert np.array_equal(clock.between(starts, ends), expected[mine])
        turned = clock.shifted(starts, ends, 12_345, trace.window)
        assert np.array_equal(turned.sum(axis=1), ends - starts)
        length = trace.window[1] - trace.window[0]
        assert np.array_equal(clock.shifted(starts, ends, length, trace.window), expected[mine])


def billed(trace: Trace) -> Ledger:
    """The ledger of the requests of one thread, with the others as its pool; prices are given, as a canary's are."""
    requests = trace.requests.copy()
    requests["shape"], requests["phase"] = 0, Phase.MEASURED
    server = int(np.unique(requests["tid"])[0]) if len(requests) else 0
    requests = requests[requests["tid"] == server]
    evidence = evidence_of(trace)
    ledger, claims = build_ledger_and_claims(requests, evidence)
    price = np.full(len(EVENT_CLASSES), 500.0)
    host = HostCosts(price, price, price, np.full(len(EVENT_CLASSES), 99))
    after, _ = bill_run_excess(requests, trace.events, ledger, host, claims, evidence.gaps)
    check_closure(after.pieces, requests, np.arange(len(requests)))
    return after


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(2, 4), st.sampled_from([0.001, 0.01, 0.05]))
def test_losses_bill_nobody_for_the_excess(seed: int, cpus: int, threads: int, share: float) -> None:
    trace = simulated(seed, (cpus, threads, 2500))
    # On this machine hardly any time passes between interrupts: all of them together would be one interruption.
    with mock.patch.object(interruptions, "ADJACENT_NS", 0):
        assert_losses_bill_nobody(trace, seed, share)


def assert_losses_bill_nobody(trace: Trace, seed: int, share: float) -> None:
    whole, lost = billed(trace), np.random.default_rng(seed).random(len(trace.events)) < share
    rows = int(whole.pieces["row"].max(initial=-1)) + 1
    grown = spent_by_cause(billed(without(trace, lost)).pieces, rows) - spent_by_cause(whole.pieces, rows)
    grown[:, Cause.UNKNOWN] = 0
    # Shares of a bill are rounded down to whole nanoseconds, of which there are a few in each request.
    assert grown.max(initial=0) <= len(EVENT_CLASSES)
