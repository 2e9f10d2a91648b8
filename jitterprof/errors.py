"""What can go wrong, by what the user can do about it. Each class carries its exit code; only `cli` exits."""

from typing import ClassVar


class JitterprofError(Exception):
    """One line saying what is wrong, and a hint saying what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RunFileError(JitterprofError):
    """A run directory that is missing, foreign, newer than this version, or damaged."""


class SpecError(JitterprofError):
    """Bad usage: an unknown name, a value that makes no sense. The hint lists what is known."""

    exit_code = 2


class UnsupportedError(JitterprofError):
    """Not possible on this host as it is. The hint says what is missing and how to get it."""

    exit_code = 3


class ProbeUnavailable(UnsupportedError):
    """The kernel, its lockdown or our rights do not allow a probe."""


class BackendUnavailable(UnsupportedError):
    """A runtime, a device or a model's package is not installed."""


class MeasurementInvalid(JitterprofError):
    """The figures would mislead: the generator fell behind, the target died, the environment drifted."""

    exit_code = 4


class Interrupted(JitterprofError):
    """Ended by Ctrl-C or SIGTERM: the user's own wish, and what a shell expects to hear of it."""

    exit_code = 130


class RestoreFailed(JitterprofError):
    """A setting could not be put back. The hint is the command that does it by hand."""

    exit_code = 5
