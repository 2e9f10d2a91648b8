"""Which processes belong to the target: a mark per process number, which the programs read and pass on to children."""

import mmap
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

#: enum jp_mark, and PID_LIMIT, of probes/include/jitterprof.h.
MARK_FOLLOWED, MARK_CANARY, MARK_EVER = 1, 2, 4
PID_LIMIT = 4194304


class Processes:
    """The marks of all process numbers, mapped. Every process that a followed one starts is followed too."""

    def __init__(self, map_fd: int) -> None:
        self._map = mmap.mmap(map_fd, PID_LIMIT, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._marks: npt.NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)

    def follow(self, pids: Collection[int]) -> None:
        """From now on these belong to the target."""
        for pid in pids:
            self._marks[pid] = MARK_FOLLOWED | MARK_EVER

    def follow_canary(self, pid: int) -> None:
        """Traced like the target, but its children are not."""
        self._marks[pid] = MARK_CANARY

    def follow_descendants(self, proc: Path = Path("/proc")) -> None:
        """Follow what the followed ones have started already.

        Race-free once the fork probe is attached: a process that one of them starts while we look is either marked by
        the probe or found by the next look. One whose parent has ended meanwhile hangs on init, and is not found.
        """
        while found := self._unmarked_children(proc):
            self.follow(found)

    def _unmarked_children(self, proc: Path) -> list[int]:
        found = []
        for entry in proc.iterdir():
            if not entry.name.isdigit() or self._marks[int(entry.name)] & MARK_FOLLOWED:
                continue
            try:
                stat = (entry / "stat").read_bytes()
            except OSError:
                continue  # it has ended
            parent = int(stat.rpartition(b")")[2].split()[1])
            if self._marks[parent] & MARK_FOLLOWED:
                found.append(int(entry.name))
        return found

    def followed(self) -> tuple[int, ...]:
        """Every process that belonged to the target at some time, ascending."""
        return tuple(np.flatnonzero(self._marks & MARK_EVER).tolist())

    def close(self) -> None:
        """Unmap; the marks stay in force for the programs."""
        del self._marks
        self._map.close()
