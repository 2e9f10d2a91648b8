"""Addresses of kernel functions by name."""

from collections.abc import Collection

from jitterprof.system.files import Host


def symbol_addresses(host: Host, names: Collection[str]) -> dict[str, int]:
    """Name -> address from /proc/kallsyms, for those that are there and not hidden (kernel.kptr_restrict)."""
    wanted = {b" " + name.encode(): name for name in names}
    content = host.read_bytes("/proc/kallsyms") or b""
    found = {}
    for suffix, name in wanted.items():
        position = content.find(suffix + b"\n")
        if position >= 0:
            line = content[content.rfind(b"\n", 0, position) + 1 : position]
            if (address := int(line[:16], 16)) != 0:
                found[name] = address
    return found
