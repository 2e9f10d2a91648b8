"""Running time in the ledger, cut where something else took it: what held up a pool's threads, and hidden costs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.culprits import LOST_NAME
from jitterprof.analysis.event_counts import EVENT_CLASSES
from jitterprof.analysis.parallel import on_all_cpus, slices
from jitterprof.analysis.piece_table import STRETCH, cut_at, rebuilt
from jitterprof.analysis.segments import Finder, Ints, Rows
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import PIECE_DTYPE, Basis, Ledger

CLASSES = len(EVENT_CLASSES)
#: What a bill is for: an event class of the serving thread, one of its straggler, or records that are missing.
OWN, POOLS, MISSING = 0, CLASSES, 2 * CLASSES
_RAW = f"V{PIECE_DTYPE.itemsize}"


@dataclass(frozen=True, slots=True)
class Bills:
    """Hidden costs, by row of the request table and what each is for: OWN or POOLS + number of the event class, or
    MISSING. `ns`: more than 0; `straggler`: tid of the pool's thread."""

    row: Ints
    what: npt.NDArray[np.int8]
    ns: Ints
    straggler: npt.NDArray[np.int32]

    @staticmethod
    def of(row: Ints, bill: Ints, straggler: Ints) -> "Bills":
        """From a matrix int64[rows, MISSING + 1] ns."""
        at, what = np.nonzero(bill)
        return Bills(row[at], what.astype(np.int8), bill[at, what], straggler[at].astype(np.int32))

    @staticmethod
    def joined(parts: "list[Bills]") -> "Bills":
        """All of them, one after the other."""
        return Bills(*(np.concatenate([getattr(part, name) for part in parts]) for name in Bills.__slots__))

    def of_rows(self, first: int, last: int) -> "Bills":
        """Those of the rows `first` to `last`."""
        some = slice(*np.searchsorted(self.row, [first, last + 1]))
        return Bills(*(getattr(self, name)[some] for name in Bills.__slots__))

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True)
class Billed:
    """Whom to bill for an event class (CLASSES: nobody knows). `culprit`: who took most of the same cause in the
    session; `fixed`: whether it is the same in all requests, else it is who took most of it in the request."""

    culprit: Ints
    fixed: npt.NDArray[np.bool_]


def cut_run(ledger: Ledger, taken: Rows, bills: Bills) -> Ledger:
    """Replace running time by `taken`, and then what of each request's is left, from its beginning on, by its bills.

    `taken`: PIECE_DTYPE by (row, start), each inside one `run` piece, with culprits of `ledger`.
    """
    if not len(taken) and not len(bills):
        return ledger
    billed, names = _whom(ledger, taken, bills)
    of_taken = np.ascontiguousarray(taken["row"])

    def change(pieces: Rows) -> Rows:
        first, last = int(pieces["row"][0]), int(pieces["row"][-1])
        some = slice(*np.searchsorted(of_taken, [first, last + 1]))
        return _with_bills(_with_taken(pieces, taken[some]), bills.of_rows(first, last), billed, len(names))

    pieces = rebuilt(ledger.pieces, change, 2 * len(taken) + len(bills))
    observer = np.zeros(len(names), bool)
    observer[: len(ledger.culprits)] = ledger.observer
    return Ledger(pieces, names, observer)


def _whom(ledger: Ledger, taken: Rows, bills: Bills) -> tuple[Billed, tuple[str, ...]]:
    """Whom to bill for each class, and the culprits' names with those that come to it. A softirq is its vector."""
    names = list(ledger.culprits)
    billed = Billed(np.zeros(CLASSES + 1, np.int64), np.ones(CLASSES + 1, bool))
    met = np.bincount(bills.what, minlength=MISSING + 1) > 0
    numbers = np.flatnonzero(np.append(met[OWN:POOLS] | met[POOLS:MISSING], met[MISSING])).tolist()
    spent = _spent(ledger, taken) if len(bills) else np.empty((0, 0))
    for number in numbers:
        name = EVENT_CLASSES[number].name if number < CLASSES else LOST_NAME
        if name:
            if name not in names:
                names.append(name)
            billed.culprit[number] = names.index(name)
            continue
        cause = EVENT_CLASSES[number].cause
        billed.culprit[number] = spent[cause].argmax()
        billed.fixed[number] = False
    return billed, tuple(names)


def _spent(ledger: Ledger, taken: Rows) -> npt.NDArray[np.float64]:
    """float64[causes, culprits]: ns in the pieces of the ledger and in `taken`."""
    size = len(Cause), len(ledger.culprits)

    def of(pieces: Rows) -> npt.NDArray[np.float64]:
        code = pieces["cause"] * np.int64(size[1]) + pieces["culprit"]
        return np.bincount(code, pieces["ns"], size[0] * size[1]).astype(np.float64)

    parts = on_all_cpus(lambda some: of(ledger.pieces[some]), slices(len(ledger.pieces), STRETCH))
    spent: npt.NDArray[np.float64] = sum(parts, of(taken)).reshape(size)
    return spent


