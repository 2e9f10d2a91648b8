"""Tail, baselines and the excess that must add up."""

import numpy as np
import pytest
from fakes import ledger_of, request_table
from hypothesis import given, settings
from hypothesis import strategies as st

from jitterprof.analysis.account import account, check_closure, classify, group_name
from jitterprof.analysis.distribution import quantiles, round_to_total
from jitterprof.analysis.spikes import baseline_ledgers, excess_by_class, select
from jitterprof.model.cause import Cause
from jitterprof.model.request import Kind, Phase, Status


def test_tail_is_above_p99_and_the_baseline_is_the_median_of_the_rest() -> None:
    response = np.arange(1, 1001) * 1000
    population = select(request_table(response))
    assert population.threshold_ns == round(float(np.quantile(response, 0.99)))
    assert population.response_ns[population.tail].tolist() == list(range(991_000, 1_001_000, 1000))
    assert population.baseline_ns.tolist() == [495_500]


def test_slo_replaces_p99() -> None:
    population = select(request_table([10, 20, 30, 40]), slo_ns=25)
    assert population.tail_rows.tolist() == [2, 3]


def test_only_measured_requests_that_succeeded_count() -> None:
    requests = request_table([10] * 6)
    requests["phase"][0] = Phase.WARMUP
    requests["kind"][1] = Kind.TOKEN
    requests["status"][2] = Status.ERROR
    assert select(requests).rows.tolist() == [3, 4, 5]


def test_baselines_are_matched_by_shape() -> None:
    # The long shape is always in the tail: its own median is its baseline, so being long is not an excess.
    response = np.array([1000] * 2000 + [9000] * 15)
    population = select(request_table(response, shape=[0] * 2000 + [1] * 15))
    assert population.baseline_ns.tolist() == [1000, 9000]
    assert population.matched.tolist() == [True, True]


def test_a_shape_with_a_few_requests_borrows_the_others_and_says_so() -> None:
    population = select(request_table([1000] * 2000 + [9000] * 3, shape=[0] * 2000 + [1] * 3))
    assert population.baseline_ns.tolist() == [1000, 1000]
    assert population.matched.tolist() == [True, False]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_few_requests_are_no_error(count: int) -> None:
    population = select(request_table(np.arange(count) + 5))
    assert len(population.rows) == count


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_excess_adds_up_to_response_minus_baseline(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    requests = request_table(rng.integers(10_000, 90_000, count), shape=rng.integers(0, 3, count))
    ledger = ledger_of(
        requests,
        {
            row: [
                (Cause(int(rng.integers(1, 23))), f"task/{rng.integers(3)}", int(rng.integers(1, 3000)))
                for _ in range(rng.integers(0, 4))
            ]
            for row in range(count)
        },
    )
    classes = classify(ledger)
    totals = account(ledger, classes)
    population = select(requests)
    baselines = baseline_ledgers(population, totals, classes, count)
    assert baselines.sum(axis=1).tolist() == population.baseline_ns.tolist()
    assert (baselines >= 0).all()
    for index in range(count):
        excess = excess_by_class(totals, population, baselines, index)
        assert excess.sum() == population.response_ns[index] - population.baseline_ns[population.baseline[index]]


def test_a_ledger_that_does_not_close_is_refused() -> None:
    requests = request_table([1000, 2000])
    ledger = ledger_of(requests, {})
    ledger.pieces["ns"][1] -= 1
    with pytest.raises(AssertionError, match="request 1 has pieces of 1999 ns for 2000 ns"):
        check_closure(requests, ledger, np.arange(2))


def test_tasks_are_grouped_by_name() -> None:
    assert group_name("stress-ng/4711") == "stress-ng"
    assert group_name("kworker/0:1/55") == "kworker/0:1"
    assert group_name("NET_RX") == "NET_RX"


@given(st.lists(st.floats(-1e9, 1e9), max_size=20), st.sampled_from([1, 10, 1000]))
def test_rounded_parts_add_up_and_stay_close(values: list[float], quantum: int) -> None:
    rounded = round_to_total(values, quantum)
    assert sum(rounded) == round(float(np.sum(np.array(values) / quantum))) * quantum
    assert all(abs(part - value) <= quantum * (1 + 1e-6) for part, value in zip(rounded, values, strict=True))


def test_quantiles_of_nothing_are_zeros() -> None:
    assert quantiles(np.empty(0, np.int64)).count == 0
