"""The session's blame table: mean ledger of the spikes minus the ledger of their baselines."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.account import Account, Classes
from jitterprof.analysis.chance import Chance, chances
from jitterprof.analysis.distribution import round_to_total
from jitterprof.analysis.spikes import Population
from jitterprof.analysis.station import Station
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import Ledger

#: What is shown as it is, and never named as somebody's doing.
NOT_NAMED = (Cause.RUN, Cause.QUEUE, Cause.UNKNOWN)
#: A cause is named when it has at least this share of the tail's excess, more than chance gives it, and at least this
#: part of the baseline in each spike it hits. Chance does not acquit what the spikes inherited at least this share from
#: and which took at least this part of the services they queued behind: a queue has to be that of somebody's time.
NAMED_SHARE = 0.10
NAMED_PART = 0.05
#: A class hits a spike when it is at least this part of the spike's excess.
HIT_PART = 0.05
#: Culprits with a smaller share of the excess are listed as "others".
LISTED_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class BlameRow:
    """One line: `excess_ns` is the mean per spike, `share` its part of the mean excess, `requests` the spikes hit.

    `null_share`: the share that chance alone reaches in 1 of 100 shifts; None where it cannot be known.
    """

    cause: str
    culprit: str
    excess_ns: int
    share: float
    requests: int
    null_share: float | None


@dataclass(frozen=True, slots=True)
class BlameTable:
    """`rows`: named causes, `run` and `unknown`, largest share first. Their shares and `minor_share` add up to 1.

    `minor_*`: causes that are not above chance and noise, together. `excess_ns`: mean excess per spike.
    """

    rows: tuple[BlameRow, ...]
    excess_ns: int
    minor_ns: int
    minor_share: float


@dataclass(frozen=True, slots=True)
class _Sums:
    """Per column: excess over all spikes, spikes hit, time inherited by all spikes, and the excess and baseline of the
    spikes hit, summed."""

    excess: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    inherited: npt.NDArray[np.int64]
    hit_excess: npt.NDArray[np.int64]
    hit_baseline: npt.NDArray[np.int64]


def blame_table(
    station: Station,
    ledger: Ledger,
    classes: Classes,
    totals: Account,
    population: Population,
    baselines: npt.NDArray[np.int64],
    size: int,
) -> BlameTable:
    """Compare spikes with their baselines, per cause and culprit. Empty where there is no spike.

    `size`: rows of the request table.
    """
    count = int(population.tail.sum())
    inherited = _inherited(ledger, classes, population, size)
    by_class = _sum_excess(totals, population, baselines, np.arange(len(classes)), inherited, size)
    total = int(by_class.excess.sum())
    if not count or total <= 0:
        return BlameTable((), 0, 0, 0.0)
    by_cause = _sum_excess(totals, population, baselines, classes.cause.astype(np.int64), inherited, size)
    # One pass over the shifts for both levels: a column per cause and one per class that is large enough to be listed.
    listed = np.flatnonzero(np.abs(by_class.excess) >= LISTED_SHARE * total)
    class_columns = np.full(len(classes), -1, np.int64)
    class_columns[listed] = np.arange(len(listed))
    columns = [classes.cause.astype(np.int64), *([class_columns] if len(listed) else [])]
    cause_null, class_null = [*chances(ledger, classes, population, station, columns), None][:2]

    named = [
        Cause(number)
        for number in range(len(by_cause.excess))
        if Cause(number) not in NOT_NAMED and _stands_out(by_cause, number, total, cause_null)
    ]
    names = _labels(ledger, classes, population, size)
    entries: list[tuple[str, str, int, int, float | None]] = []
    for cause in (*NOT_NAMED, *named):
        of_cause = np.flatnonzero(classes.cause == cause)
        small = [number for number in of_cause.tolist() if class_columns[number] < 0]
        for number in of_cause.tolist():
            if class_columns[number] >= 0:
                null = None
                if class_null is not None and cause_null is not None and cause != Cause.QUEUE:
                    # Where the body names nobody, chance gives a culprit no more than it gives the cause.
                    share = cause_null.share[cause] if population.thinned else class_null.share[class_columns[number]]
                    null = float(share)
                entries.append(
                    (cause.id, names[number], int(by_class.excess[number]), int(by_class.hits[number]), null)
                )
        rest = int(by_class.excess[small].sum())
        if rest:
            label = names[small[0]] if len(small) == 1 else f"{len(small)} others"
            entries.append((cause.id, label, rest, int(by_class.hits[small].max()), None))
    minor = total - sum(entry[2] for entry in entries)
    means = round_to_total([*(entry[2] / count for entry in entries), minor / count])
    rows = [
        BlameRow(cause_id, culprit, mean, excess / total, hits, null)
        for (cause_id, culprit, excess, hits, null), mean in zip(entries, means, strict=False)
    ]
    rows.sort(key=lambda row: -row.share)
    return BlameTable(tuple(rows), sum(means), means[-1], minor / total)


def _stands_out(sums: _Sums, number: int, total: int, null: Chance | None) -> bool:
    share = sums.excess[number] / total
    above_chance = null is None or share > null.share[number]
    if null is not None and sums.inherited[number] >= NAMED_SHARE * total:
        above_chance |= null.capacity[number] >= NAMED_SHARE
    per_hit = sums.hit_excess[number] >= NAMED_PART * sums.hit_baseline[number]
    return bool(share >= NAMED_SHARE and above_chance and sums.hits[number] and per_hit)


def _inherited(ledger: Ledger, classes: Classes, population: Population, size: int) -> npt.NDArray[np.int64]:
    """int64[K]: what the spikes inherited from earlier requests, by class."""
    in_tail = np.zeros(size, bool)
    in_tail[population.tail_rows] = True
    mine = np.flatnonzero((ledger.pieces["origin"] >= 0) & in_tail[ledger.pieces["row"]])
    total = np.zeros(len(classes), np.int64)
    np.add.at(total, classes.of_piece[mine], ledger.pieces["ns"][mine])
    return total


def _sum_excess(
    totals: Account,
    population: Population,
    baselines: npt.NDArray[np.int64],
    column: npt.NDArray[np.int64],
    inherited: npt.NDArray[np.int64],
    size: int,
) -> _Sums:
    """Sums per column, where `column` maps classes to columns. `inherited`: by class."""
    columns = int(column.max()) + 1
    usual = np.zeros((len(baselines), columns), np.int64)
    np.add.at(usual.T, column, baselines.T)
    tail = population.tail
    index = np.full(size, -1, np.int64)
    index[population.tail_rows] = np.arange(int(tail.sum()))
    baseline_of = population.baseline[tail]
    baseline_ns = population.baseline_ns[baseline_of]
    excess_of = population.response_ns[tail] - baseline_ns

    mine = index[totals.row] >= 0
    code = index[totals.row[mine]] * columns + column[totals.key[mine]]
    found, inverse = np.unique(code, return_inverse=True)
    spent = np.zeros(len(found), np.int64)
    np.add.at(spent, inverse, totals.ns[mine])
    spike, where = found // columns, found % columns
    over = spent - usual[baseline_of[spike], where]
    hit = (over > 0) & (over >= HIT_PART * excess_of[spike])
    excess = np.zeros(columns, np.int64)
    np.add.at(excess, where, spent)
    excess -= usual[baseline_of].sum(axis=0)
    hit_excess, hit_baseline = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
    np.add.at(hit_excess, where[hit], over[hit])
    np.add.at(hit_baseline, where[hit], baseline_ns[spike[hit]])
    came = np.zeros(columns, np.int64)
    np.add.at(came, column, inherited)
    return _Sums(excess, np.bincount(where[hit], minlength=columns), came, hit_excess, hit_baseline)


def _labels(ledger: Ledger, classes: Classes, population: Population, size: int) -> list[str]:
    """What to call each class: its only culprit in the spikes by full name, several tasks by name and number."""
    in_tail = np.zeros(size, bool)
    in_tail[population.tail_rows] = True
    pieces = np.flatnonzero(in_tail[ledger.pieces["row"]])
    size = len(ledger.culprits)
    found = np.unique(classes.of_piece[pieces].astype(np.int64) * size + ledger.pieces["culprit"][pieces])
    of_class, culprit = np.divmod(found, size)
    labels = []
    for number in range(len(classes)):
        members = culprit[of_class == number].tolist()
        group = classes.groups[classes.group[number]]
        if len(members) == 1:
            labels.append(ledger.culprits[members[0]])
        else:
            labels.append(f"{group} ({len(members)} tasks)" if members else group)
    return labels
