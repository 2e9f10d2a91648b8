"""Ledgers from counters close exactly, whatever the counters say."""

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from jitterprof.analysis.cause_clock import spent_by_cause
from jitterprof.analysis.degraded import ledger_from_clocks, ledger_from_procfs
from jitterprof.analysis.evidence import Evidence
from jitterprof.model.cause import Cause
from jitterprof.model.event import CLOCK_CLASSES, CLOCK_NS, CLOCK_TID
from jitterprof.model.request import REQUEST_DTYPE
from jitterprof.model.stream import CLOCK_ROW, PROCFS_ROW

AMOUNT = st.integers(0, 2000)
KNOWN = [name for name in CLOCK_CLASSES if not name.startswith("reserved")]


def requests_of(service: list[int], late: int = 100) -> npt.NDArray[np.void]:
    rows = np.zeros(len(service), REQUEST_DTYPE)
    rows["seq"] = np.arange(len(rows))
    rows["end_ns"] = 10_000 + np.cumsum(np.array(service) + 500)
    rows["start_ns"] = rows["end_ns"] - service
    rows["intended_ns"] = rows["start_ns"] - late
    rows["tid"], rows["parent"], rows["phase"] = 7, -1, 2
    return rows


def snapshots(grown: list[dict[str, int]]) -> npt.NDArray[np.void]:
    table = np.zeros(len(grown), CLOCK_ROW)
    table["begin"][:, CLOCK_TID] = table["end"][:, CLOCK_TID] = 7
    for row, growth in zip(table, grown, strict=True):
        for name, ns in growth.items():
            row["begin"][CLOCK_NS + CLOCK_CLASSES.index(name)] = 2**40
            row["end"][CLOCK_NS + CLOCK_CLASSES.index(name)] = 2**40 + ns
    return table


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(-5, 4000), AMOUNT, st.booleans()), max_size=6))
def test_procfs(rows: list[tuple[int, int, int, bool]]) -> None:
    requests = requests_of([service for service, _, _, _ in rows])
    procfs = np.zeros(len(rows), PROCFS_ROW)
    procfs["seq"], procfs["tid"], procfs["phase"] = np.arange(len(rows)), 7, 2
    procfs["cpu_ns"], procfs["run_delay_ns"] = [cpu for _, cpu, _, _ in rows], [delay for _, _, delay, _ in rows]
    kept = np.array([seen for _, _, _, seen in rows], bool)
    ledger = ledger_from_procfs(requests, procfs[kept][::-1], Evidence())
    spent = spent_by_cause(ledger.pieces, len(rows))
    assert np.array_equal(spent.sum(axis=1), requests["end_ns"] - requests["intended_ns"])
    for got, (service, cpu, delay, seen) in zip(spent, rows, strict=True):
        run = min(max(cpu, 0), service) if seen else 0
        waited = min(delay, service - run) if seen else 0
        assert got[Cause.RUN] == run and got[Cause.PREEMPTED] == waited
        assert got[Cause.UNKNOWN] == service - run - waited and got[Cause.DISPATCH] == 100


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.dictionaries(st.sampled_from(KNOWN), AMOUNT, max_size=4)), max_size=6)
)
def test_state_clocks(rows: list[tuple[int, dict[str, int]]]) -> None:
    requests = requests_of([service for service, _ in rows])
    ledger = ledger_from_clocks(requests, snapshots([growth for _, growth in rows]), Evidence())
    spent = spent_by_cause(ledger.pieces, len(rows))
    assert np.array_equal(spent.sum(axis=1), requests["end_ns"] - requests["intended_ns"])
    for got, (service, growth) in zip(spent, rows, strict=True):
        named = {name: ns for name, ns in growth.items() if name != "blocked"}
        for name in ("preempted", "softirq", "throttled"):
            assert got[Cause[name.upper()]] <= growth.get(name, 0)
        if sum(growth.values()) <= service:
            assert got[Cause.RUN] == service - sum(growth.values())
            assert all(got[Cause[name.upper()]] == ns for name, ns in named.items())
            assert got[Cause.UNKNOWN] == growth.get("blocked", 0)
        else:
            assert got[Cause.RUN] == 0 and got[Cause.UNKNOWN] >= min(sum(growth.values()) - service, service)


def test_a_request_without_a_snapshot_is_unknown() -> None:
    requests = requests_of([1000, 1000])
    ledger = ledger_from_clocks(requests, snapshots([{"softirq": 10}]), Evidence())
    assert spent_by_cause(ledger.pieces, 2)[1, Cause.UNKNOWN] == 1000
    assert "not observed" in ledger.culprits


def test_snapshots_with_a_seq_are_joined_by_it() -> None:
    requests = requests_of([1000, 1000])
    plain = snapshots([{"softirq": 10}, {"preempted": 20}])
    clocks = np.zeros(2, [("seq", "<i8"), ("tid", "<i4"), ("phase", "u1"), *CLOCK_ROW.descr])
    clocks["seq"], clocks["tid"], clocks["phase"] = [1, 0], 7, 2
    clocks["begin"], clocks["end"] = plain["begin"], plain["end"]
    spent = spent_by_cause(ledger_from_clocks(requests, clocks, Evidence()).pieces, 2)
    assert spent[1, Cause.SOFTIRQ] == 10 and spent[0, Cause.PREEMPTED] == 20


def test_pieces_of_aggregates_lie_end_to_end_in_the_order_of_the_classes() -> None:
    requests = requests_of([1000])
    ledger = ledger_from_clocks(requests, snapshots([{"softirq": 10, "preempted": 20}]), Evidence())
    start = int(requests["start_ns"][0])
    assert ledger.pieces[["start_ns", "ns", "cause"]].tolist() == [
        (start - 100, 100, Cause.DISPATCH),
        (start, 970, Cause.RUN),
        (start + 970, 20, Cause.PREEMPTED),
        (start + 990, 10, Cause.SOFTIRQ),
    ]
