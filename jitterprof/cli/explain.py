"""`jitterprof explain`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jitterprof.cli.outcome import standard_output

if TYPE_CHECKING:
    from jitterprof.store import Run

EXAMPLES = """
Examples:
  jitterprof explain mlp-20261123-101500.jprof
  # one request, all of it
  jitterprof explain before.jprof --request 4711
  # every spike, for a script
  jitterprof explain before.jprof --top 1000 --json > spikes.json
  # the gaps between generated tokens
  jitterprof explain decoder.jprof --tokens
"""


def show(run: "Run", *, top: int, as_json: bool, request: int | None = None, slo_ns: int | None = None) -> None:
    """Explain a session and print it."""
    from jitterprof.analysis.explanation import explain as explain_run
    from jitterprof.analysis.session_ledger import session_ledger

    explanation = explain_run(run, session_ledger(run), slo_ns=slo_ns, top=top, request=request)
    with standard_output():
        if as_json:
            from jitterprof.export.json_document import explanation_document

            json.dump(explanation_document(explanation), sys.stdout, indent=1)
            sys.stdout.write("\n")
        else:
            from jitterprof.export.console import print_explanation

            print_explanation(explanation)


def explain(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory, NAME.jprof.")],
    request: Annotated[int | None, typer.Option(metavar="SEQ", help="Explain this one request, by its number.")] = None,
    top: Annotated[int, typer.Option(metavar="N", help="How many of the slowest requests to show.", min=0)] = 10,
    slo: Annotated[
        str | None, typer.Option(help="What counts as slow, e.g. 10ms; the session's own by default.")
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Explain the gaps between generated tokens.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Say why requests of a recorded session were slow."""
    from jitterprof.store import open_run
    from jitterprof.units import parse_duration_ns

    slo_ns = None if slo is None else parse_duration_ns(slo)
    run = open_run(directory)
    if tokens:
        from jitterprof.analysis.tokens import token_view

        run = token_view(run)
    show(run, top=top, as_json=json_output, request=request, slo_ns=slo_ns)


explain.__doc__ = f"{explain.__doc__}\n\n\b{EXAMPLES}"
