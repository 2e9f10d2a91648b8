"""Effects of causes that interact: Shapley values, and what a cause takes when it is removed first or last.

A game is its values v(M) for each set M of removed causes; set M is the number with bit s set for each cause s in it.
"""

from math import comb

import numpy as np
import numpy.typing as npt

#: More causes than this are not told apart exactly: 2^n replays.
MAX_CAUSES = 6


def shapley_coefficients(players: int) -> npt.NDArray[np.float64]:
    """float64[2^players, players]: the Shapley value of player s is the sum over M of v(M) times column s.

    Shapley 1953: the marginal effect of s, averaged over all orders in which the players can be removed.
    """
    sets = np.arange(1 << players)
    size = np.array([bin(number).count("1") for number in sets.tolist()])
    inside = (sets[:, None] >> np.arange(players) & 1).astype(bool)
    # An order in which s comes directly after the k others of a set: 1 / (players * C(players - 1, k)).
    weight = np.array([1 / (players * comb(players - 1, k)) for k in range(players)])
    return np.where(inside, weight[np.maximum(size - 1, 0), None], -weight[np.minimum(size, players - 1), None])


def shapley(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64[players, ...] of a game given as float64[2^players, ...]. They add up to v(all) - v(nothing)."""
    players = len(values).bit_length() - 1
    found: npt.NDArray[np.float64] = np.tensordot(shapley_coefficients(players).T, values, axes=1)
    return found


def removed_first(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64[players, ...]: v({s}) - v(nothing)."""
    players = len(values).bit_length() - 1
    first: npt.NDArray[np.float64] = values[[1 << s for s in range(players)]] - values[0]
    return first


def removed_last(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64[players, ...]: v(all) - v(all but s)."""
    players = len(values).bit_length() - 1
    everything = (1 << players) - 1
    last: npt.NDArray[np.float64] = values[everything] - values[[everything ^ (1 << s) for s in range(players)]]
    return last


def round_rows(values: npt.NDArray[np.float64], totals: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Share out `totals`, int64[n], in proportion to the rows of `values`, float64[n, k] >= 0, by largest remainder.

    Rows add up exactly. A row of zeros with something to share out gives all of it to its first column.
    """
    sums = values.sum(axis=1)
    scaled = values * np.divide(totals, sums, out=np.zeros(len(sums)), where=sums > 0)[:, None]
    whole: npt.NDArray[np.int64] = np.floor(scaled).astype(np.int64)
    missing = totals - whole.sum(axis=1)
    order = np.argsort(whole - scaled, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(values.shape[1])[None, :], axis=1)
    whole += rank < missing[:, None]
    # Beyond one each only where floating point or a row of zeros left more: the largest takes it.
    rows = np.arange(len(totals))
    whole[rows, scaled.argmax(axis=1)] += totals - whole.sum(axis=1)
    return whole
