"""A pool whose threads spin: what held up one of them is what the request waited for, and never more than it lost."""

import numpy as np
import numpy.typing as npt
import pytest

from jitterprof.analysis.calibration import HostCosts
from jitterprof.analysis.cost_regression import HiddenCost
from jitterprof.analysis.event_counts import EVENT_CLASSES
from jitterprof.analysis.ledger import build_ledger_and_claims, check_closure
from jitterprof.analysis.run_excess import bill_run_excess, prices
from jitterprof.analysis.stragglers import Verdict, granted, judge
from jitterprof.model.cause import CAUSE_IDS, Cause
from jitterprof.model.event import EventKind, Vector
from jitterprof.model.ledger import PIECE_DTYPE, Basis, Ledger
from jitterprof.model.request import REQUEST_DTYPE, Phase
from tests.unit.analysis.traces import (
    FUTEX,
    ME,
    OTHER,
    SIBLING,
    Record,
    blocked,
    enters,
    evidence,
    interval,
    preempted,
    waking,
)

GAP, USUAL = 1_000_000, 100_000
#: Both threads of the target run all the time: the serving one on CPU 1, the pool's on CPU 0.
START = [enters(10, 0, tid=SIBLING), enters(20, 1)]


def requests_of(lengths: list[int]) -> npt.NDArray[np.void]:
    table = np.zeros(len(lengths), REQUEST_DTYPE)
    table["seq"] = np.arange(len(lengths))
    table["start_ns"] = table["intended_ns"] = GAP * (1 + np.arange(len(lengths)))
    table["end_ns"] = table["start_ns"] + lengths
    table["tid"], table["parent"], table["phase"] = ME, -1, Phase.MEASURED
    return table


def billed(lengths: list[int], records: list[Record], host: HostCosts | None = None) -> tuple[Ledger, Ledger]:
    """The ledger after billing, and the claims."""
    requests = requests_of(lengths)
    found = evidence([*START, *records], window=(0, GAP * (2 + len(lengths))))
    ledger, claims = build_ledger_and_claims(requests, found)
    after, _ = bill_run_excess(requests, found.events, ledger, host, claims, found.gaps)
    check_closure(after.pieces, requests, np.arange(len(requests)))
    return after, claims


def of_row(ledger: Ledger, row: int) -> dict[tuple[str, str], int]:
    sums: dict[tuple[str, str], int] = {}
    for piece in ledger.pieces[ledger.pieces["row"] == row]:
        key = CAUSE_IDS[piece["cause"]], ledger.culprits[piece["culprit"]]
        sums[key] = sums.get(key, 0) + int(piece["ns"])
    return sums


def held_up(row: int, start: int, end: int) -> list[Record]:
    """The pool's thread is preempted in [start, end) of request `row`."""
    at = GAP * (1 + row)
    return [preempted(at + start, 0, OTHER, tid=SIBLING), enters(at + end, 0, OTHER, tid=SIBLING)]


def test_a_preempted_helper_takes_the_place_of_running() -> None:
    ledger, _ = billed([USUAL] * 19 + [USUAL + 50_000], held_up(19, 20_000, 70_000))
    assert of_row(ledger, 19) == {("run", ""): USUAL, ("preempted", "hog/99"): 50_000}
    piece = ledger.pieces[(ledger.pieces["row"] == 19) & (ledger.pieces["cause"] == Cause.PREEMPTED)]
    assert piece[["tid", "cpu", "basis", "calibrated_ns"]].tolist() == [(SIBLING, 0, Basis.POOL_GUESS, 0)]
    assert piece["start_ns"].tolist() == [GAP * 20 + 20_000]


def test_never_more_than_the_excess_and_the_latest_first() -> None:
    # The request lost 30 us; the rest of the helper's absence was made up for by the others.
    ledger, claims = billed([USUAL] * 19 + [USUAL + 30_000], held_up(19, 20_000, 70_000))
    assert claims.pieces["ns"].sum() == 50_000
    assert of_row(ledger, 19) == {("run", ""): USUAL, ("preempted", "hog/99"): 30_000}
    piece = ledger.pieces[(ledger.pieces["row"] == 19) & (ledger.pieces["cause"] == Cause.PREEMPTED)]
    assert piece["start_ns"].tolist() == [GAP * 20 + 40_000]


def test_a_request_that_took_no_longer_has_lost_nothing() -> None:
    ledger, claims = billed([USUAL] * 20, held_up(19, 20_000, 70_000))
    assert len(claims.pieces)
    assert of_row(ledger, 19) == {("run", ""): USUAL}


def test_extra_work_stays_running() -> None:
    ledger, _ = billed([USUAL] * 19 + [USUAL + 300_000], held_up(18, 20_000, 70_000))
    assert of_row(ledger, 19) == {("run", ""): USUAL + 300_000}


