"""How a command ends: what it says when it fails, and a reader of its output that has seen enough."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from jitterprof.errors import JitterprofError


def complain(message: str, hint: str, exit_code: int, as_json: bool = False) -> None:
    """One line of what is wrong and one of what to do, on stderr; `as_json`: also as the one document on stdout."""
    typer.echo(f"jitterprof: {message}", err=True)
    if hint:
        typer.echo(f"  {hint}", err=True)
    if as_json:
        document = {"error": {"message": message, "hint": hint, "exit_code": exit_code}}
        with standard_output():
            json.dump(document, sys.stdout, indent=1)
            sys.stdout.write("\n")


def end_with(error: JitterprofError) -> NoReturn:
    """End a command that has shown its result, although something went wrong: that document stays the only one."""
    complain(error.message, error.hint, error.exit_code)
    sys.exit(error.exit_code)


@contextmanager
def standard_output() -> Iterator[None]:
    """Around everything that prints a result. A reader that leaves early (head, less) is no error, and changes nothing
    about how the command ends: the rest goes nowhere."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        # rich makes SystemExit(1) of a broken pipe.
        if isinstance(error, SystemExit) and error.code != 1:
            raise
        _close_output()
    except OSError as error:
        _close_output()
        raise JitterprofError(
            f"cannot write the result: {error.strerror}", "give standard output a place with space, and explain again"
        ) from None


def _close_output() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
