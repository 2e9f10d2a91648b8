"""The facts of a kernel that decide timing: HZ, HRTICK, preemption mode, base slice; each with how it is known."""

import gzip
import re
import struct
import zlib
from dataclasses import dataclass

from jitterprof.system import kernel_calls
from jitterprof.system.files import Host

_SCHED_DEBUG = "/sys/kernel/debug/sched/debug"
_SCHED_FEATURES = "/sys/kernel/debug/sched/features"
_NO_DEBUGFS = "debugfs is not mounted (mount -t debugfs debugfs /sys/kernel/debug)"


@dataclass(frozen=True, slots=True)
class Fact:
    """A value and where it came from; `value` is None when unknown, and `how` then says why."""

    value: str | int | None
    how: str


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """{HZ, HRTICK, preempt, base slice}: never HZ alone, because HRTICK makes HZ irrelevant on new kernels."""

    release: str
    version: str
    machine: str
    hz: Fact
    hrtick: Fact
    preempt: Fact
    base_slice_ns: Fact


def read_config(host: Host) -> tuple[dict[str, str], str]:
    """Build options without the CONFIG_ prefix ("HZ" -> "250"), and the file they came from ("" when none is there)."""
    release = host.read_text("/proc/sys/kernel/osrelease") or ""
    for path in ("/proc/config.gz", f"/boot/config-{release}", f"/usr/lib/modules/{release}/config"):
        content = host.read_bytes(path)
        if not content:
            continue
        if path.endswith(".gz"):
            try:
                content = gzip.decompress(content)
            except (OSError, EOFError, zlib.error):
                continue
        found = re.findall(r"^CONFIG_(\w+)=(.*)$", content.decode("utf-8", "replace"), re.MULTILINE)
        return {name: value.strip('"') for name, value in found}, path
    return {}, ""


def command_line(host: Host) -> tuple[str, ...]:
    """Boot parameters up to "--"."""
    words = (host.read_text("/proc/cmdline") or "").split()
    return tuple(words[: words.index("--")] if "--" in words else words)


def boot_option(host: Host, name: str) -> str | None:
    """Value of the last `name=value` on the kernel command line."""
    values = [word.partition("=")[2] for word in command_line(host) if word.startswith(name + "=")]
    return values[-1] if values else None


def _hz(host: Host, config: dict[str, str], source: str) -> Fact:
    if config.get("HZ", "").isdigit():
        return Fact(int(config["HZ"]), source)
    measured = kernel_calls.clock_resolution_hz() if host.live else None
    if measured is not None:
        return Fact(measured, "resolution of CLOCK_MONOTONIC_COARSE")
    return Fact(None, "no /proc/config.gz and no /boot/config")


def feature_bit(btf: bytes, feature: str) -> int | None:
    """Bit of a scheduler feature in sysctl_sched_features: the enum of the running kernel, from its BTF.

    The order of the bits is no ABI, so a table by version would be wrong sooner or later.
    """
    if len(btf) < 24 or btf[:2] != b"\x9f\xeb":
        return None
    header, types_at, types_len, strings_at, strings_len = struct.unpack_from("<4xIIIII", btf)
    strings = btf[header + strings_at : header + strings_at + strings_len]
    types = btf[header + types_at : header + types_at + types_len]
    at = strings.find(b"\0__SCHED_FEAT_" + feature.encode() + b"\0")
    if at < 0:
        return None
    # struct btf_enum {name offset, value}: look the name up, and take it only beside another member of the same enum.
    needle, found = struct.pack("<I", at + 1), -1
    while (found := types.find(needle, found + 1)) >= 0:
        if found % 4 or found < 8 or found + 16 > len(types):
            continue
        before, _, _, value, after, _ = struct.unpack_from("<IIIIII", types, found - 8)
        beside = (strings[offset : offset + 13] for offset in (before, after) if offset < len(strings))
        if value < 64 and b"__SCHED_FEAT_" in beside:
            return int(value)
    return None