def test_a_helper_that_sleeps_claims_nothing() -> None:
    at = GAP * 20
    records = [
        blocked(at + 20_000, 0, FUTEX, tid=SIBLING),
        waking(at + 70_000, 1, ME, 0, tid=SIBLING),
        enters(at + 70_000, 0, tid=SIBLING),
    ]
    _, claims = billed([USUAL] * 19 + [USUAL + 50_000], records)
    assert not len(claims.pieces)


def test_while_the_serving_thread_is_off_its_cpu_its_own_state_counts() -> None:
    at = GAP * 20
    records = [*held_up(19, 20_000, 70_000), preempted(at + 40_000, 1, 98), enters(at + 60_000, 1, 98)]
    ledger, _ = billed([USUAL] * 19 + [USUAL + 50_000], records)
    assert of_row(ledger, 19) == {
        ("run", ""): USUAL,
        ("preempted", "hog/99"): 30_000,
        ("preempted", "?/98"): 20_000,
    }


def test_a_storm_on_the_helpers_cpu_is_billed_in_full() -> None:
    """Ten interrupts of 1 us, each of which costs 5 us more than its span: no more is visible than 10 us of 60."""
    at = GAP * 20
    storm = [
        interval(
            EventKind.VECTOR,
            at + 10_000 * n,
            at + 10_000 * n + 1000,
            0,
            flags=Vector.CALL_FUNCTION_SINGLE,
            other=OTHER,
            tid=SIBLING,
        )
        for n in range(1, 11)
    ]
    price = np.array([5_000.0 if one.cause == Cause.IPI else 0.0 for one in EVENT_CLASSES])
    host = HostCosts(price, price, price, np.full(len(price), 99))
    ledger, _ = billed([USUAL] * 19 + [USUAL + 60_000], storm, host)
    assert of_row(ledger, 19) == {
        ("run", ""): USUAL,
        ("ipi", "call_function_single from hog/99"): 60_000,
    }
    ipi = ledger.pieces[(ledger.pieces["row"] == 19) & (ledger.pieces["cause"] == Cause.IPI)]
    assert ipi["calibrated_ns"].sum() == 50_000
    assert set(ipi["tid"].tolist()) == {SIBLING}


def _claims(rows: list[int], ns: int, tid: int = SIBLING) -> npt.NDArray[np.void]:
    claims = np.zeros(len(rows), PIECE_DTYPE)
    claims["row"], claims["ns"], claims["tid"], claims["cause"] = rows, ns, tid, Cause.PREEMPTED
    return claims


@pytest.mark.parametrize(
    ("hits", "gained", "verdict"),
    [
        (12, 40_000, Verdict.CONFIRMED),
        (40, 0, Verdict.REFUTED),
        (12, 0, Verdict.UNKNOWN),  # too few to say no
        (4, 40_000, Verdict.UNKNOWN),  # too few to say yes
    ],
)
def test_the_session_says_whether_requests_wait_for_a_thread(hits: int, gained: int, verdict: Verdict) -> None:
    excess = np.random.default_rng(1).normal(0, 2_000, 400).astype(np.int64)
    excess[:hits] += gained
    assert judge(_claims(list(range(hits)), 50_000), excess, np.full(400, USUAL)) == {SIBLING: verdict}


def test_a_thread_that_nobody_waits_for_is_not_blamed_for_other_trouble() -> None:
    hits = range(40)
    records = [record for row in hits for record in held_up(row, 20_000, 70_000)]
    lengths = [USUAL] * 60
    lengths[39] += 50_000
    ledger, claims = billed(lengths, records)
    assert len(claims.pieces) == 40
    assert of_row(ledger, 39) == {("run", ""): USUAL + 50_000}


def test_granting_keeps_to_the_budget_of_each_row() -> None:
    claims = _claims([0, 0, 1], 100)
    claims["start_ns"] = [0, 500, 0]
    found = granted(claims, np.array([150, 0]))
    assert found[["row", "start_ns", "ns"]].tolist() == [(0, 50, 50), (0, 500, 100)]


@pytest.mark.parametrize(("pooled", "expected"), [(False, 30_000), (True, 9_000)])
def test_with_a_pool_the_canary_knows_better_than_the_regression(pooled: bool, expected: int) -> None:
    """A tick comes to all CPUs at once: regressed on its own ticks, a thread that waits for another pays twice."""
    timer = next(number for number, one in enumerate(EVENT_CLASSES) if one.cause == Cause.TIMER)
    ns, gaps = np.zeros(len(EVENT_CLASSES)), np.zeros(len(EVENT_CLASSES), np.int64)
    ns[timer], gaps[timer] = 9_000, 80
    packet = next(one for one in EVENT_CLASSES if one.name == "NET_RX")
    costs = tuple(HiddenCost(one, 30_000.0, 25_000.0, 35_000.0, 99, True) for one in (EVENT_CLASSES[timer], packet))
    price = prices(costs, HostCosts(ns, ns, ns, gaps), pooled)
    assert price[timer] == expected
    # What the canary never met, only the session can tell.
    assert price[EVENT_CLASSES.index(packet)] == 30_000
