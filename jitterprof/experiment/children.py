"""Starting our own child processes, and what every one of them does first."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jitterprof.errors import JitterprofError
from jitterprof.experiment.channel import Channel

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Child:
    """A running child. `log`: what it wrote to stderr."""

    process: subprocess.Popen[bytes]
    channel: Channel
    log: Path

    def last_words(self) -> str:
        """The last line it wrote to stderr, or how it ended."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        code = self.process.poll()
        if code is not None and code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return lines[-1].strip() if lines else f"exit code {code}"

    def advice(self) -> str:
        """What to do about a child that ended by itself."""
        if self.log.is_file() and self.log.stat().st_size:
            return f"its output is in {self.log}"
        return "if nobody ended it, the kernel may have, for memory: see `dmesg`"

    def end(self, timeout_s: float = 5.0) -> None:
        """Hang up, which ends a child that waits for us; terminate it, and kill it if that takes longer than
        `timeout_s`."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._end_descendants()

    def _end_descendants(self) -> None:
        """A workload may have started processes of its own, which inherit its deafness to signals: they are of its
        session, so of its process group unless they chose to leave it."""
        # The number of a group that still has members is not given out again; of one that has none it may be.
        if not Path(f"/proc/{self.process.pid}").exists():
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def start_child(module: str, log: Path, environment: Mapping[str, str]) -> Child:
    """`python -m module` with one end of a channel, in a session of its own: Ctrl-C reaches the
    coordinator alone, which then ends the others in order. Raises JitterprofError when it cannot be started."""
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    try:
        with theirs, log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(number), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={**os.environ, **environment},
                pass_fds=(number,),
                start_new_session=True,
            )
    except OSError as error:
        ours.close()
        raise JitterprofError(
            f"cannot start {module}: {error.filename or log}: {error.strerror}",
            "this user must be able to run that Python, and to write into the --out directory",
        ) from None
    return Child(process, Channel(ours), log)


def enter_child() -> Channel:
    """Called first in a child: it ends with its parent, even when that is killed; returns its end of the channel."""
    number, parent = int(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)  # it went before we could ask to be told
    end = socket.socket(fileno=number)
    end.set_inheritable(False)
    return Channel(end)
