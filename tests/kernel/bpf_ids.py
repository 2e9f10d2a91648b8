"""Which BPF objects a process holds, and whether the kernel still has them (bpf(2))."""

import ctypes
import errno
import os
import platform
from pathlib import Path

_SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
#: BPF_*_GET_FD_BY_ID by the name of the id in fdinfo (include/uapi/linux/bpf.h).
_BY_ID = {"prog_id": 13, "map_id": 14, "link_id": 30}
_LIBC = ctypes.CDLL(None, use_errno=True)


def held(pid: int | str = "self") -> set[tuple[str, int]]:
    """("prog_id", 17) and so on: what the open descriptors of a process name. A link names its program too."""
    found = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            lines = info.read_text().splitlines()
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        for line in lines:
            name, _, value = line.partition(":")
            if name in _BY_ID:
                found.add((name, int(value)))
    return found


def perf_events(pid: int | str = "self") -> int:
    """How many perf events a process holds open."""
    links = [link for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return sum(os.path.lexists(link) and str(link.readlink()) == "anon_inode:[perf_event]" for link in links)


def exists(kind: str, number: int) -> bool:
    """Whether the kernel still has the object with this id."""
    attr = (ctypes.c_uint32 * 32)(number)
    fd = _LIBC.syscall(_SYS_BPF, _BY_ID[kind], ctypes.byref(attr), ctypes.sizeof(attr))
    if fd >= 0:
        os.close(fd)
        return True
    code = ctypes.get_errno()
    if code == errno.ENOENT:
        return False
    raise OSError(code, os.strerror(code))
