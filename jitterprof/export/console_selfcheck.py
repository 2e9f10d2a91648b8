"""`doctor --calibrate` on a terminal: the answer first, then the confusion matrix, then fault by fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitterprof.analysis.selfcheck import NOT_SEEN, JudgedFault, SelfCheck
from jitterprof.export.words import LOOKS, phrase
from jitterprof.model.cause import Cause
from jitterprof.units import format_ns

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_MARK = {"right": ("yes", "green"), "wrong": ("NO", "bold red"), "unclear": ("?", "yellow"), "absent": ("-", "dim")}


def headline(check: SelfCheck) -> str:
    """ "11 of 12 faults are named right on this host; cold-file is not." """
    right, wrong, unclear, absent = (check.named(verdict) for verdict in _MARK)
    parts = [f"{len(right)} of {len(right) + len(wrong)} faults are named right on this host"]
    if wrong:
        parts.append(f"{_list(wrong)} {'is' if len(wrong) == 1 else 'are'} not")
    if unclear:
        parts.append(f"nothing can be said of {_list(unclear)}")
    if absent:
        parts.append(f"{_list(absent)} cannot be injected here")
    return "; ".join(parts) + "."


def _list(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def print_selfcheck(check: SelfCheck, console: Console | None = None) -> None:
    """Print `check` to `console` (standard output by default); readable at 80 columns."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    console.print(Text(headline(check), "bold"))
    for line in _figures(check):
        console.print(Text(line))
    if check.columns:
        console.print()
        console.print(_matrix(check))
        console.print(_legend(check))
    console.print()
    console.print(_table(check))
    notes = [f"{fault.name}: {fault.reason}" for fault in check.faults if fault.reason]
    left_out = sum(fault.left_out for fault in check.faults)
    if left_out:
        notes.append(f"{left_out} of {len(check.pulses)} pulses left out: other tasks of this host disturbed them")
    unseen = sum(pulse.cause == Cause.UNKNOWN.id for pulse in check.pulses if not pulse.left_out)
    if unseen:
        notes.append(f"unknown in {unseen} of {len(check.pulses)} pulses: the events were not there to be seen")
    if check.lost_events:
        notes.append(f"{check.lost_events} events were lost")
    if check.named("unclear"):
        notes.append("to know more: a quieter machine, or more pulses (--pulses 30)")
    for note in notes:
        console.print(Text(f"- {note}", "dim"))


def _figures(check: SelfCheck) -> list[str]:
    lines = []
    if check.judged:
        interval = f"95 % interval {100 * check.low:.0f} to {100 * check.high:.0f} %"
        lines.append(f"{check.right} of {check.judged} pulses seen are blamed right ({interval}).")
    if check.control_judged:
        blamed = check.control_blamed or "none"
        lines.append(f"{check.control_judged} pulses in which nothing was wrong: {blamed} blamed on anybody.")
    if check.error_ns is not None and check.error_share is not None:
        lines.append(
            f"Time off the CPU is {format_ns(check.error_ns)} ({100 * check.error_share:.1f} %) beside the log, "
            f"median of {check.error_pulses} pulses."
        )
    return lines


def _letter(cause: str) -> str:
    if cause == NOT_SEEN:
        return "."
    letter = LOOKS[cause].letter
    return "r" if letter == "-" else letter


def _matrix(check: SelfCheck) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("injected", no_wrap=True, header_style="dim")
    for column in check.columns:
        table.add_column(_letter(column), justify="right", no_wrap=True)
    for fault, counts in zip(check.faults, check.matrix, strict=True):
        cells = []
        for column, count in zip(check.columns, counts, strict=True):
            right = column in fault.expected or (column == NOT_SEEN and fault.control)
            style = "green" if right else "dim" if column == NOT_SEEN else "bold red"
            cells.append(Text(str(count) if count else "·", style if count else "dim"))
        table.add_row(fault.name, *cells)
    return table


def _legend(check: SelfCheck) -> Text:
    from rich.text import Text

    names = [f"{_letter(cause)} {'no slow request' if cause == NOT_SEEN else cause}" for cause in check.columns]
    return Text("blamed on: " + " · ".join(names), "dim")


def _table(check: SelfCheck) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("fault", no_wrap=True)
    table.add_column("right", no_wrap=True)
    table.add_column("pulses", no_wrap=True, justify="right")
    table.add_column("excess", no_wrap=True, justify="right")
    table.add_column("time error", no_wrap=True, justify="right")
    table.add_column("blamed on", overflow="fold", ratio=1)
    for fault in check.faults:
        word, style = _MARK[fault.verdict]
        table.add_row(
            fault.name,
            Text(word, style),
            f"{fault.right} of {fault.judged}" if fault.pulses else "",
            format_ns(fault.excess_ns) if fault.excess_ns else "",
            _error(fault),
            Text(_blamed(fault)),
        )
    return table


def _error(fault: JudgedFault) -> str:
    if fault.error_ns is None or fault.error_share is None:
        return ""
    return f"{format_ns(fault.error_ns)}, {100 * fault.error_share:.1f} %"


def _blamed(fault: JudgedFault) -> str:
    if not fault.blamed:
        return ""
    cause = fault.blamed[0][0]
    return "nobody" if cause == NOT_SEEN else phrase(cause, fault.culprit)
