"""Settings that die with the workload's process: thread attributes and runtime options. Nothing of the host changes.

A setting is a pair (knob id, value) as in `RunSpec.settings`; `parse_settings` has checked it.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterable, Sequence

from jitterprof.errors import SpecError, UnsupportedError
from jitterprof.system import kernel_calls
from jitterprof.system.cpus import format_cpu_list, parse_cpu_list, validate_cpus
from jitterprof.system.files import Host
from jitterprof.system.knobs import find_knob
from jitterprof.units import NS_PER_MS, parse_duration_ns

Setting = tuple[str, str]

POLICIES: dict[str, int] = {
    "OTHER": os.SCHED_OTHER,
    "BATCH": os.SCHED_BATCH,
    "IDLE": os.SCHED_IDLE,
    "FIFO": os.SCHED_FIFO,
    "RR": os.SCHED_RR,
}
_REAL_TIME = ("FIFO", "RR")
#: The kernel clamps to this range in silence (kernel/sched/syscalls.c), so values outside are refused.
MIN_SLICE_NS, MAX_SLICE_NS = NS_PER_MS // 10, 100 * NS_PER_MS
_CHOICES: dict[str, tuple[str, ...]] = {
    "mlock": ("on", "off"),
    "runtime.spinning": ("on", "off"),
    "runtime.gc": ("frozen", "on"),
    "runtime.omp_wait_policy": ("active", "passive"),
}


def _integer(knob: str, text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise SpecError(f"{knob}={text}: not a whole number from {low} to {high}", f"write for example {knob}={low}")
    return value


def parse_policy(text: str) -> tuple[str, int]:
    """Name and real-time priority (0 for the fair policies) of "FIFO:10", "FIFO" (priority 1), "batch"."""
    name, colon, priority = text.upper().partition(":")
    name = name.removeprefix("SCHED_")
    if name not in POLICIES:
        raise SpecError(f"policy={text}: no such scheduling policy", f"known: {', '.join(POLICIES)}; FIFO:10 sets 10")
    if name not in _REAL_TIME:
        if colon:
            raise SpecError(f"policy={text}: {name} has no priority", f"write policy={name}, and nice=N for its weight")
        return name, 0
    return name, _integer("policy priority", priority, 1, 99) if colon else 1


def _canonical_policy(text: str) -> str:
    name, priority = parse_policy(text)
    return f"{name}:{priority}" if name in _REAL_TIME else name


def _slice_ns(text: str) -> int:
    value = parse_duration_ns(text)
    if not MIN_SLICE_NS <= value <= MAX_SLICE_NS:
        raise SpecError(f"slice={text}: the kernel takes 0.1 ms to 100 ms only", "write for example slice=3ms")
    return value


def _slack_ns(text: str) -> int:
    value = parse_duration_ns(text)
    if value < 1:
        raise SpecError(f"timerslack={text}: must be 1 ns or more", "write for example timerslack=1us")
    return value


def _choice(knob: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text.lower() not in _CHOICES[knob]:
            raise SpecError(f"{knob}={text}: not a value of {knob}", f"known: {', '.join(_CHOICES[knob])}")
        return text.lower()

    return check


#: Knob id -> function that checks a value and gives its canonical spelling. Order = order of application:
#: sched_setscheduler and setpriority leave a slice alone, so it comes after them.
_CHECKS: dict[str, Callable[[str], str]] = {
    "mlock": _choice("mlock"),
    "affinity": lambda text: format_cpu_list(validate_cpus(Host(), parse_cpu_list(text))),
    "policy": _canonical_policy,
    "nice": lambda text: str(_integer("nice", text, -20, 19)),
    "slice": lambda text: f"{_slice_ns(text)}ns",
    "timerslack": lambda text: f"{_slack_ns(text)}ns",
    "runtime.threads": lambda text: str(_integer("runtime.threads", text, 1, 4096)),
    "runtime.spinning": _choice("runtime.spinning"),
    "runtime.gc": _choice("runtime.gc"),
    "runtime.omp_wait_policy": _choice("runtime.omp_wait_policy"),
    # Not a knob, but given the same way; the backend knows what a shape is and checks it.
    "input.shape": lambda text: text,
}
SETTING_IDS: tuple[str, ...] = tuple(_CHECKS)


def parse_settings(texts: Iterable[str]) -> tuple[Setting, ...]:
    """Pairs of "KNOB=VALUE" texts, checked, spelled canonically, in order of application.

    Raises SpecError for an unknown knob or a bad value, UnsupportedError for a knob that would change the host.
    """
    chosen: dict[str, str] = {}
    for text in texts:
        knob, equals, value = text.partition("=")
        knob, value = knob.strip(), value.strip()
        if not equals or not knob or not value:
            raise SpecError(f"'{text}' is not KNOB=VALUE", "write for example policy=FIFO or slice=3ms")
        if knob not in _CHECKS:
            if find_knob(knob) is not None:
                raise UnsupportedError(
                    f"'{knob}' changes the host, not just the workload; `run --set` does not do that",
                    f"it arrives with `jitterprof ab` and `jitterprof knobs`; --set takes {', '.join(SETTING_IDS)}",
                )
            raise SpecError(f"no setting is called '{knob}'", f"known: {', '.join(SETTING_IDS)}")
        if knob in chosen:
            raise SpecError(f"'{knob}' is set twice", "give each setting once")
        chosen[knob] = _CHECKS[knob](value)
    if "slice" in chosen and parse_policy(chosen.get("policy", "OTHER"))[0] not in ("OTHER", "BATCH"):
        raise SpecError(f"slice has no effect under policy={chosen['policy']}", "use slice with OTHER or BATCH")
    if "timerslack" in chosen and parse_policy(chosen.get("policy", "OTHER"))[0] in _REAL_TIME:
        raise SpecError(
            f"timerslack has no effect under policy={chosen['policy']}", "real-time threads have none: leave it out"
        )
    return tuple((knob, chosen[knob]) for knob in _CHECKS if knob in chosen)


def runtime_settings(settings: Sequence[Setting]) -> tuple[Setting, ...]:
    """The part that the backend or the generator acts on: `runtime.*`."""
    return tuple(pair for pair in settings if pair[0].startswith("runtime."))


def runtime_environment(settings: Sequence[Setting]) -> dict[str, str]:
    """Environment variables that must be set before the workload's process loads its runtime."""
    policy = dict(settings).get("runtime.omp_wait_policy")
    return {} if policy is None else {"OMP_WAIT_POLICY": policy.upper()}


