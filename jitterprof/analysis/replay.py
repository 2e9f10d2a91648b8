"""First-come-first-served queues replayed: how long each request would wait if requests held their server for less.

One server: Lindley 1952, W[n+1] = max(0, W[n] + S[n] - A[n]), solved by a running minimum. Several servers and one
queue: Kiefer and Wolfowitz 1955, each request to the server that is free first. A batch is one visit to a server.
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

#: Cells of the state held at a time in a replay for several servers.
_CELLS = 1 << 20
#: A busy period of several servers is cut after this many requests; the next stretch starts from what was recorded.
LONGEST = 1 << 16


def lindley(arrival: Ints, hold: Ints) -> Ints:
    """Waits at a single server, int64[n]. `arrival`: ns, non-decreasing; `hold`: ns each request keeps the server."""
    if not len(arrival):
        return np.empty(0, np.int64)
    backlog = np.cumsum(hold) - hold - arrival
    waits: Ints = backlog - np.minimum.accumulate(backlog)
    return waits


def kiefer_wolfowitz(arrival: Ints, hold: Ints, servers: int, visit: Ints | None = None) -> Ints:
    """Waits at `servers` servers with one queue, int64[n]; `arrival` non-decreasing.

    `visit`: rows of one number, next to each other, are served together: from the last one's arrival or when a server
    is free, for as long as the longest `hold`. Default: each row by itself.
    """
    if visit is not None and len(visit):
        first = np.flatnonzero(np.diff(visit, prepend=visit[0] - 1))
        last = np.append(first[1:], len(visit)) - 1
        begin = arrival[last] + kiefer_wolfowitz(arrival[last], np.maximum.reduceat(hold, first), servers)
        together: Ints = np.repeat(begin, last - first + 1) - arrival
        return together
    if servers == 1:
        return lindley(arrival, hold)
    return waits_of_periods(arrival, hold[:, None], servers, np.zeros(len(arrival), np.int64))[:, 0]


def busy_periods(arrival: Ints, end: Ints) -> Ints:
    """Number of the busy period of each request, in order of arrival: a new one begins when all before are served."""
    if not len(arrival):
        return np.empty(0, np.int64)
    empty = np.zeros(len(arrival), np.int64)
    empty[1:] = arrival[1:] >= np.maximum.accumulate(end)[:-1]
    return np.cumsum(empty)


def waits_of_periods(arrival: Ints, hold: Ints, servers: int, period: Ints) -> Ints:
    """Waits for several versions of `hold`, int64[n, versions]. `period`: busy period of each row, non-decreasing;
    every one starts with all servers free. Steps through all periods at once, a request each."""
    if servers == 1:
        return np.stack([lindley(arrival, np.ascontiguousarray(column)) for column in hold.T], axis=1)
    waits = np.zeros_like(hold)
    first = np.flatnonzero(np.diff(period, prepend=period[:1] - 1))
    length = np.diff(np.append(first, len(period)))
    by_length = np.argsort(-length, kind="stable")
    width = max(1, _CELLS // (hold.shape[1] * servers))
    for part in range(0, len(by_length), width):
        chosen = by_length[part : part + width]
        _step(arrival, hold, servers, first[chosen], length[chosen], waits)
    return waits


def _step(arrival: Ints, hold: Ints, servers: int, first: Ints, length: Ints, waits: Ints) -> None:
    free = np.full((len(first), hold.shape[1], servers), np.iinfo(np.int64).min)
    # Longest first: those still going are always the first ones.
    going = np.searchsorted(-length, -np.arange(length[0]), "left")
    for place, count in enumerate(going.tolist()):
        rows = first[:count] + place
        state = free[:count]
        begin = np.maximum(arrival[rows, None], state[..., 0])
        waits[rows] = begin - arrival[rows, None]
        state[..., 0] = begin + hold[rows]
        state.sort(axis=-1)
