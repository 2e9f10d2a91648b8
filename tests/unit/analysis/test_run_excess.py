"""Calibrated cost: recovered where it is there, never more than there is, nothing without events."""

import numpy as np
import pytest
from fakes import START_NS, WORKER_TID, ledger_of, request_table
from hypothesis import given, settings
from hypothesis import strategies as st

from jitterprof.analysis.account import check_closure
from jitterprof.analysis.cost_regression import HiddenCost
from jitterprof.analysis.event_counts import EVENT_CLASSES, EventClass, count_events
from jitterprof.analysis.run_excess import bill_run_excess
from jitterprof.model.cause import Cause
from jitterprof.model.event import EVENT_DTYPE, EventKind, OutFlag, Vector
from jitterprof.model.ledger import Ledger

TICK_NS = 4_000_000
SPAN_NS = 3_000
NET_RX = 3


def _session(
    seed: int, tick_cost: int, packet_cost: int, count: int = 6000, storms: float = 0.03
) -> tuple[np.ndarray, np.ndarray, Ledger]:
    """Requests of 3 ms with ticks and, in some, 40 packets; one request in twenty works for up to 6 ms longer."""
    rng = np.random.default_rng(seed)
    work = (3e6 + rng.normal(0, 3e4, count)).astype(np.int64)
    work += np.where(rng.random(count) < 0.05, rng.integers(1_000_000, 6_000_000, count), 0)
    now, tick = START_NS, START_NS + TICK_NS
    response, rows, parts = [], [], {}
    for number in range(count):
        total, pieces = int(work[number]), []
        # Far enough apart not to be one interruption.
        spread = np.arange(40) * (total // 40) + rng.integers(0, 20_000, 40)
        for packet in spread if rng.random() < storms else ():
            rows.append((now + packet, 0, 1, EventKind.SOFTIRQ, 0, WORKER_TID, NET_RX, now + packet - SPAN_NS, 0))
            pieces.append((Cause.SOFTIRQ, "NET_RX", SPAN_NS))
            total += SPAN_NS + packet_cost
        while tick < now + total:
            if tick >= now:
                rows.append((tick, 0, 1, EventKind.VECTOR, Vector.LOCAL_TIMER, WORKER_TID, 0, tick - SPAN_NS, 0))
                pieces.append((Cause.TIMER, "tick", SPAN_NS))
                total += SPAN_NS + tick_cost
            tick += TICK_NS
        parts[number] = pieces
        response.append(total)
        now += total + 500_000
    requests = request_table(response, gap_ns=500_000)
    return requests, np.sort(np.array(rows, EVENT_DTYPE), order="ts"), ledger_of(requests, parts)


def _cost(costs: tuple[HiddenCost, ...], cause: Cause, name: str = "") -> HiddenCost:
    return next(cost for cost in costs if cost.event_class == EventClass(cause, name))


@pytest.mark.parametrize("seed", range(3))
def test_a_known_cost_is_recovered_though_long_requests_catch_more_ticks(seed: int) -> None:
    requests, events, ledger = _session(seed, tick_cost=10_000, packet_cost=14_000)
    billed, costs = bill_run_excess(requests, events, ledger)
    packet, tick = _cost(costs, Cause.SOFTIRQ, "NET_RX"), _cost(costs, Cause.TIMER)
    assert packet.used
    assert tick.used
    assert packet.ns == pytest.approx(14_000, rel=0.05)
    assert tick.ns == pytest.approx(10_000, rel=0.4)
    moved = billed.pieces[billed.pieces["calibrated_ns"] > 0]
    softirq = moved[moved["cause"] == Cause.SOFTIRQ]
    packets = int((events["kind"] == EventKind.SOFTIRQ).sum())
    assert softirq["ns"].sum() == pytest.approx(packets * 14_000, rel=0.1)
    assert {billed.culprits[number] for number in softirq["culprit"]} == {"NET_RX"}
    assert {billed.culprits[number] for number in moved["culprit"][moved["cause"] == Cause.TIMER]} == {"tick"}


def test_events_that_cost_nothing_are_hardly_ever_billed() -> None:
    used = 0
    for seed in range(20):
        requests, events, ledger = _session(seed + 10, tick_cost=0, packet_cost=0, count=3000)
        billed, costs = bill_run_excess(requests, events, ledger)
        assert len(costs) == 2
        used += any(cost.used for cost in costs)
        assert (billed is ledger) == (not any(cost.used for cost in costs))
    assert used <= 1


def test_no_events_no_effect() -> None:
    requests, _, ledger = _session(1, 10_000, 0, count=300)
    billed, costs = bill_run_excess(requests, np.empty(0, EVENT_DTYPE), ledger)
    assert billed is ledger
    assert costs == ()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0, 5_000, 30_000]), st.sampled_from([0, 20_000]))
