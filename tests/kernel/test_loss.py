"""What a full ring loses is counted to the record, shows as gaps, and becomes `unknown`."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from kernel.lab import CPU, Answer, Lab, Rows, open_lab

from jitterprof.analysis.evidence import FOREVER, Evidence, find_gaps
from jitterprof.analysis.ledger import build_ledger
from jitterprof.model.cause import Cause
from jitterprof.model.event import EventKind
from jitterprof.model.request import REQUEST_DTYPE, Kind, Phase
from jitterprof.trace.session import CpuCounts

#: Each handover writes half a dozen records of 48 bytes: a ring of 64 KiB is full after 200 of them.
HANDOVERS = 20_000
RING_BYTES = 1 << 16
#: Handovers that fit.
FEW = 11


@pytest.fixture(scope="module")
def lossy(program: Path) -> Iterator[Lab]:
    with open_lab(program, ring_bytes=RING_BYTES) as lab:
        yield lab


class Recording:
    """Three acts of one thread: one drained, one that overflows the ring, one drained again."""

    def __init__(self, lab: Lab) -> None:
        self.began = time.monotonic_ns()
        batches = [lab.drain()]
        self.acts: list[Answer] = []
        for count in (FEW, HANDOVERS, FEW):
            self.acts.append(lab.victim.do(f"futex {count} {CPU}"))
            batches.append(lab.drain())
        # A pass that fits, after which every CPU has written once more.
        lab.session.detach()
        batches.append(lab.drain())
        self.ended = time.monotonic_ns()
        self.counts = lab.session.cpu_counts()
        events = np.concatenate(batches)
        self.events: Rows = events[np.argsort(events["ts"], kind="stable")]
        self.gaps = find_gaps(self.events, {row.cpu: row.seq - 1 for row in self.counts if row.seq})


@pytest.fixture(scope="module")
def recording(lossy: Lab) -> Recording:
    return Recording(lossy)


def of_cpu(recording: Recording, row: CpuCounts) -> Rows:
    return recording.events[recording.events["cpu"] == row.cpu]


def test_something_was_lost_and_something_was_not(recording: Recording) -> None:
    lost, written = (sum(getattr(row, name) for row in recording.counts) for name in ("lost", "written"))
    assert lost > HANDOVERS
    assert written > RING_BYTES // 48 // 2


def test_every_attempt_was_written_or_lost(recording: Recording) -> None:
    for row in recording.counts:
        assert row.seq == row.written + row.lost, f"CPU {row.cpu}"


def test_everything_written_was_read_once(recording: Recording) -> None:
    for row in recording.counts:
        mine = of_cpu(recording, row)
        assert len(mine) == row.written, f"CPU {row.cpu}"
        assert len(np.unique(mine["seq"])) == len(mine)


def test_gaps_in_the_numbers_are_what_was_lost(recording: Recording) -> None:
    for row in recording.counts:
        assert recording.gaps["lost"][recording.gaps["cpu"] == row.cpu].sum() == row.lost, f"CPU {row.cpu}"


def test_gaps_are_where_the_ring_was_full(recording: Recording) -> None:
    overflow = recording.acts[1]
    largest = recording.gaps[np.argmax(recording.gaps["lost"])]
    assert overflow.begin < largest["start_ns"] < overflow.end
    # The first record after it may be of the next act, whose begin drained the ring.
    assert largest["end_ns"] >= overflow.end
    assert largest["end_ns"] == FOREVER or largest["end_ns"] <= recording.acts[2].end


def _requests(acts: list[Answer]) -> npt.NDArray[np.void]:
    """Each act as if it were a request of the thread that did it."""
    table = np.zeros(len(acts), REQUEST_DTYPE)
    table["seq"], table["parent"] = np.arange(len(acts)), -1
    table["intended_ns"] = table["start_ns"] = [act.begin for act in acts]
    table["end_ns"] = [act.end for act in acts]
    table["tid"] = [act.tid for act in acts]
    table["cpu_start"] = table["cpu_end"] = CPU
    table["kind"], table["phase"] = Kind.REQUEST, Phase.MEASURED
    return table


def test_the_ledger_calls_the_lost_time_unknown(recording: Recording, lossy: Lab) -> None:
    evidence = Evidence(
        events=recording.events,
        gaps=recording.gaps,
        window=(recording.began, recording.ended),
        pids=(lossy.victim.pid,),
    )
    requests = _requests(recording.acts)
    ledger = build_ledger(requests, evidence)
    pieces = ledger.pieces
    # The thread and its CPU were in the dark from the first loss there until the ring was read again.
    here = recording.gaps[recording.gaps["cpu"] == CPU]
    dark = here[np.argmax(here["lost"])]
    known = pieces[(pieces["row"] == 1) & (pieces["cause"] != Cause.UNKNOWN)]
    inside = np.minimum(known["start_ns"] + known["ns"], dark["end_ns"]) - np.maximum(
        known["start_ns"], dark["start_ns"]
    )
    assert inside[inside > 0].sum() == 0
    unknown = pieces["ns"][(pieces["row"] == 1) & (pieces["cause"] == Cause.UNKNOWN)].sum()
    response = requests["end_ns"] - requests["intended_ns"]
    assert unknown >= 0.9 * (min(int(dark["end_ns"]), recording.acts[1].end) - int(dark["start_ns"]))
    # What came before the loss is known.
    before = pieces[(pieces["row"] == 0) & (pieces["cause"] == Cause.UNKNOWN)]["ns"].sum()
    assert before == 0
    assert np.array_equal(np.bincount(pieces["row"], pieces["ns"]).astype(np.int64), response)


def test_without_loss_there_are_no_gaps(program: Path) -> None:
    with open_lab(program, ring_bytes=1 << 23) as lab:
        lab.victim.do(f"futex 2000 {CPU}")
        events = lab.drain()
        lab.session.detach()
        events = np.concatenate([events, lab.drain()])
        counts = lab.session.cpu_counts()
        assert sum(row.lost for row in counts) == 0
        assert sum(row.written for row in counts) == len(events) > 8000
        assert not len(find_gaps(events, {row.cpu: row.seq - 1 for row in counts if row.seq}))
        assert lab.session.recursion_misses() == 0
        assert np.isin(events["kind"], list(EventKind)).all()