def apply_to_thread(tid: int, settings: Sequence[Setting]) -> tuple[Setting, ...]:
    """Apply the thread attributes among `settings` to `tid` (0: the caller) and return what the kernel then reports.

    `mlock` covers the whole calling process. `runtime.*` is left to the backend. Raises UnsupportedError when the
    kernel refuses, or takes the call and does something else.
    """
    effective: list[Setting] = []
    wanted = dict(settings)
    for knob, (apply, read) in _ACTIONS.items():
        if knob not in wanted:
            continue
        value = wanted[knob]
        try:
            apply(tid, value)
        except OSError as error:
            raise UnsupportedError(
                f"cannot set {knob}={value} on thread {tid or os.getpid()}: {error.strerror}", _hint(knob, error)
            ) from error
        now = read(tid)
        if now != value:
            raise UnsupportedError(f"{knob}={value} did not take: the kernel reports {now}", _hint(knob, None))
        effective.append((knob, now))
    return tuple(effective)


def _set_policy(tid: int, value: str) -> None:
    name, priority = parse_policy(value)
    os.sched_setscheduler(tid, POLICIES[name], os.sched_param(priority))


def _read_policy(tid: int) -> str:
    number = os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK
    name = next((name for name, policy in POLICIES.items() if policy == number), str(number))
    return f"{name}:{os.sched_getparam(tid).sched_priority}" if name in _REAL_TIME else name


def _set_slice(tid: int, value: str) -> None:
    now = kernel_calls.get_scheduling(tid)
    wanted = kernel_calls.SchedulingAttributes(now.policy, now.flags, now.nice, now.priority, parse_duration_ns(value))
    kernel_calls.set_scheduling(tid, wanted)


def _is_caller(tid: int) -> bool:
    return tid in (0, threading.get_native_id())


def _set_slack(tid: int, value: str) -> None:
    slack_ns = parse_duration_ns(value)
    if _is_caller(tid):
        kernel_calls.set_timer_slack_ns(slack_ns)
    else:
        Host().path(f"/proc/{tid}/timerslack_ns").write_text(str(slack_ns))


def _read_slack(tid: int) -> str:
    if _is_caller(tid):
        return f"{kernel_calls.timer_slack_ns()}ns"
    return f"{Host().read_int(f'/proc/{tid}/timerslack_ns')}ns"


def _memory_locked(_tid: int) -> str:
    text = Host().require_text("/proc/self/status")
    locked = next((line.split()[1] for line in text.splitlines() if line.startswith("VmLck:")), "0")
    return "on" if int(locked) > 0 else "off"


#: In order of application, as in _CHECKS.
_ACTIONS: dict[str, tuple[Callable[[int, str], None], Callable[[int], str]]] = {
    "mlock": (lambda _tid, value: kernel_calls.lock_memory(value == "on"), _memory_locked),
    "affinity": (
        lambda tid, value: os.sched_setaffinity(tid, parse_cpu_list(value)),
        lambda tid: format_cpu_list(os.sched_getaffinity(tid)),
    ),
    "policy": (_set_policy, _read_policy),
    "nice": (
        lambda tid, value: os.setpriority(os.PRIO_PROCESS, tid, int(value)),
        lambda tid: str(os.getpriority(os.PRIO_PROCESS, tid)),
    ),
    "slice": (_set_slice, lambda tid: f"{kernel_calls.get_scheduling(tid).runtime_ns}ns"),
    "timerslack": (_set_slack, _read_slack),
}


def _hint(knob: str, error: OSError | None) -> str:
    if error is not None and error.errno == errno.ESRCH:
        return "the thread has ended"
    if knob == "slice" and error is None:
        return "custom slices need Linux 6.12 or newer; leave slice out here"
    if knob == "affinity":
        return "the cpuset of this process leaves out some of these CPUs; see /proc/self/status Cpus_allowed_list"
    if knob == "mlock":
        return "needs CAP_IPC_LOCK or a larger `ulimit -l` (LimitMEMLOCK=infinity in systemd)"
    if knob == "policy":
        return (
            "FIFO and RR, and leaving IDLE, need CAP_SYS_NICE (run as root) or `ulimit -r`;"
            " under RT_GROUP_SCHED the cgroup also needs cpu.rt_runtime_us > 0"
        )
    if knob == "nice":
        return "a lower nice than now needs CAP_SYS_NICE (run as root) or `ulimit -e` (RLIMIT_NICE)"
    return "another user's threads need CAP_SYS_NICE (run as root)"
