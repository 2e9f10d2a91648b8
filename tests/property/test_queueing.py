"""Queues replayed and inherited, against a simulation that serves one request after the other."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from jitterprof.analysis.interaction import removed_first, removed_last, round_rows, shapley
from jitterprof.analysis.queueing import INDIVIDUAL, LONGER_RUN, OTHERS, inherit_queue
from jitterprof.analysis.replay import busy_periods, kiefer_wolfowitz, lindley, waits_of_periods
from jitterprof.analysis.station import station_of
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import Ledger
from tests.queues import Loss, QueuedSession, queued_session, served

GAPS = st.lists(st.integers(0, 60), min_size=1, max_size=40)
LOSS = st.tuples(
    st.sampled_from([Cause.SOFTIRQ, Cause.PREEMPTED, Cause.PAGE_FAULT, Cause.UNKNOWN, Cause.GPU, Cause.DISPATCH]),
    st.sampled_from(["", "a/1", "a/2", "b/3"]),
    st.integers(1, 90),
)


@st.composite
def sessions(draw: st.DrawFn) -> QueuedSession:
    gaps = draw(GAPS)
    work = draw(st.lists(st.integers(1, 40), min_size=len(gaps), max_size=len(gaps)))
    hit = draw(st.dictionaries(st.integers(0, len(gaps) - 1), st.lists(LOSS, min_size=1, max_size=4), max_size=12))
    return queued_session(np.cumsum(gaps).tolist(), work, hit, draw(st.integers(1, 3)))


def begins(arrival: list[int], hold: list[int], servers: int) -> list[int]:
    return [begin for begin, _ in served(arrival, hold, servers)]


@given(GAPS, st.data(), st.integers(1, 4))
def test_the_replay_is_what_the_servers_do(gaps: list[int], data: st.DataObject, servers: int) -> None:
    arrival = np.cumsum(gaps)
    hold = np.array(data.draw(st.lists(st.integers(0, 90), min_size=len(gaps), max_size=len(gaps))))
    expected = np.array(begins(arrival.tolist(), hold.tolist(), servers)) - arrival
    assert kiefer_wolfowitz(arrival, hold, servers).tolist() == expected.tolist()
    if servers == 1:
        assert lindley(arrival, hold).tolist() == expected.tolist()
    period = busy_periods(arrival, arrival + expected + hold)
    versions = np.stack([hold, hold // 2], axis=1)
    waits = waits_of_periods(arrival, versions, servers, period)
    assert waits[:, 0].tolist() == expected.tolist()
    half = np.array(begins(arrival.tolist(), (hold // 2).tolist(), servers)) - arrival
    assert waits[:, 1].tolist() == half.tolist()


@given(GAPS, st.data(), st.integers(1, 3))
def test_a_batch_is_one_visit(gaps: list[int], data: st.DataObject, servers: int) -> None:
    arrival = np.cumsum(gaps)
    size = len(gaps)
    hold = np.array(data.draw(st.lists(st.integers(0, 90), min_size=size, max_size=size)))
    opens = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    visit = np.cumsum(opens)
    batches = [np.flatnonzero(visit == number) for number in np.unique(visit)]
    begun = begins([int(arrival[b[-1]]) for b in batches], [int(hold[b].max()) for b in batches], servers)
    expected = np.concatenate([begin - arrival[b] for begin, b in zip(begun, batches, strict=True)])
    assert kiefer_wolfowitz(arrival, hold, servers, visit).tolist() == expected.tolist()


@given(sessions())
def test_the_recorded_waits_are_those_of_the_replay(session: QueuedSession) -> None:
    station = station_of(session.requests)
    assert station.wait.tolist() == session.waits.tolist()
    servers = station.servers
    assert kiefer_wolfowitz(station.arrival, station.hold, servers).tolist() == session.waits.tolist()


def sums(ledger: Ledger, size: int, cause: Cause | None = None) -> npt.NDArray[np.int64]:
    total = np.zeros(size, np.int64)
    mine = slice(None) if cause is None else ledger.pieces["cause"] == cause
    np.add.at(total, ledger.pieces["row"][mine], ledger.pieces["ns"][mine])
    return total


@settings(max_examples=300, deadline=None)
@given(sessions())
def test_inheriting_closes_and_touches_nothing_but_the_queue(session: QueuedSession) -> None:
    found = inherit_queue(session.requests, session.ledger)
    size = len(session.requests)
    assert sums(found, size).tolist() == sums(session.ledger, size).tolist()
    pieces = found.pieces
    assert (pieces["ns"] > 0).all()
    own = (pieces["origin"] < 0) & (pieces["cause"] != Cause.QUEUE)
    before = session.ledger.pieces
    assert pieces[own].tolist() == before[before["cause"] != Cause.QUEUE].tolist()
    waited = pieces[~own]
    # They lie one after the other in the old queue piece, oldest origin first, load last.
    for row in np.unique(waited["row"]).tolist():
        mine = waited[waited["row"] == row]
        assert mine["start_ns"][0] == session.requests["intended_ns"][row]
        assert (mine["start_ns"][1:] == (mine["start_ns"] + mine["ns"])[:-1]).all()
        assert mine["ns"].sum() == session.waits[row]
        origins = np.where(mine["origin"] < 0, size, mine["origin"])
        assert (np.diff(origins) >= 0).all()
    came = waited[waited["origin"] >= 0]
    assert (came["origin"] < came["row"]).all()
    assert (came["calibrated_ns"] <= came["ns"]).all()


@settings(deadline=None)
@given(sessions(), st.integers(-(10**12), 10**12))
def test_inheriting_does_not_depend_on_when(session: QueuedSession, shift: int) -> None:
    moved = session.requests.copy()
    for name in ("intended_ns", "start_ns", "end_ns"):
        moved[name] += shift
    pieces = session.ledger.pieces.copy()
    pieces["start_ns"] += shift
    there = inherit_queue(moved, replace(session.ledger, pieces=pieces)).pieces.copy()
    there["start_ns"] -= shift
    assert there.tolist() == inherit_queue(session.requests, session.ledger).pieces.tolist()


@settings(max_examples=200, deadline=None)
@given(sessions())
def test_what_stays_is_the_queue_without_the_losses(session: QueuedSession) -> None:
    """Everything removed, only the load is left; and of one class alone, all of its effect is its own."""
    work = np.zeros(len(session.requests), np.int64)
    for cause in (Cause.RUN, Cause.GPU, Cause.UNKNOWN):
        spent = sums(session.ledger, len(work), cause)
        low, middle, high = np.quantile(spent, (0.25, 0.5, 0.75))
        if cause == Cause.UNKNOWN and 2 * middle < np.median(session.hold):
            continue
        outlier = (spent > high + 1.5 * (high - low)) & (len(work) >= 8)
        work += np.where(outlier, np.minimum(spent, round(float(middle))), spent)
    found = inherit_queue(session.requests, session.ledger).pieces
    station = station_of(session.requests)
    load = np.zeros(len(work), np.int64)
    rest = found[(found["cause"] == Cause.QUEUE) & (found["origin"] < 0)]
    load[rest["row"]] = rest["ns"]
    arrival = station.arrival.tolist()
    without = np.array(begins(arrival, work.tolist(), station.servers)) - station.arrival
    # A class with several culprits is scaled down per culprit, which rounds down by less than 1 ns each and request.
    assert np.abs(load - without).max() <= 4 * len(work)


@settings(deadline=None)
@given(sessions(), st.data())
def test_what_evidence_is_lost_moves_to_unknown_and_never_to_load(session: QueuedSession, data: st.DataObject) -> None:
    pieces = session.ledger.pieces.copy()
    mine = np.flatnonzero(np.isin(pieces["cause"], (Cause.SOFTIRQ, Cause.PREEMPTED, Cause.PAGE_FAULT, Cause.DISPATCH)))
    lost = mine[np.array(data.draw(st.lists(st.booleans(), min_size=len(mine), max_size=len(mine))), bool)]
    pieces["cause"][lost] = Cause.UNKNOWN
    size = len(session.requests)
    unknown = sums(replace(session.ledger, pieces=pieces), size, Cause.UNKNOWN)
    if 2 * np.median(unknown) >= np.median(session.hold):
        return
    found = [
        inherit_queue(session.requests, replace(session.ledger, pieces=part)).pieces
        for part in (session.ledger.pieces, pieces)
    ]
    loads = [part[(part["cause"] == Cause.QUEUE) & (part["origin"] < 0)] for part in found]
    assert loads[0][["row", "ns"]].tolist() == loads[1][["row", "ns"]].tolist()


@given(st.integers(1, 5), st.data())
def test_shapley_values_are_the_mean_over_all_orders(players: int, data: st.DataObject) -> None:
    from itertools import permutations

    values = np.array(data.draw(st.lists(st.integers(0, 99), min_size=1 << players, max_size=1 << players)), float)
    expected = np.zeros(players)
    orders = list(permutations(range(players)))
    for order in orders:
        gone = 0
        for player in order:
            expected[player] += values[gone | 1 << player] - values[gone]
            gone |= 1 << player
    assert np.allclose(shapley(values), expected / len(orders))
    for player in range(players):
        assert removed_first(values)[player] == values[1 << player] - values[0]
        assert removed_last(values)[player] == values[-1] - values[-1 - (1 << player)]


@given(st.lists(st.lists(st.integers(0, 99), min_size=3, max_size=3), min_size=1, max_size=9), st.data())
def test_rounding_shares_out_exactly(rows: list[list[int]], data: st.DataObject) -> None:
    totals = np.array([data.draw(st.integers(0, 1000)) for _ in rows])
    shares = round_rows(np.array(rows, float), totals)
    assert shares.sum(axis=1).tolist() == totals.tolist()
    assert (shares >= 0).all()
    exact = np.array(rows) * (totals / np.maximum(1, np.array(rows).sum(axis=1)))[:, None]
    proportional = np.array(rows).sum(axis=1) > 0
    assert (np.abs(shares - exact)[proportional] < 1.001).all()


def culprits_of(ledger: Ledger, row: int) -> list[tuple[Cause, str, int, int]]:
    mine = ledger.pieces[(ledger.pieces["row"] == row) & (ledger.pieces["start_ns"] >= 0)]
    return [(Cause(p["cause"]), ledger.culprits[p["culprit"]], int(p["ns"]), int(p["origin"])) for p in mine]


def test_one_stall_has_many_victims() -> None:
    """An 8 ms softirq, and then requests every 2 ms that need 1 ms each: the queue is its, and gone after 8 of them."""
    losses: dict[int, list[Loss]] = {20: [(Cause.SOFTIRQ, "NET_RX", 8000)]}
    session = queued_session([2000 * n for n in range(40)], [1000] * 40, losses)
    found = inherit_queue(session.requests, session.ledger)
    for row in range(40):
        queued = [part for part in culprits_of(found, row) if part[3] >= 0 or part[0] == Cause.QUEUE]
        left = 8000 - 1000 - (row - 21) * 1000
        expected = [(Cause.SOFTIRQ, "NET_RX", left, 20)] if row >= 21 and left > 0 else []
        assert queued == expected


def test_a_slow_request_is_told_apart_from_load() -> None:
    arrival = [2000 * n for n in range(30)] + [60_000] * 5
    work = [1000] * 35
    work[10] = 6000
    session = queued_session(arrival, work, {})
    found = inherit_queue(session.requests, session.ledger)
    assert culprits_of(found, 11)[0] == (Cause.QUEUE, LONGER_RUN, 4000, 10)
    # Five arrivals at one moment: nobody's doing.
    assert culprits_of(found, 34)[:1] == [(Cause.QUEUE, "", 4000, -1)]


def test_what_was_unknown_is_inherited_as_unknown() -> None:
    session = queued_session([2000 * n for n in range(30)], [1000] * 30, {10: [(Cause.UNKNOWN, "lost", 5000)]})
    found = inherit_queue(session.requests, session.ledger)
    assert culprits_of(found, 11)[0] == (Cause.UNKNOWN, "lost", 4000, 10)


def test_nothing_known_at_all_is_load_and_not_somebodys() -> None:
    """Without probes all service is unknown; the queue that usual service makes is load all the same."""
    losses: dict[int, list[Loss]] = {n: [(Cause.UNKNOWN, "", 999)] for n in range(30)}
    session = queued_session([900 * n for n in range(30)], [1] * 30, losses)
    found = inherit_queue(session.requests, session.ledger)
    assert found.pieces.tolist() == session.ledger.pieces.tolist()


def test_two_stalls_share_what_they_did_together() -> None:
    losses: dict[int, list[Loss]] = {0: [(Cause.SOFTIRQ, "A", 3000), (Cause.PREEMPTED, "b/1", 3000)]}
    session = queued_session([0, 2000, *range(100_000, 140_000, 2000)], [1000] * 22, losses)
    # Request 1 waits 5 ms; it would wait 2 ms without either one, and not at all without both: 2.5 ms each.
    found = culprits_of(inherit_queue(session.requests, session.ledger), 1)
    assert sorted(part[:3] for part in found[:2]) == [(Cause.SOFTIRQ, "A", 2500), (Cause.PREEMPTED, "b/1", 2500)]


def test_many_small_causes_are_joined_per_cause() -> None:
    losses: dict[int, list[Loss]] = {
        n: [(Cause.PREEMPTED, f"task{n}x{m}", 100 + m) for m in range(9)] for n in range(INDIVIDUAL)
    }
    session = queued_session([1500 * n for n in range(40)], [1000] * 40, losses)
    found = inherit_queue(session.requests, session.ledger)
    last = [part for part in culprits_of(found, INDIVIDUAL) if part[3] >= 0]
    assert len(last) <= INDIVIDUAL + 1
    assert {part[0] for part in last} == {Cause.PREEMPTED}
    assert OTHERS in {part[1] for part in last}
    assert sum(part[2] for part in last) == session.waits[INDIVIDUAL]


def test_more_workers_share_one_queue() -> None:
    """One of two workers stalls: the other takes the requests, and only what both cannot do waits."""
    arrival = [600 * n for n in range(40)]
    losses: dict[int, list[Loss]] = {4: [(Cause.STOPPED, "", 20_000)]}
    session = queued_session(arrival, [1000] * 40, losses, servers=2)
    found = inherit_queue(session.requests, session.ledger)
    came = found.pieces[found.pieces["origin"] >= 0]
    assert set(came["origin"].tolist()) == {4}
    assert set(came["cause"].tolist()) == {Cause.STOPPED}
    assert came["ns"].sum() == session.waits.sum() > 0