def _hrtick(host: Host, config: dict[str, str]) -> Fact:
    if config and config.get("SCHED_HRTICK") != "y":
        return Fact("off", "not built (CONFIG_SCHED_HRTICK)")
    features = host.read_text(_SCHED_FEATURES)
    if features is not None:
        names = features.split()
        state = "on" if "HRTICK" in names else "off" if "NO_HRTICK" in names else None
        return Fact(state, _SCHED_FEATURES)
    debug = host.read_text(_SCHED_DEBUG)
    if debug is None:
        return Fact(None, _why_no_debug(host))
    mask = re.search(r"sysctl_sched_features\s*:\s*(\d+)", debug)
    bit = feature_bit(host.read_bytes("/sys/kernel/btf/vmlinux") or b"", "HRTICK") if mask else None
    if mask is None or bit is None:
        return Fact(None, "the feature mask cannot be decoded without BTF")
    return Fact("on" if int(mask[1]) >> bit & 1 else "off", f"{_SCHED_DEBUG}, bit {bit} by BTF")


def _why_no_debug(host: Host) -> str:
    reason = host.why_not(_SCHED_DEBUG)
    if "does not exist" in reason:
        return _NO_DEBUGFS if not host.names("/sys/kernel/debug") else reason
    return "debugfs needs root" if "Permission denied" in reason else reason


def _preempt(host: Host, config: dict[str, str], source: str) -> Fact:
    version = host.read_text("/proc/sys/kernel/version") or ""
    if host.read_int("/sys/kernel/realtime") == 1 or "PREEMPT_RT" in version:
        return Fact("rt", "kernel version")
    chosen = host.read_choice("/sys/kernel/debug/sched/preempt")
    if chosen is not None:
        return Fact(chosen, "/sys/kernel/debug/sched/preempt")
    option = boot_option(host, "preempt")
    if option is not None and "PREEMPT_DYNAMIC" in version:
        return Fact(option, "kernel command line")
    for name, mode in (
        ("PREEMPT_NONE", "none"),
        ("PREEMPT_VOLUNTARY", "voluntary"),
        ("PREEMPT_LAZY", "lazy"),
        ("PREEMPT", "full"),
    ):
        if config.get(name) == "y":
            changed = "; debugfs may have changed it since" if "PREEMPT_DYNAMIC" in config else ""
            return Fact(mode, f"default of {source}{changed}")
    if "PREEMPT_DYNAMIC" not in version and re.search(r"\bPREEMPT\b", version):
        return Fact("full", "kernel version")
    return Fact(None, "neither debugfs nor a kernel configuration says")


def _base_slice(host: Host) -> Fact:
    debug = host.read_text(_SCHED_DEBUG)
    found = re.search(r"(sysctl_sched_base_slice|sysctl_sched_min_granularity)\s*:\s*([\d.]+)", debug or "")
    if found is not None:
        return Fact(round(float(found[2]) * 1e6), f"{_SCHED_DEBUG}, {found[1].removeprefix('sysctl_sched_')}")
    if host.live:
        own = kernel_calls.get_scheduling()
        if own.policy in (0, 3) and own.runtime_ns:
            return Fact(own.runtime_ns, "sched_getattr of this thread")
        if own.policy in (0, 3):
            return Fact(None, f"sched_getattr has no slice before Linux 6.12, and {_why_no_debug(host)}")
    return Fact(None, _why_no_debug(host))


def kernel_facts(host: Host) -> KernelFacts:
    """What decides timing in this kernel. Never raises: what cannot be known is None with the reason."""
    config, source = read_config(host)
    return KernelFacts(
        release=host.read_text("/proc/sys/kernel/osrelease") or "",
        version=host.read_text("/proc/sys/kernel/version") or "",
        machine=_machine(host),
        hz=_hz(host, config, source),
        hrtick=_hrtick(host, config),
        preempt=_preempt(host, config, source),
        base_slice_ns=_base_slice(host),
    )


def _machine(host: Host) -> str:
    if host.live:
        import platform

        return platform.machine()
    return host.read_text("/proc/sys/kernel/arch") or ""