def test_the_ledger_still_closes_and_never_takes_more_than_the_excess(seed: int, tick: int, packet: int) -> None:
    requests, events, ledger = _session(seed, tick, packet, count=600, storms=0.1)
    billed, _ = bill_run_excess(requests, events, ledger)
    pieces = billed.pieces
    check_closure(requests, billed, np.arange(len(requests)))
    assert (pieces["ns"] > 0).all()
    assert ((pieces["calibrated_ns"] >= 0) & (pieces["calibrated_ns"] <= pieces["ns"])).all()
    # Still a partition: each piece begins where the one before it ends.
    same = pieces["row"][1:] == pieces["row"][:-1]
    assert ((pieces["start_ns"] + pieces["ns"])[:-1][same] == pieces["start_ns"][1:][same]).all()

    def run_ns(of: Ledger) -> np.ndarray:
        run = of.pieces[of.pieces["cause"] == Cause.RUN]
        return np.bincount(run["row"], run["ns"], len(requests))

    before, after = run_ns(ledger), run_ns(billed)
    floor = np.minimum(before, round(float(np.median(before))))
    assert (after >= floor).all()
    assert (after <= before).all()


def test_counting_is_by_thread_time_and_class() -> None:
    requests = request_table([100_000, 100_000], gap_ns=1000)
    first, second = (int(at) for at in requests["start_ns"])
    events = np.array(
        [
            (first + 10, 0, 0, EventKind.HARDIRQ, 0, WORKER_TID, 24, first, 0),
            (first + 20, 0, 0, EventKind.HARDIRQ, 0, 999, 24, first, 0),  # somebody else was interrupted
            (first + 50_000, 0, 0, EventKind.VECTOR, Vector.RESCHEDULE, WORKER_TID, 0, first + 49_000, 0),
            (first + 100_500, 0, 0, EventKind.FAULT, 0, WORKER_TID, 0, first, 0),  # between the requests
            (second + 10, 0, 0, EventKind.SWITCH_OUT, OutFlag.PREEMPT, WORKER_TID, 7, 0, 0),
            (second + 15, 0, 0, EventKind.SWITCH_OUT, 0, WORKER_TID, 7, 0, 0),  # on the way to user space
            (second + 20, 0, 0, EventKind.SWITCH_OUT, 0, WORKER_TID, 7, 1, 0),  # went to sleep by itself
            # A packet: the IPI and the softirq that it raises are one interruption, named by the longer one.
            (second + 31_000, 0, 0, EventKind.VECTOR, Vector.CALL_FUNCTION_SINGLE, WORKER_TID, 0, second + 30_000, 0),
            (second + 36_000, 0, 0, EventKind.SOFTIRQ, 0, WORKER_TID, NET_RX, second + 31_500, 0),
        ],
        EVENT_DTYPE,
    )
    counts = count_events(requests, events)
    found = [[(EVENT_CLASSES[number], int(row[number])) for number in np.flatnonzero(row).tolist()] for row in counts]
    assert found == [
        [(EventClass(Cause.HARDIRQ), 1), (EventClass(Cause.IPI), 1)],
        [(EventClass(Cause.PREEMPTED), 2), (EventClass(Cause.SOFTIRQ, "NET_RX"), 1)],
    ]
