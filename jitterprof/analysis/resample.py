"""Intervals of latency quantiles when requests are not independent: the circular block bootstrap.

Politis and Romano 1992: blocks of neighbouring requests are drawn with replacement from the session, closed to a ring,
so that what a queue correlates stays together. Quantiles are read off counts per block and bin: a resample is a
weighted sum of blocks.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.units import NS_PER_S, format_ns

Ints = npt.NDArray[np.int64]

RESAMPLES = 400
#: The interval holds this part of the resamples.
LEVEL = 0.95
#: A block is at least this long, and this many times as long as the latency is correlated.
BLOCK_NS = NS_PER_S
CORRELATIONS = 4
#: Fewer blocks, or fewer separate clusters of requests in the tail, carry no interval.
MIN_BLOCKS = 8
MIN_CLUSTERS = 20
#: The groups above a lower threshold, this many times as likely to be exceeded, are more and so counted more surely.
#: Without them the sessions that by chance show enough groups would get an interval, and they are the unusual ones.
LOWER_TAIL = 5
#: From this quantile on its interval depends on the number of clusters above it.
_TAIL_FROM = 0.9
_Z = 1.96
_CORRELATED = 0.1
_CELLS_PER_BLOCK = 8
_BLOCKS_MAX = 500
_BODY_BINS, _TAIL_BINS, _TAIL = 400, 1200, 0.05


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a session is cut: requests per block and per cell, and the lag in requests up to which they correlate.

    `reason`: why there can be no interval; "" where there can."""

    block: int
    cell: int
    lag: int
    reason: str


@dataclass(frozen=True, slots=True)
class Interval:
    """`low_ns` and `high_ns` are None where there is a `reason` not to give them."""

    low_ns: int | None
    high_ns: int | None
    reason: str


def blocks_of(arrival: Ints, response: Ints) -> Blocks:
    """Block length for requests in order of arrival."""
    count = len(arrival)
    duration = int(arrival[-1] - arrival[0]) if count else 0
    if duration <= 0:
        return Blocks(0, 0, 0, "too few requests")
    lag = correlation_lag(response)
    second = int(np.ceil(count * BLOCK_NS / duration))
    block = max(second, CORRELATIONS * lag, -(-count // _BLOCKS_MAX), _CELLS_PER_BLOCK)
    if count < MIN_BLOCKS * block:
        length = format_ns(block * duration / count)
        return Blocks(block, 0, lag, f"the session is shorter than {MIN_BLOCKS} blocks of {length}")
    return Blocks(block, block // _CELLS_PER_BLOCK, lag, "")


def correlation_lag(response: Ints) -> int:
    """The first lag, in requests, at which latencies (cut at their p99.9) no longer correlate."""
    values = np.minimum(response, np.quantile(response, 0.999)).astype(np.float64)
    values -= values.mean()
    size = len(values)
    width = 1 << (2 * size - 1).bit_length()
    spectrum = np.fft.rfft(values, width)
    auto = np.fft.irfft(spectrum * spectrum.conj(), width)[:size]
    if auto[0] <= 0:
        return 1
    below = np.flatnonzero(auto < _CORRELATED * auto[0])
    return int(below[0]) if len(below) else size


def clusters(response: Ints, threshold: float, lag: int) -> int:
    """Separate groups of requests above `threshold`: more than `lag` requests apart (runs estimator)."""
    above = np.flatnonzero(response > threshold)
    return int(len(above) > 0) + int((np.diff(above) > lag).sum())


def intervals(response: Ints, levels: tuple[float, ...], blocks: Blocks, seed: int = 0) -> tuple[Interval, ...]:
    """Interval of each quantile of `levels`. `response`: in order of arrival, int64[n] ns."""
    if blocks.reason:
        return tuple(Interval(None, None, blocks.reason) for _ in levels)
    exact = np.quantile(response, levels)
    drawn = resampled(response, levels, blocks, seed)
    edge = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, (edge, 1 - edge), axis=0)
    found = []
    for number, level in enumerate(levels):
        bounds = [low[number], exact[number], high[number]]
        if level >= _TAIL_FROM:
            groups = clusters(response, float(exact[number]), blocks.lag)
            lower = float(np.quantile(response, 1 - LOWER_TAIL * (1 - level)))
            expected = clusters(response, lower, blocks.lag) // LOWER_TAIL
            if min(groups, expected) < MIN_CLUSTERS:
                reason = f"only {min(groups, expected)} separate groups of requests above p{100 * level:g}"
                found.append(Interval(None, None, reason))
                continue
            # With few groups the resamples vary too little: how many groups a session has is itself by chance.
            factors = 1 - (1 - level) * np.array(_poisson_bounds(groups)) / groups
            bounds += np.quantile(response, np.clip(factors, 0, 1)).tolist()
        found.append(Interval(round(float(min(bounds))), round(float(max(bounds))), ""))
    return tuple(found)


def _poisson_bounds(count: int) -> tuple[float, float]:
    """95 % bounds of the mean of a Poisson variable seen as `count` > 0: Byar's approximation, Breslow and Day 1987."""
    low = count * (1 - 1 / (9 * count) - _Z / (3 * np.sqrt(count))) ** 3
    more = count + 1
    high = more * (1 - 1 / (9 * more) + _Z / (3 * np.sqrt(more))) ** 3
    return float(low), float(high)


def resampled(
    response: Ints, levels: tuple[float, ...], blocks: Blocks, seed: int = 0, resamples: int = RESAMPLES
) -> npt.NDArray[np.float64]:
    """float64[resamples, levels]: the quantiles of each resample."""
    edges = _edges(response)
    cells = -(-len(response) // blocks.cell)
    cell = np.arange(len(response)) // blocks.cell
    place = np.searchsorted(edges, response, "left")
    counts = np.bincount(cell * len(edges) + place, minlength=cells * len(edges)).reshape(cells, len(edges))
    rng = np.random.default_rng(seed)
    per_sample = -(-cells // _CELLS_PER_BLOCK)
    start = rng.integers(0, cells, (resamples, per_sample))
    taken = (start[:, :, None] + np.arange(_CELLS_PER_BLOCK)) % cells
    flat = (np.arange(resamples)[:, None, None] * cells + taken).reshape(-1)
    weight = np.bincount(flat, minlength=resamples * cells).reshape(resamples, cells)
    upto = np.cumsum(weight.astype(np.float32) @ counts.astype(np.float32), axis=1, dtype=np.float64)
    found = np.empty((resamples, len(levels)))
    for number, level in enumerate(levels):
        wanted = level * (upto[:, -1] - 1) + 1
        at = (upto < wanted[:, None]).sum(axis=1)
        before = np.where(at > 0, upto[np.arange(resamples), at - 1], 0)
        inside = (wanted - before) / np.maximum(1, upto[np.arange(resamples), at] - before)
        lower = edges[np.maximum(at - 1, 0)]
        found[:, number] = lower + (edges[at] - lower) * np.clip(inside, 0, 1)
    return found


def _edges(response: Ints) -> npt.NDArray[np.float64]:
    """Upper edges of bins: fine in the tail, single observations where there are few."""
    count = len(response)
    tail = np.geomspace(_TAIL, min(_TAIL, 1 / count), min(_TAIL_BINS, max(2, int(_TAIL * count))))
    grid = np.concatenate([np.linspace(0, 1 - _TAIL, _BODY_BINS), 1 - tail, [1.0]])
    edges: npt.NDArray[np.float64] = np.unique(np.quantile(response, np.unique(grid), method="higher"))
    return edges.astype(np.float64)
