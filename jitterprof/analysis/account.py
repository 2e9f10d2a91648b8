"""The ledger summed up: per request and class of time, where a class is a cause with a group of culprits."""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.parallel import on_all_cpus
from jitterprof.analysis.piece_table import stretches
from jitterprof.model.cause import Cause
from jitterprof.model.ledger import Ledger

Ints = npt.NDArray[np.int64]

_TASK = re.compile(r"(.*)/\d+")


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a ledger. Tasks of one name are one group: "cc1/4711" and "cc1/4712" both belong to "cc1".

    `cause`: uint8[K]; `group`: index into `groups`, int32[K]; `of_piece`: class of each piece, int32[pieces].
    Class 0 is (run, nobody).
    """

    cause: npt.NDArray[np.uint8]
    group: npt.NDArray[np.int32]
    groups: tuple[str, ...]
    of_piece: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.cause)


@dataclass(frozen=True, slots=True)
class Account:
    """Sums over pieces, sorted by (row, class): `row`, `key` (class), `ns`, all int64 of one length."""

    row: npt.NDArray[np.int64]
    key: npt.NDArray[np.int64]
    ns: npt.NDArray[np.int64]


def group_name(culprit: str) -> str:
    """The name under which a culprit is added up: a task without its pid, anything else as it is."""
    match = _TASK.fullmatch(culprit)
    return match[1] if match else culprit


def classify(ledger: Ledger) -> Classes:
    """Give each piece of `ledger` its class."""
    groups: dict[str, int] = {"": 0}
    group_of = np.array([groups.setdefault(group_name(name), len(groups)) for name in ledger.culprits], np.int64)
    size = len(Cause) * len(groups)
    code = ledger.pieces["cause"].astype(np.int32) * len(groups)
    if len(code):
        code += group_of.astype(np.int32)[ledger.pieces["culprit"]]
    # A table over all possible codes: sorting millions of pieces costs seconds.
    number = np.zeros(size, np.int32)
    number[code] = 1
    # Cause.RUN is 0 and nobody is group 0: their class is the first, and always there.
    number[0] = 1
    found = np.flatnonzero(number)
    number[found] = np.arange(len(found))
    return Classes(
        (found // len(groups)).astype(np.uint8), (found % len(groups)).astype(np.int32), tuple(groups), number[code]
    )


def account(ledger: Ledger, classes: Classes) -> Account:
    """Sum the pieces of each request per class."""

    def of(part: slice) -> tuple[Ints, Ints]:
        code = ledger.pieces["row"][part] * len(classes) + classes.of_piece[part]
        order = np.argsort(code, kind="stable")
        code = code[order]
        first = np.flatnonzero(np.diff(code, prepend=-1))
        ns: Ints = np.add.reduceat(ledger.pieces["ns"][part][order], first)
        return code[first].astype(np.int64), ns

    parts = on_all_cpus(of, stretches(ledger.pieces))
    none = np.empty(0, np.int64)
    code, ns = (np.concatenate([none, *(part[number] for part in parts)]) for number in range(2))
    return Account(*np.divmod(code, len(classes)), ns)


def check_closure(requests: npt.NDArray[np.void], ledger: Ledger, rows: npt.NDArray[np.intp]) -> None:
    """Raise AssertionError where the pieces of one of `rows` do not add up to its response time."""
    total = np.zeros(len(requests), np.int64)

    def add(part: slice) -> None:
        # Each part has rows of its own.
        np.add.at(total, ledger.pieces["row"][part], ledger.pieces["ns"][part])

    on_all_cpus(add, stretches(ledger.pieces))
    response = requests["end_ns"][rows] - requests["intended_ns"][rows]
    open_rows = rows[total[rows] != response]
    if len(open_rows):
        row = open_rows[0]
        raise AssertionError(
            f"the ledger of {len(open_rows)} requests does not close: request {requests['seq'][row]} has pieces of "
            f"{total[row]} ns for {requests['end_ns'][row] - requests['intended_ns'][row]} ns"
        )
