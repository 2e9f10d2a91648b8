"""`jitterprof doctor`."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from jitterprof.cli.outcome import standard_output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from jitterprof.experiment.diagnosis import Diagnosis, Row

_MARK = {"ok": "[green]yes[/]", "partly": "[yellow]part[/]", "no": "[red]no[/]", "": ""}


EXAMPLES = """
Examples:
  jitterprof doctor
  # two minutes: inject known faults, and see whether they are named right here
  jitterprof doctor --calibrate
  # more pulses of each, for a script
  jitterprof doctor --calibrate --pulses 30 --json > selfcheck.json
"""


def doctor(
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Inject known faults instead, and print which are named right.")
    ] = False,
    pulses: Annotated[
        int, typer.Option(metavar="N", help="With --calibrate: how often each fault is injected.", min=3, max=200)
    ] = 12,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Say what this host can record and change, and how to get the rest. Changes nothing."""
    if calibrate:
        from jitterprof.cli import selfcheck

        selfcheck.calibrate(pulses, json_output)
        return
    from rich.console import Console

    from jitterprof.experiment.diagnosis import diagnose

    # A few seconds: the probes are loaded for real and the runtimes imported.
    with Console(stderr=True).status("Trying the probes and the backends ..."):
        diagnosis = diagnose()
    with standard_output():
        if json_output:
            json.dump(diagnosis.to_json(), sys.stdout, indent=2)
            sys.stdout.write("\n")
        else:
            show(diagnosis, Console())


doctor.__doc__ = f"{doctor.__doc__}\n\n\b{EXAMPLES}"


def show(diagnosis: "Diagnosis", console: "Console") -> None:
    """Print a diagnosis for people; readable at 80 columns."""
    from rich.text import Text

    console.print(Text(diagnosis.verdict, style="bold"))
    if diagnosis.fix:
        console.print(Text(f"Fix first: {diagnosis.fix}", style="yellow"))
    elif diagnosis.causes_visible == diagnosis.causes_total:
        console.print(Text("Nothing is missing. Try: jitterprof run mlp", style="green"))
    for title, rows in (
        ("Host", diagnosis.host),
        ("Rights", diagnosis.rights),
        ("Probes", diagnosis.probes),
        ("Causes", diagnosis.causes),
    ):
        _heading(console, title)
        console.print(_table(rows))
    _heading(console, "Knobs")
    _show_knobs(console, diagnosis.knobs)
    for title, rows in (("Backends", diagnosis.backends), ("Workloads", diagnosis.workloads)):
        _heading(console, title)
        console.print(_table(rows))


def _heading(console: "Console", title: str) -> None:
    console.print()
    console.print(f"[bold]{title}[/]")


def _table(rows: "tuple[Row, ...]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    with_state = any(row.state for row in rows)
    table.add_column(no_wrap=True)
    if with_state:
        table.add_column(no_wrap=True, width=4)
    table.add_column(overflow="fold", ratio=1)
    for row in rows:
        text = Text(row.detail)
        if row.fix:
            text.append(("\n" if row.detail else "") + f"-> {row.fix}", style="cyan")
        cells = (f"  {row.name}", *((_MARK[row.state],) if with_state else ()))
        table.add_row(*cells, text)
    return table


def _show_knobs(console: "Console", rows: "tuple[Row, ...]") -> None:
    """Grouped: what can be set, in one paragraph, and the rest by reason (every value is in --json)."""
    from rich.padding import Padding
    from rich.text import Text

    available = [row.name for row in rows if row.state == "ok"]
    console.print(
        Padding(Text(f"{len(available)} of {len(rows)} can be set here: {', '.join(available)}"), (0, 0, 0, 2))
    )
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.state != "ok":
            reasons.setdefault(row.detail, []).append(row.name)
    for reason, names in reasons.items():
        text = Text(f"{reason}: ", style="yellow")
        text.append(", ".join(names), style="default")
        console.print(Padding(text, (0, 0, 0, 2)))
