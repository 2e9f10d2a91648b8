"""A knob: what can be set on a host, where it lives, whether it is there and what it says. Reading only."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from jitterprof.system import cgroup, kernel_calls, rights
from jitterprof.system.cpus import format_cpu_list
from jitterprof.system.files import Host


class Lifetime(StrEnum):
    """How long a setting lasts, which decides how it is undone."""

    FD = "fd"  # as long as a file is held open: SIGKILL undoes it
    THREAD = "thread"  # dies with the thread; inherited on fork
    KERNEL = "kernel"  # until somebody writes again, or reboot
    BOOT = "boot"  # needs another boot
    RESTART = "restart"  # needs a restart of the application


class Access(StrEnum):
    """How a knob is read."""

    FILE = "file"  # one file, its content
    CHOICE = "choice"  # one file with the choice in brackets
    DEBUGFS = "debugfs"
    MANY = "many"  # a glob of files; the distinct values
    CGROUP = "cgroup"  # a file in the cgroup of the process: "v2 name|v1 name|controller"
    THREAD = "thread"
    RUNTIME = "runtime"
    IRQ = "irq"
    DEVICE = "device"  # a character device
    BOOT = "boot"


@dataclass(frozen=True, slots=True)
class Knob:
    """One knob. `id` ends in ":" where it takes a target ("irq.affinity:virtio1-req.0"). `where`: by `access`."""

    id: str
    title: str
    lifetime: Lifetime
    access: Access
    where: str = ""

    def available(self, host: Host) -> tuple[bool, str]:
        """(True, "") when it could be set here and by us, else (False, why and what to do)."""
        return _AVAILABLE[self.access](self, host)

    def read(self, host: Host) -> str | None:
        """The value now, or None when it cannot be read; several distinct values are joined by ", "."""
        return _READ[self.access](self, host)


_ABSENT = "not on this host (kernel option or driver missing)"
_NEEDS_ROOT = "needs root"


def _writable(host: Host, path: str) -> tuple[bool, str]:
    # The mode first: kernel files with 0444 refuse root as well, while access() says yes to root.
    try:
        mode = host.path(path).stat().st_mode
    except OSError:
        return False, _ABSENT if not host.exists(path) else f"{path} cannot be examined"
    if not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        return False, "read-only in this kernel"
    if not os.access(host.path(path), os.W_OK):
        if host.live and os.statvfs(path).f_flag & os.ST_RDONLY:
            return False, "mounted read-only (container: run it privileged, or on the host)"
        return False, _NEEDS_ROOT
    return True, ""


def _file_available(knob: Knob, host: Host) -> tuple[bool, str]:
    return _writable(host, knob.where)


def _debugfs_available(knob: Knob, host: Host) -> tuple[bool, str]:
    if not host.names("/sys/kernel/debug"):
        why = host.why_not("/sys/kernel/debug/sched/debug")
        if "Permission denied" in why:
            return False, "debugfs needs root"
        return False, "debugfs is not mounted: mount -t debugfs debugfs /sys/kernel/debug"
    if not host.exists(knob.where):
        return False, _ABSENT
    mode, _how = rights.lockdown_mode(host)
    if mode not in (None, "none"):
        return False, f"kernel lockdown ({mode}) forbids debugfs even to root; off only with Secure Boot off"
    if "not permitted" in host.why_not(knob.where):
        return False, "the kernel forbids debugfs (lockdown); off only with Secure Boot off"
    return _writable(host, knob.where)


def _many_available(knob: Knob, host: Host) -> tuple[bool, str]:
    paths = host.glob(knob.where)
    if not paths:
        return False, _ABSENT
    checks = [_writable(host, path) for path in paths]
    return next((check for check in checks if check[0]), checks[0])


def _cgroup_file(knob: Knob, host: Host) -> tuple[str | None, str]:
    v2_name, v1_name, controller = knob.where.split("|")
    hierarchy = cgroup.hierarchy_of(host, controller)
    if hierarchy is None:
        return None, f"no cgroup controller '{controller}' is mounted"
    name = v2_name if hierarchy.version == 2 else v1_name
    own = cgroup.cgroup_directory(host, "self", controller)
    if not name:
        return None, "cgroup v1 has no such file"
    return (f"{own}/{name}" if own else hierarchy.mount + "/" + name), ""


def _cgroup_available(knob: Knob, host: Host) -> tuple[bool, str]:
    path, reason = _cgroup_file(knob, host)
    if path is None:
        return False, reason
    hierarchy = cgroup.hierarchy_of(host, knob.where.split("|")[2])
    if host.exists(path):
        return _writable(host, path)
    # The root group has no limits of its own; a child group, made for the workload, has.
    own = cgroup.cgroup_directory(host, "self", knob.where.split("|")[2])
    if hierarchy is not None and own == hierarchy.mount and hierarchy.root == "/":
        return (True, "") if os.access(host.path(own), os.W_OK) else (False, _NEEDS_ROOT)
    controller = knob.where.split("|")[2]
    if hierarchy is not None and hierarchy.version == 2 and controller not in hierarchy.controllers:
        return False, f"the cgroup controller '{controller}' is not delegated here"
    return False, _ABSENT


def _thread_available(knob: Knob, host: Host) -> tuple[bool, str]:
    if not host.live:
        return True, ""
    if knob.id == "slice" and kernel_calls.get_scheduling().runtime_ns == 0:
        return False, "custom slices need Linux 6.12 or newer"
    if knob.id == "policy" and not rights.may_use_real_time():
        return False, "FIFO and RR need CAP_SYS_NICE or ulimit -r; BATCH and IDLE work without"
    held = rights.effective_capabilities(host)
    if knob.id == "nice" and "CAP_SYS_NICE" not in held:
        return False, "values below the present one need CAP_SYS_NICE; higher ones work without"
    if knob.id == "mlock" and "CAP_IPC_LOCK" not in held:
        return False, "needs CAP_IPC_LOCK or a larger ulimit -l"
    if knob.id == "neighbour.policy:" and "CAP_SYS_NICE" not in held:
        return False, "other users' tasks, and the way back from IDLE, need CAP_SYS_NICE"
    return True, ""


def _irq_available(_knob: Knob, host: Host) -> tuple[bool, str]:
    paths = host.glob("/proc/irq/[0-9]*/smp_affinity_list")
    if not paths:
        return False, _ABSENT
    checks = [_writable(host, path) for path in paths]
    return next((check for check in checks if check[0]), checks[0])


def _runtime_available(_knob: Knob, _host: Host) -> tuple[bool, str]:
    return True, ""


def _boot_available(_knob: Knob, host: Host) -> tuple[bool, str]:
    if not host.glob("/boot/grub*/grub.cfg") and not host.exists("/boot/loader/entries"):
        return False, "no GRUB or loader entries in /boot; use a VM arm or `jitterprof compare`"
    return True, ""


def _read_file(knob: Knob, host: Host) -> str | None:
    text = host.read_text(knob.where)
    return None if text is None else " ".join(text.split())


def _read_choice(knob: Knob, host: Host) -> str | None:
    return host.read_choice(knob.where)


def _read_many(knob: Knob, host: Host) -> str | None:
    values = {value for path in host.glob(knob.where) if (value := host.read_choice(path)) is not None}
    return ", ".join(sorted(values)) or None


def _read_cgroup(knob: Knob, host: Host) -> str | None:
    path, _reason = _cgroup_file(knob, host)
    return None if path is None else host.read_text(path)


def _read_thread(knob: Knob, host: Host) -> str | None:
    if not host.live or knob.id not in _THREAD_READERS:
        return None
    return _THREAD_READERS[knob.id]()


def _read_policy() -> str:
    names = {os.SCHED_OTHER: "OTHER", os.SCHED_BATCH: "BATCH", os.SCHED_IDLE: "IDLE"}
    names |= {os.SCHED_FIFO: "FIFO", os.SCHED_RR: "RR", 6: "DEADLINE", 7: "EXT"}
    now = kernel_calls.get_scheduling()
    name = names.get(now.policy, str(now.policy))
    return f"{name}:{now.priority}" if now.priority else name


#: For the calling thread, from which the workload inherits.
_THREAD_READERS: dict[str, Callable[[], str]] = {
    "slice": lambda: f"{kernel_calls.get_scheduling().runtime_ns}ns",
    "nice": lambda: str(kernel_calls.get_scheduling().nice),
    "policy": _read_policy,
    "affinity": lambda: format_cpu_list(os.sched_getaffinity(0)),
    "timerslack": lambda: f"{kernel_calls.timer_slack_ns()}ns",
}


def _read_boot(knob: Knob, host: Host) -> str | None:
    return host.read_text("/proc/sys/kernel/osrelease" if knob.id == "kernel" else "/proc/cmdline")


def _read_nothing(_knob: Knob, _host: Host) -> str | None:
    return None


_AVAILABLE: dict[Access, Callable[[Knob, Host], tuple[bool, str]]] = {
    Access.FILE: _file_available,
    Access.CHOICE: _file_available,
    Access.DEVICE: _file_available,
    Access.DEBUGFS: _debugfs_available,
    Access.MANY: _many_available,
    Access.CGROUP: _cgroup_available,
    Access.THREAD: _thread_available,
    Access.RUNTIME: _runtime_available,
    Access.IRQ: _irq_available,
    Access.BOOT: _boot_available,
}
_READ: dict[Access, Callable[[Knob, Host], str | None]] = {
    Access.FILE: _read_file,
    Access.CHOICE: _read_choice,
    Access.DEBUGFS: _read_choice,
    Access.MANY: _read_many,
    Access.CGROUP: _read_cgroup,
    Access.THREAD: _read_thread,
    Access.BOOT: _read_boot,
    Access.RUNTIME: _read_nothing,
    Access.IRQ: _read_nothing,
    Access.DEVICE: _read_nothing,
}
