"""Run code that is not ours (a user's file, a runtime's loader) and turn any failure into one line."""

import re
from collections.abc import Callable
from typing import TypeVar

from jitterprof.errors import JitterprofError, SpecError

Result = TypeVar("Result")

_FINAL = re.compile(r"\w+(Error|Exception): ")


def attempt(call: Callable[[], Result], what: str, hint: str) -> Result:
    """`call()`; an exception of any class becomes SpecError(f"{what}: {its message}", hint). Our own errors pass."""
    try:
        return call()
    except JitterprofError:
        raise
    except Exception as error:
        raise SpecError(f"{what}: {one_line(error)}", hint) from error


def one_line(error: BaseException) -> str:
    """The message of an exception as one line of at most 300 characters, or its class when it says nothing.

    Of a message that is a traceback itself (TorchScript's are) it is the last line, which says what went wrong.
    """
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and _FINAL.match(lines[-1]):
        lines = lines[-1:]
    text = " ".join(" ".join(lines).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
