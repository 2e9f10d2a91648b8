"""The command line: one module per command, and the one place that turns an error into a line and an exit code."""

import signal
import sys
from typing import Annotated, cast

import typer

from jitterprof import __version__
from jitterprof.cli.demo import demo
from jitterprof.cli.doctor import doctor
from jitterprof.cli.explain import explain
from jitterprof.cli.outcome import complain, standard_output
from jitterprof.cli.run import run
from jitterprof.errors import Interrupted, JitterprofError

_INTERRUPTED = Interrupted.exit_code
#: click.UsageError, of the click that typer brings or of its own copy.
_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])

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
    """Run the command line; errors end as one line of what is wrong and one of what to do, and their exit code.

    With --json a failure is a document too: {"error": {"message", "hint", "exit_code"}}. Bugs show a traceback.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup stays in force
            signal.signal(number, signal.default_int_handler)
    as_json = "--json" in sys.argv[1:]
    try:
        code = app(prog_name="jitterprof", standalone_mode=False) or 0
        with standard_output():
            pass
        if code == _INTERRUPTED:
            # What typer makes of a KeyboardInterrupt that nobody caught.
            raise KeyboardInterrupt
    except JitterprofError as error:
        complain(error.message, error.hint, error.exit_code, as_json)
        code = error.exit_code
    except _UsageError as error:
        code = _wrong_usage(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted", "", _INTERRUPTED, as_json)
        code = _INTERRUPTED
    sys.exit(code)


def _wrong_usage(error: typer.BadParameter, as_json: bool) -> int:
    context = error.ctx
    command = context.command_path if context is not None else "jitterprof"
    if len(sys.argv) < 2 and context is not None:
        typer.echo(context.get_help(), err=True)
        return error.exit_code
    lines = error.format_message().splitlines()
    complain(lines[0].rstrip("."), f"see `{command} --help`", error.exit_code, as_json)
    return error.exit_code
