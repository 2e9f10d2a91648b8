"""What is left of a session that went wrong: kept where something was measured, removed where nothing was."""

from pathlib import Path

from jitterprof.load.request_file import progress
from jitterprof.model.request import Phase

#: All that a session writes into its directory before the tables.
_OURS = ("manifest.json", "manifest.json.tmp", "*.log", "*.stream")


def anything_measured(out: Path) -> bool:
    """Whether a worker has completed a request of the measured part."""
    return any(progress(file).phase == Phase.MEASURED for file in out.glob("requests.*.stream"))


def discard(out: Path) -> None:
    """Remove the run directory `out`, and nothing else: only files that we make ourselves."""
    for pattern in _OURS:
        for file in out.glob(pattern):
            file.unlink(missing_ok=True)
    try:
        out.rmdir()
    except OSError:
        return  # somebody put a file there, or it is a mount point: not ours to remove
