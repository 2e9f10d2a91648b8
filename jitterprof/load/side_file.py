"""Small append-only files beside the request rows (gc.stream, procfs.stream): a full disk is a caveat, not a crash."""

import os
from pathlib import Path

from jitterprof.errors import JitterprofError


class SideFile:
    """Whole rows appended as raw bytes. After a failed write nothing more is written and `error` says why."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise JitterprofError(f"cannot write {path}: {error.strerror}", "choose another --out directory") from None
        self.error = ""

    def append(self, rows: bytes) -> None:
        """Writes all of `rows`; never raises OSError."""
        if self.error:
            return
        rest = memoryview(rows)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self.error = f"{self._name} is incomplete: {error.strerror}"

    def close(self) -> None:
        os.close(self._file)
