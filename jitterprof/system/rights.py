"""What this process may do, found by trying where that leaves no trace, else from its effective capabilities."""

import errno
import os
import resource
from dataclasses import dataclass

from jitterprof.system import kernel_calls
from jitterprof.system.files import Host

#: include/uapi/linux/capability.h; only those that matter here.
CAPABILITIES: dict[str, int] = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_KILL": 5,
    "CAP_NET_ADMIN": 12,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,
    "CAP_SYSLOG": 34,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}

#: What the probes need, by name of a Right.
BPF_RIGHTS = ("load BPF", "trace the kernel")


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that the profiler would like to do. `reason` and `fix` are empty when it may."""

    name: str
    granted: bool
    reason: str = ""
    fix: str = ""


def effective_capabilities(host: Host, pid: int | str = "self") -> frozenset[str]:
    """Names (of CAPABILITIES) that a process has in effect."""
    for line in (host.read_text(f"/proc/{pid}/status") or "").splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
            return frozenset(name for name, bit in CAPABILITIES.items() if mask >> bit & 1)
    return frozenset()


def in_initial_user_namespace(host: Host) -> bool:
    """False inside a user namespace (rootless container), where capabilities do not reach the kernel at large."""
    words = (host.read_text("/proc/self/uid_map") or "0 0 4294967295").split()
    return words[:3] == ["0", "0", "4294967295"]


def may_use_real_time() -> bool:
    """Try SCHED_FIFO on the calling thread for an instant and put its policy back."""
    policy = os.sched_getscheduler(0)
    parameter = os.sched_getparam(0)
    attributes = None if policy in (os.SCHED_FIFO, os.SCHED_RR) else policy
    if attributes is None:
        return True
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        return False
    os.sched_setscheduler(0, policy, parameter)
    return True


def _namespace_note(host: Host) -> str:
    return "" if in_initial_user_namespace(host) else " (in a user namespace: rootless container)"


def check_rights(host: Host) -> tuple[Right, ...]:
    """Every right, tried on the live host; on a recorded tree the capabilities of its /proc/self decide."""
    held = effective_capabilities(host)
    note = _namespace_note(host)
    if host.live:
        refusal = kernel_calls.try_bpf()
        bpf, why = refusal == 0, f"bpf(): {os.strerror(refusal)}{note}"
        perf_refusal = kernel_calls.try_kernel_perf_event()
        perf, perf_why = perf_refusal == 0, f"perf_event_open(): {os.strerror(perf_refusal)}{note}"
        fifo = may_use_real_time()
    else:
        bpf = bool(held & {"CAP_BPF", "CAP_SYS_ADMIN"})
        perf = bool(held & {"CAP_PERFMON", "CAP_SYS_ADMIN"})
        fifo = "CAP_SYS_NICE" in held
        why = perf_why = "the capability is not held"
        refusal = 0 if bpf else errno.EPERM

    def right(name: str, granted: bool, reason: str, fix: str) -> Right:
        return Right(name, True) if granted else Right(name, False, reason, fix)

    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] if host.live else 0
    unlimited = "CAP_IPC_LOCK" in held or locked == resource.RLIM_INFINITY
    initial = in_initial_user_namespace(host)
    bpf_fix = "boot a kernel with CONFIG_BPF_SYSCALL" if refusal == errno.ENOSYS else _escalate("BPF", initial)
    return (
        right(BPF_RIGHTS[0], bpf, why, bpf_fix),
        right(BPF_RIGHTS[1], perf, perf_why, _escalate("PERFMON", initial)),
        right("real-time policy", fifo, "SCHED_FIFO refused", _escalate("SYS_NICE", initial) + ", or ulimit -r 99"),
        right(
            "lock memory",
            unlimited,
            f"limited to {locked // 1024} KiB",
            _escalate("IPC_LOCK", initial) + ", or ulimit -l unlimited",
        ),
        right(
            "host settings",
            "CAP_SYS_ADMIN" in held and initial,
            f"no CAP_SYS_ADMIN{note} for sysctl, irq affinity, cgroups",
            _escalate("SYS_ADMIN", initial),
        ),
        right(
            "others' processes",
            "CAP_SYS_PTRACE" in held and initial,
            f"no CAP_SYS_PTRACE{note}: only your own can be examined",
            _escalate("SYS_PTRACE", initial),
        ),
        right(
            "kernel symbols",
            kernel_symbols_visible(host),
            "/proc/kallsyms hides the addresses",
            _escalate("SYSLOG", initial),
        ),
    )


def _escalate(capability: str, initial: bool) -> str:
    if not initial:
        return "run on the host, or in a rootful container"
    return f"run as root; in a container --cap-add={capability}"


def kernel_symbols_visible(host: Host) -> bool:
    """True when /proc/kallsyms shows addresses and not zeros."""
    try:
        with host.path("/proc/kallsyms").open("rb") as file:
            return int(file.readline().split(b" ", 1)[0] or b"0", 16) != 0
    except (OSError, ValueError):
        return False


def lockdown_mode(host: Host) -> tuple[str | None, str]:
    """("none" | "integrity" | "confidentiality", how we know), or (None, why it is unknown)."""
    mode = host.read_choice("/sys/kernel/security/lockdown")
    if mode is not None:
        return mode, "/sys/kernel/security/lockdown"
    # Lockdown forbids opening debugfs files that are writable, even to root: that much can be seen without securityfs.
    if host.live and os.geteuid() == 0:
        path = host.path("/sys/kernel/debug/sched/features")
        try:
            with path.open("rb"):
                return "none", "writable debugfs files open"
        except PermissionError:
            return "integrity", "debugfs refuses root; integrity or stricter"
        except OSError:
            pass
    return None, "securityfs is not mounted (mount -t securityfs securityfs /sys/kernel/security)"
