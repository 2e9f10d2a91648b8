"""`jitterprof demo`."""

from pathlib import Path
from typing import Annotated

import typer

from jitterprof.cli.outcome import end_with


def demo(
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the session in this run directory.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the explanation as one JSON document.")] = False,
) -> None:
    """About a minute, no GPU: a small real model, a noisy neighbour of the demo's own, and the explanation."""
    from jitterprof.cli.explain import show
    from jitterprof.cli.progress import session_progress
    from jitterprof.experiment.demo import NEIGHBOUR, demo_folder, record_demo

    if not json_output:
        typer.echo(
            "jitterprof demo: a small model serves requests on one CPU. Now and then a\n"
            f"noisy neighbour, which this demo starts itself under the name '{NEIGHBOUR}',\n"
            "takes that CPU for a few milliseconds. Will it be found?\n",
            err=True,
        )
    with demo_folder() as folder:
        with session_progress(quiet=json_output) as listen:
            recording = record_demo(keep or folder / "demo.jprof", listen)
        show(recording.run, top=3, as_json=json_output)
        if recording.trouble is not None:
            end_with(recording.trouble)
    if not json_output:
        typer.echo("\nThe neighbour has ended and nothing on this host was changed.", err=True)
        typer.echo("Next: jitterprof run mlp, or your own model: jitterprof run model.onnx", err=True)
