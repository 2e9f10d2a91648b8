"""Sessions with a queue: requests served first come, first served by a few servers, with a ledger that says what each
request lost. The servers are simulated one event at a time and share no code with the analysis."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.model.cause import Cause
from jitterprof.model.ledger import PIECE_DTYPE, Ledger
from jitterprof.model.request import REQUEST_DTYPE, Kind, Phase

#: (cause, culprit, ns)
Loss = tuple[Cause, str, int]
START_NS = 1_000_000_000_000


def served(arrival: Sequence[int], hold: Sequence[int], servers: int) -> list[tuple[int, int]]:
    """(begin, server) of each request: arrivals in order, each to the server that has been free longest."""
    free = [(-(10**18), number) for number in range(servers)]
    heapq.heapify(free)
    found = []
    for at, held in zip(arrival, hold, strict=True):
        since, number = heapq.heappop(free)
        begin = max(at, since)
        found.append((begin, number))
        heapq.heappush(free, (begin + held, number))
    return found


@dataclass(frozen=True)
class QueuedSession:
    requests: npt.NDArray[np.void]
    ledger: Ledger
    hold: npt.NDArray[np.int64]

    @property
    def waits(self) -> npt.NDArray[np.int64]:
        return self.requests["start_ns"] - self.requests["intended_ns"]


def queued_session(
    arrival: Sequence[int], work: Sequence[int], losses: Mapping[int, Sequence[Loss]], servers: int = 1
) -> QueuedSession:
    """`work[n]`: running time of request n, before its losses. All are measured and of one shape."""
    hold = [own + sum(ns for _, _, ns in losses.get(n, ())) for n, own in enumerate(work)]
    table = np.zeros(len(arrival), REQUEST_DTYPE)
    begun = served(arrival, hold, servers)
    culprits = [""]
    pieces: list[tuple[int, ...]] = []
    for row, (at, (begin, server)) in enumerate(zip(arrival, begun, strict=True)):
        table[row] = (row, at, begin, begin + hold[row], -1, 100 + server, server, server, server, 0, 0, 0, 0)
        now = at
        mine: list[Loss] = [(Cause.QUEUE, "", begin - at), *losses.get(row, ()), (Cause.RUN, "", work[row])]
        for cause, culprit, ns in mine:
            if culprit not in culprits:
                culprits.append(culprit)
            if ns:
                known = (culprits.index(culprit), 100 + server, server, int(cause), 0)
                pieces.append((row, START_NS + now, ns, 0, -1, *known))
            now += ns
    for name in ("intended_ns", "start_ns", "end_ns"):
        table[name] += START_NS
    table["kind"], table["phase"] = Kind.REQUEST, Phase.MEASURED
    ledger = Ledger(np.array(pieces, PIECE_DTYPE), tuple(culprits), np.zeros(len(culprits), bool))
    return QueuedSession(table, ledger, np.array(hold, np.int64))
