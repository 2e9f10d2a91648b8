"""/proc, /sys and /boot behind an injectable root, so that every reader can be tested on a recorded tree."""

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from jitterprof.errors import UnsupportedError

_DIGITS = re.compile(r"(\d+)")


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts cpu2 before cpu10."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in _DIGITS.split(text) if part)


@dataclass(frozen=True, slots=True)
class Host:
    """A host's files. Paths are given as on the host ("/proc/stat") and looked up under `root`."""

    root: Path = Path("/")

    @property
    def live(self) -> bool:
        """True for the machine we run on: only then may system calls complete what files do not say."""
        return self.root == Path("/")

    def path(self, name: str) -> Path:
        """Where the host's `name` lies for us."""
        return self.root / name.lstrip("/")

    def exists(self, name: str) -> bool:
        """True when `name` is there, readable or not."""
        try:
            return self.path(name).exists()
        except OSError:
            return False

    def read_bytes(self, name: str) -> bytes | None:
        """The content, or None when it is not there or may not be read; `why_not` gives the reason."""
        try:
            return self.path(name).read_bytes()
        except OSError:
            return None

    def read_text(self, name: str) -> str | None:
        """The content without the final white space, or None as `read_bytes`."""
        content = self.read_bytes(name)
        return None if content is None else content.decode("utf-8", "replace").rstrip()

    def read_int(self, name: str) -> int | None:
        """The first word as an integer, or None when there is none."""
        words = (self.read_text(name) or "").split(maxsplit=1)
        try:
            return int(words[0], 0) if words else None
        except ValueError:
            return None

    def read_choice(self, name: str) -> str | None:
        """The bracketed word of a choice file ("always [madvise] never"), else its whole content."""
        text = self.read_text(name)
        if text is None:
            return None
        match = re.search(r"\[([^\]]*)\]", text) or re.search(r"\(([^)]*)\)", text)
        return match[1] if match else text

    def why_not(self, name: str) -> str:
        """Why `name` cannot be read, in a few words; "" when it can."""
        try:
            with self.path(name).open("rb") as file:
                file.read(1)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return f"{name} does not exist"
            return f"{name}: {os.strerror(error.errno or 0)}"
        return ""

    def require_text(self, name: str, hint: str = "") -> str:
        """The content, or UnsupportedError saying why not."""
        text = self.read_text(name)
        if text is None:
            raise UnsupportedError(f"cannot read {self.why_not(name)}", hint)
        return text

    def names(self, name: str) -> tuple[str, ...]:
        """What a directory holds, in natural order; empty when it cannot be listed."""
        try:
            return tuple(sorted((child.name for child in self.path(name).iterdir()), key=natural_key))
        except OSError:
            return ()

    def glob(self, pattern: str) -> tuple[str, ...]:
        """Host paths that match, in natural order ("/sys/devices/system/cpu/cpu[0-9]*/topology")."""
        try:
            found = ["/" + str(path.relative_to(self.root)) for path in self.root.glob(pattern.lstrip("/"))]
        except OSError:
            return ()
        return tuple(sorted(found, key=natural_key))
