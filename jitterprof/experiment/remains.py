"""What is left of a session that went wrong: kept where something was measured, removed where nothing was."""

from contextlib import suppress
from pathlib import Path

from jitterprof.load.request_file import progress
from jitterprof.model.request import Phase
from jitterprof.model.run import Manifest
from jitterprof.store import Run, open_run, write_manifest

#: All that a session writes into its directory before the tables.
_OURS = ("manifest.json", "manifest.json.tmp", "*.stream")


def anything_measured(out: Path) -> bool:
    """Whether a worker has completed a request of the measured part."""
    return any(progress(file).phase == Phase.MEASURED for file in out.glob("requests.*.stream"))


def discard(out: Path, keep_logs: bool) -> None:
    """Remove the run directory `out`, and nothing else: only files that we make ourselves. `keep_logs`: a child
    crashed, and what it wrote says why; its log then stays."""
    for pattern in _OURS:
        for file in out.glob(pattern):
            file.unlink(missing_ok=True)
    for log in out.glob("*.log"):
        if not keep_logs or not log.stat().st_size:
            log.unlink(missing_ok=True)
    with suppress(OSError):  # somebody put a file there, or it is a mount point: not ours to remove
        out.rmdir()


def reopen(out: Path, manifest: Manifest) -> Run:
    """The session from its streams, when the tables could not be written. Raises RunFileError."""
    with suppress(OSError):  # the disk may be too full even for that; the first manifest is there then
        write_manifest(out, manifest)
    return open_run(out)
