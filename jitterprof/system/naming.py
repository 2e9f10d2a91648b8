"""Names for the numbers in kernel events: interrupts, addresses, devices, cgroups, mappings."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from jitterprof.system import cgroup
from jitterprof.system.files import Host
from jitterprof.system.rights import kernel_symbols_visible


def irq_names(host: Host) -> dict[int, str]:
    """Interrupt number -> its action names ("virtio1-req.0"; several share one line: "a,b"). Lines in use only."""
    names = {}
    for row, (_counts, description) in interrupt_rows(host).items():
        if not row.isdigit():
            continue
        actions = host.read_text(f"/sys/kernel/irq/{row}/actions")
        # Without sysfs: the text after the chip and "5-edge"/"Level", which vary by architecture.
        words = re.split(r"\s{2,}|\s+\d+-\S+\s+|\s+(?:Edge|Level)\s+", description.strip())
        names[int(row)] = actions or (words[-1] if len(words) > 1 else description.strip())
    return names


def interrupt_rows(host: Host) -> dict[str, tuple[tuple[int, ...], str]]:
    """/proc/interrupts: row ("36", "LOC") -> (counts, one per CPU of the head line; the text behind them)."""
    lines = (host.read_text("/proc/interrupts") or "").splitlines()
    rows = {}
    columns = len(lines[0].split()) if lines else 0
    for line in lines[1:]:
        row, colon, rest = line.partition(":")
        if not colon:
            continue
        words = rest.split(maxsplit=columns)
        counts = []
        for word in words[:columns]:
            if not word.isdigit():
                break
            counts.append(int(word))
        description = rest.split(maxsplit=len(counts))[len(counts) :]
        rows[row.strip()] = (tuple(counts), description[0] if description else "")
    return rows


def kernel_symbols(host: Host, addresses: Iterable[int]) -> tuple[dict[int, str], str]:
    """Address -> name of the function it lies in; and why that is empty, if it is.

    One pass over /proc/kallsyms. Addresses outside the kernel and its modules have no entry.
    """
    wanted = np.unique(np.fromiter(addresses, dtype=np.uint64))
    wanted = wanted[wanted != 0]
    if wanted.size == 0:
        return {}, ""
    if not kernel_symbols_visible(host):
        reason = host.why_not("/proc/kallsyms") or "kernel.kptr_restrict or missing CAP_SYSLOG hides addresses"
        return {}, reason
    # Data symbols (b, d, r, v ...) would swallow the addresses between functions: text symbols only.
    lines = [
        line for line in (host.read_bytes("/proc/kallsyms") or b"").split(b"\n") if line and line[17:18] in b"tTwW"
    ]
    starts = np.array([int(line[:16], 16) for line in lines], dtype=np.uint64)
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    positions = np.searchsorted(starts, wanted, side="right") - 1
    found = {}
    for address, position in zip(wanted.tolist(), positions.tolist(), strict=True):
        # Far behind the last symbol of the kernel is not in it.
        if position < 0 or address - int(starts[position]) > 1 << 20:
            continue
        # Several names for one address: the first listed.
        first = int(np.searchsorted(starts, starts[position], side="left"))
        found[address] = lines[int(order[first])].split(b" ")[2].split(b"\t")[0].decode("ascii", "replace")
    return found, ""


def device_names(host: Host, devices: Iterable[int]) -> dict[int, str]:
    """dev_t of the kernel (major << 20 | minor) -> name ("vda", "vda1", "nvme0n1")."""
    names = {}
    for device in set(devices):
        major, minor = device >> 20, device & 0xFFFFF
        for line in (host.read_text(f"/sys/dev/block/{major}:{minor}/uevent") or "").splitlines():
            if line.startswith("DEVNAME="):
                names[device] = line.partition("=")[2]
        names.setdefault(device, f"{major}:{minor}")
    return names


def cgroup_paths(host: Host, ids: Iterable[int] | None = None) -> dict[int, str]:
    """kernfs id (inode number of the directory) -> path in the hierarchy of the cpu controller.

    Ids are unique within one hierarchy only, so no other hierarchy is searched. `ids` None: all there are.
    """
    hierarchy = cgroup.hierarchy_of(host, "cpu")
    if hierarchy is None:
        return {}
    wanted = None if ids is None else set(ids)
    top = host.path(hierarchy.mount)
    prefix = "" if hierarchy.root == "/" else hierarchy.root
    found: dict[int, str] = {}
    pending = [top]
    while pending and (wanted is None or wanted - found.keys()):
        directory = pending.pop()
        try:
            number = directory.stat().st_ino
            children = [child for child in directory.iterdir() if child.is_dir()]
        except OSError:
            continue  # A cgroup may vanish while we walk; its id then stays a number.
        if wanted is None or number in wanted:
            found[number] = prefix + "/" + str(directory.relative_to(top)).removeprefix(".")
        pending.extend(children)
    return found


_SPECIAL: Mapping[str, str] = {"[heap]": "heap", "[stack]": "stack", "[vdso]": "vdso", "[vvar]": "vdso"}


def memory_maps(host: Host, pid: int) -> tuple[tuple[int, int, str], ...]:
    """Rows (start, end, what) of a process's address space, ascending; neighbours that are the same are one row.

    what: "anonymous", "heap", "stack", "vdso", "file:NAME" (last part of the path), "shm:NAME", "[other]".
    Empty when the process is gone or not ours to look at.
    """
    rows: list[tuple[int, int, str]] = []
    for line in (host.read_text(f"/proc/{pid}/maps") or "").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 5:
            continue
        start, _, end = fields[0].partition("-")
        what = _what(fields[5].strip() if len(fields) > 5 else "")
        if rows and rows[-1][1] == int(start, 16) and rows[-1][2] == what:
            rows[-1] = (rows[-1][0], int(end, 16), what)
        else:
            rows.append((int(start, 16), int(end, 16), what))
    return tuple(rows)


def _what(name: str) -> str:
    if not name or name.startswith("[anon"):
        return "anonymous"
    if name.startswith("["):
        return _SPECIAL.get(
            name, "stack" if name.startswith("[stack") else "vdso" if name.startswith("[vvar") else name
        )
    if name == "/dev/zero (deleted)":  # what MAP_SHARED | MAP_ANONYMOUS is called
        return "anonymous"
    base = name.removesuffix(" (deleted)").rsplit("/", 1)[-1]
    return f"shm:{base}" if name.startswith(("/dev/shm/", "/memfd:", "/SYSV")) else f"file:{base}"
