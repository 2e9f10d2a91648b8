"""The command line: one module per command, and the one place that turns an error into a line and an exit code."""

import sys
from typing import Annotated

import typer

from jitterprof import __version__
from jitterprof.cli.demo import demo
from jitterprof.cli.doctor import doctor
from jitterprof.cli.explain import explain
from jitterprof.cli.run import run
from jitterprof.errors import JitterprofError

app = typer.Typer(
    name="jitterprof",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Why was this inference request slow? Every nanosecond of it, assigned to a cause.",
    epilog="First steps: `jitterprof demo`, then `jitterprof run mlp`. What works on this host: `jitterprof doctor`.",
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"jitterprof {__version__}")
        raise typer.Exit


app.command()(demo)
app.command()(doctor)
app.command()(run)
app.command()(explain)


def main() -> None:
    """Run the command line; errors end as one line on stderr and their exit code. Bugs show a traceback."""
    try:
        app()
    except JitterprofError as error:
        typer.echo(f"jitterprof: {error.message}", err=True)
        if error.hint:
            typer.echo(f"  {error.hint}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("jitterprof: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) has seen enough.
        sys.stderr.close()
        sys.exit(0)