def _with_taken(pieces: Rows, taken: Rows) -> Rows:
    """`taken` cut out of the pieces that it lies in, and put there."""
    if not len(taken):
        return pieces
    begins = np.cumsum(pieces["ns"]) - pieces["ns"]
    row = np.ascontiguousarray(pieces["row"])
    holder = Finder(row, pieces["start_ns"]).after(taken["row"], taken["start_ns"]) - 1
    begin = begins[holder] + taken["start_ns"] - pieces["start_ns"][holder]
    parts = cut_at(pieces, np.stack([begin, begin + taken["ns"]], axis=1).reshape(-1))
    at = np.searchsorted(np.cumsum(parts["ns"]), begin, "right")
    parts.view(_RAW)[at] = taken.view(_RAW)
    return parts


def _with_bills(pieces: Rows, bills: Bills, billed: Billed, names: int) -> Rows:
    """What each request is billed, cut out of the beginning of its running time."""
    if not len(bills):
        return pieces
    low = int(pieces["row"][0])
    pays = np.zeros(int(pieces["row"][-1]) - low + 1, bool)
    pays[bills.row - low] = True

    def run_end(of: Rows) -> tuple[npt.NDArray[np.bool_], Ints]:
        # All running time that may be billed on one axis.
        run = (of["cause"] == Cause.RUN) & pays[of["row"] - low]
        return run, np.cumsum(np.where(run, of["ns"], 0))

    run, ends = run_end(pieces)
    first_bill = np.flatnonzero(np.diff(bills.row, prepend=-1))
    first_piece = np.searchsorted(pieces["row"], bills.row[first_bill])
    begin = np.where(first_piece > 0, ends[first_piece - 1], 0)
    upto = np.cumsum(bills.ns)
    before = upto[first_bill] - bills.ns[first_bill]
    upto += np.repeat(begin - before, np.diff(np.append(first_bill, len(bills))))
    holder = np.searchsorted(ends, upto, "left")
    parts = cut_at(pieces, np.cumsum(pieces["ns"])[holder] - (ends[holder] - upto))

    run, ends = run_end(parts)
    # A row's bills are followed by those of the next: past the last of its own it is running time still.
    mine = np.flatnonzero(run)
    bill = np.searchsorted(upto, ends[mine] - parts["ns"][mine], "right")
    inside = np.minimum(bill, len(bills) - 1)
    paid = (bill < len(bills)) & (bills.row[inside] == parts["row"][mine])
    # A run piece may have been billed by an earlier calibration; here it is billed in full or not at all.
    parts["calibrated_ns"][mine] = 0
    at, bill = mine[paid], bill[paid]
    what = bills.what[bill]
    missing, pool = what == MISSING, (what >= POOLS) & (what < MISSING)
    number = np.where(missing, CLASSES, what % CLASSES)
    parts["culprit"][at] = _culprits(pieces, parts["row"][at], number, billed, names)
    parts["cause"][at] = np.array([*(one.cause for one in EVENT_CLASSES), Cause.UNKNOWN], np.uint8)[number]
    parts["calibrated_ns"][at] = np.where(missing, 0, parts["ns"][at])
    parts["basis"][at] = np.select([missing, pool], [int(Basis.MEASURED), int(Basis.POOL)], int(Basis.CALIBRATED))
    parts["tid"][at[pool]] = bills.straggler[bill[pool]]
    parts["cpu"][at[pool]] = -1
    return parts


def _culprits(pieces: Rows, row: Ints, number: Ints, billed: Billed, names: int) -> Ints:
    """The culprit of each bill of a class (`number`) to a row."""
    culprit = billed.culprit[number]
    low = int(pieces["row"][0])
    for one in np.flatnonzero(~billed.fixed).tolist():
        same = pieces.compress(pieces["cause"] == EVENT_CLASSES[one].cause)
        largest = np.full(int(pieces["row"][-1]) - low + 1, billed.culprit[one])
        # Per request and culprit, all of its pieces; later assignments win, so the largest sum is assigned last.
        key, of_key = np.unique((same["row"] - low) * names + same["culprit"], return_inverse=True)
        spent = np.bincount(of_key, same["ns"].astype(np.float64))
        ordered = key[np.argsort(spent, kind="stable")]
        largest[ordered // names] = ordered % names
        wanted = number == one
        culprit[wanted] = largest[row[wanted] - low]
    return culprit
