"""Undoes what outlasts a process, when that process goes: waits for the end of its standard input, however that comes.

`python -m jitterprof.inject.guard continue PID | cgroup GROUP HOME | folder PATH`. It does nothing else, has no parent
to die with, and takes no notice of Ctrl-C.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_PATIENCE_S = 10.0
_RETRY_S = 0.02


def continue_process(pidfd: int) -> None:
    """SIGCONT, which does no harm to a process that runs."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)


def remove_cgroup(group: Path, home: Path) -> None:
    """Everybody in `group` goes to `home`, and `group` goes. Raises OSError when it is still busy after 10 s."""
    deadline = time.monotonic() + _PATIENCE_S
    while group.exists():
        try:
            for left in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    (home / "cgroup.procs").write_text(left)
            group.rmdir()
        except OSError:
            # A task that is just ending keeps it busy for a moment.
            if group.exists() and time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)


def remove_folder(folder: Path) -> None:
    """`folder` and all in it go. Raises OSError when somebody still writes there after 10 s."""
    deadline = time.monotonic() + _PATIENCE_S
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError:
            if folder.exists() and time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)


def main() -> None:
    """Entry point of `python -m`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    what, target = sys.argv[1:3]
    # Now, while it is certain whose number that is.
    pidfd = os.pidfd_open(int(target)) if what == "continue" else -1
    while sys.stdin.buffer.read(1):
        pass
    match what:
        case "continue":
            continue_process(pidfd)
        case "cgroup":
            remove_cgroup(Path(target), Path(sys.argv[3]))
        case "folder":
            remove_folder(Path(target))


if __name__ == "__main__":
    main()
