"""The quantiles of the session without a cause: its time is taken out of the services and the queue replayed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.account import Classes
from jitterprof.analysis.blame import NOT_NAMED, BlameTable
from jitterprof.analysis.interaction import MAX_CAUSES, removed_last, shapley
from jitterprof.analysis.queueing import removable
from jitterprof.analysis.resample import blocks_of, intervals
from jitterprof.analysis.spikes import Population
from jitterprof.analysis.station import Ints, Station, own_losses
from jitterprof.model.cause import CAUSE_IDS
from jitterprof.model.ledger import Ledger

LEVELS = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
#: Responses held at a time.
_CELLS = 1 << 22


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """One quantile without one cause. `culprit`: group, "" for all of them.

    `low_ns`, `high_ns`: interval of `without_ns`, None where `reason` says why there is none. How much the quantile
    falls: `first_ns` when the cause is removed alone (`as_measured_ns` - `without_ns`), `last_ns` after all the other
    rows' causes, `shapley_ns` on average over all orders. The last add up over the causes.
    """

    cause: str
    culprit: str
    quantile: str
    as_measured_ns: int
    without_ns: int
    low_ns: int | None
    high_ns: int | None
    first_ns: int
    last_ns: int
    shapley_ns: int
    reason: str


def counterfactuals(
    requests: npt.NDArray[np.void],
    ledger: Ledger,
    classes: Classes,
    station: Station,
    population: Population,
    blame: BlameTable,
    seed: int = 0,
) -> tuple[Counterfactual, ...]:
    """The quantiles of LEVELS without each named cause of `blame`, at most MAX_CAUSES, largest excess first."""
    causes, culprits = _named(blame)
    if not causes:
        return ()
    lost = _lost(requests, ledger, classes, station, causes)
    measured = np.zeros(len(requests), bool)
    measured[population.rows] = True
    inside = np.flatnonzero(measured[station.rows])
    levels = tuple(level for _, level in LEVELS)
    sets = [[s for s in range(len(causes)) if number >> s & 1] for number in range(1 << len(causes))]
    values = np.empty((len(sets), len(levels)))
    alone = []
    width = max(1, _CELLS // max(1, len(station.rows)))
    for low in range(0, len(sets), width):
        part = sets[low : low + width]
        whole = responses_without(station, np.stack([lost[members].sum(axis=0) for members in part], axis=1))
        for place, members in enumerate(part):
            response = whole[inside, place]
            values[low + place] = np.quantile(response, levels)
            if len(members) == 1:
                alone.append(response)
    last, fair = -removed_last(values), -shapley(values)
    arrival = station.arrival[inside]
    found = []
    for player, cause in enumerate(causes):
        blocks = blocks_of(arrival, alone[player])
        around = intervals(alone[player], levels, blocks, seed)
        for column, (name, _) in enumerate(LEVELS):
            measured_ns, without_ns = (round(float(values[number, column])) for number in (0, 1 << player))
            found.append(
                Counterfactual(
                    CAUSE_IDS[cause],
                    culprits[player],
                    name,
                    measured_ns,
                    without_ns,
                    around[column].low_ns,
                    around[column].high_ns,
                    measured_ns - without_ns,
                    round(float(last[player, column])),
                    round(float(fair[player, column])),
                    around[column].reason,
                )
            )
    return tuple(found)


def responses_without(station: Station, lost: Ints) -> Ints:
    """Response times in order of arrival, had the requests not lost this: `lost` and result int64[n, versions] ns."""
    hold = station.hold[:, None] - lost
    if not station.wait.any():
        return hold
    found: Ints = hold + station.wait[:, None] - removable(station, hold)
    return found


def _named(blame: BlameTable) -> tuple[list[int], list[str]]:
    """Causes by excess, and the group of each that has but one."""
    not_named = {cause.id for cause in NOT_NAMED}
    excess: dict[str, int] = {}
    culprits: dict[str, list[str]] = {}
    for row in blame.rows:
        if row.cause not in not_named:
            excess[row.cause] = excess.get(row.cause, 0) + row.excess_ns
            culprits.setdefault(row.cause, []).append(row.culprit)
    largest = sorted(excess, key=lambda cause: -excess[cause])[:MAX_CAUSES]
    return [CAUSE_IDS.index(cause) for cause in largest], [
        culprits[cause][0] if len(culprits[cause]) == 1 else "" for cause in largest
    ]


def _lost(
    requests: npt.NDArray[np.void], ledger: Ledger, classes: Classes, station: Station, causes: list[int]
) -> Ints:
    losses = own_losses(requests, ledger, classes, station, of=np.isin(classes.cause, causes))
    lost = np.zeros((len(causes), len(station.rows)), np.int64)
    mine = losses.key < len(classes)
    player = np.array([causes.index(cause) if cause in causes else -1 for cause in classes.cause.tolist()])
    np.add.at(lost, (player[losses.key[mine]], losses.at[mine]), losses.ns[mine])
    return lost
