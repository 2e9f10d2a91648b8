"""Kernel events as fixed-size records: the contract between `probes/include/jitterprof.h` and the analysis.

Every record carries the CPU that wrote it and that CPU's sequence number, so a lost record shows as a gap and says
where. Interval kinds are written once, at the end of the interval, with their start in `a`: a lost record loses the
whole interval, never one edge of it.

"victim" = a thread of the target. "watched CPU" = a CPU on whose run queue a victim is waiting.
"""

from enum import IntEnum, IntFlag

import numpy as np

#: 40 bytes, equal to `struct jp_event`. `ts` is CLOCK_MONOTONIC ns at the moment of writing.
EVENT_DTYPE = np.dtype(
    [
        ("ts", "<u8"),
        ("seq", "<u4"),
        ("cpu", "<u2"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("tid", "<u4"),
        ("other", "<u4"),
        ("a", "<u8"),
        ("b", "<u8"),
    ]
)


class EventKind(IntEnum):
    """Meaning of `tid`, `other`, `a`, `b`, `flags` by kind."""

    #: Victim `tid` leaves `cpu`; `other` = the tid that gets it. flags: OutFlag.
    #: a = prev_state (low 32 bits) | system call number << 32 (0xffff: not in a system call, i.e. in an exception);
    #: b = the first system-call argument (fd, futex address); where IOWAIT is set, the dev_t of its last block request;
    #: where THROTTLED is set, the kernfs id of its cpu cgroup.
    SWITCH_OUT = 1
    #: Victim `tid` gets `cpu`; `other` = the tid that had it.
    SWITCH_IN = 2
    #: On a watched CPU a non-victim `tid` gets the CPU from a non-victim `other`.
    OCCUPY = 3
    #: Victim `tid` is being woken by `other` (the task current on `cpu`). flags: Context of the waker, in which
    #: case `other` is only whoever was interrupted.
    #: a = the victim's (previous) CPU | occupant tid of that CPU << 32. b = by context: irq number, softirq
    #: vector, Vector, or in task context the function of the work item that a kworker is executing, else 0.
    WAKING = 4
    #: Victim `tid` is now on the run queue of CPU (a & 0xffffffff), whose occupant is a >> 32. Also for new threads.
    WAKEUP = 5
    #: Victim `tid` moves to CPU (a & 0xffffffff), whose occupant is a >> 32; `other` = the CPU it leaves.
    MIGRATE = 6
    #: Thread `tid` of the target's process a was created by `other`. It is runnable from its WAKEUP on.
    FORK = 7
    #: Victim `tid` ends.
    EXIT = 8
    #: Names a task, once, before or shortly after its first mention: `tid`, process `other`; a, b = comm (16 bytes).
    #: flags bit 0: kernel thread.
    TASK = 9
    #: The cpu cgroup of `tid`: a = kernfs id (the inode number of the cgroup directory).
    TASK_CGROUP = 10
    #: Part `other` (0, 1) of the name of the cgroup whose kernfs id has the low 32 bits `tid`: a, b = 16 characters.
    #: flags 0: its own name, 1: its parent's. Written once, since the cgroup may be gone when the session ends.
    CGROUP = 11
    #: Device interrupt [a, ts) on `cpu`: other = irq number. tid = the task that was current.
    HARDIRQ = 16
    #: Softirq [a, ts) on `cpu`: other = vector (SOFTIRQ_NAMES). tid = who was current (ksoftirqd or a victim).
    SOFTIRQ = 17
    #: Interrupt vector [a, ts) on `cpu`: flags = Vector, other = tid that sent the IPI (0: unknown),
    #: b = address of the hrtimer or call function that it ran (0: unknown or the plain tick).
    VECTOR = 18
    #: NMI [a, ts) on `cpu`.
    NMI = 19
    #: Page fault of victim `tid` [a, ts) at address b. flags: FaultFlag. Without the end probe a == ts.
    FAULT = 20
    #: Victim `tid` in direct reclaim or compaction [a, ts). flags: Reclaim.
    RECLAIM = 21
    #: Hypervisor steal on `cpu`: b ns of it somewhere in [a, ts). Written while a victim runs or waits there.
    STEAL = 22
    #: Victim `tid` submits a block request: other = dev_t (major << 20 | minor), a = sector, b = bytes.
    BLOCK_IO = 23
    #: On a watched CPU kworker `tid` executed a work item [a, ts); b = address of its function.
    WORK = 24
    #: A watched CPU left idle state `other` (cpuidle index) at ts.
    IDLE_EXIT = 25
    #: Signal a sent to victim thread or process `tid` by `other`.
    SIGNAL = 26
    #: What victim `tid` did on `cpu` in [a, ts), interrupts on top of it included: b = cycles | instructions << 32,
    #: other = misses of the last-level cache (0 where this CPU does not count them). flags: CountersFlag.
    COUNTERS = 32
    #: CPU `other` runs at a kHz from ts on. Written when it changes under a victim, and when a victim comes to a CPU
    #: whose frequency has changed.
    FREQUENCY = 33
    #: While victim a ran on `cpu`, `tid` (not of the target) ran on CPU `other`. flags: Neighbour. Seen by a tick; all
    #: records of one look carry the same ts, and a look that finds nobody leaves one with Neighbour.NONE and tid 0.
    NEIGHBOUR = 34


class OutFlag(IntFlag):
    """Why a victim left the CPU (flags of SWITCH_OUT)."""

    PREEMPT = 1
    THROTTLED = 2
    IOWAIT = 4
    IN_FAULT = 8
    IN_RECLAIM = 16


class CountersFlag(IntFlag):
    """Flags of COUNTERS."""

    SHARED = 1
    """A counter was lent to somebody else for a part of the time, so the figures are too low."""
    LONG = 2
    """A figure did not fit 32 bits and is the largest that does."""


class Neighbour(IntEnum):
    """What the CPU of a NEIGHBOUR shares with the victim's."""

    NONE = 0
    SMT = 1
    CACHE = 2


class Context(IntEnum):
    """Where the waking code ran (flags of WAKING)."""

    TASK = 0
    SOFTIRQ = 1
    VECTOR = 2
    HARDIRQ = 3
    NMI = 4


class Vector(IntEnum):
    """x86 interrupt vectors with their own tracepoints; on arm64 the local timer and `ipi:*` map onto the same ids."""

    LOCAL_TIMER = 1
    RESCHEDULE = 2
    CALL_FUNCTION = 3
    CALL_FUNCTION_SINGLE = 4
    IRQ_WORK = 5
    PLATFORM_IPI = 6
    THERMAL = 7
    THRESHOLD = 8
    DEFERRED_ERROR = 9
    ERROR = 10
    SPURIOUS = 11


class FaultFlag(IntFlag):
    """Flags of FAULT."""

    KERNEL_MODE = 1
    MAJOR = 2
    NO_END = 4


class Reclaim(IntEnum):
    """Flags of RECLAIM."""

    DIRECT = 0
    MEMCG = 1
    COMPACTION = 2


#: include/linux/interrupt.h
SOFTIRQ_NAMES: tuple[str, ...] = (
    "HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU",
)  # fmt: skip

#: Linux task states as sched_switch reports them (include/linux/sched.h); TASK_REPORT bits are stable,
#: TASK_FROZEN is 0x8000 since f5d39b020809 (6.1).
TASK_INTERRUPTIBLE = 0x1
TASK_UNINTERRUPTIBLE = 0x2
TASK_STOPPED = 0x4
TASK_TRACED = 0x8
TASK_FROZEN = 0x8000

#: One row per hole in a CPU's record sequence: records were lost somewhere in (start_ns, end_ns) on `cpu`.
GAP_DTYPE = np.dtype([("cpu", "<i4"), ("start_ns", "<i8"), ("end_ns", "<i8"), ("lost", "<i8")])

#: State clocks: one slot per thread in an mmap'ed array, 24 x u64, equal to `struct jp_clock`.
#: `version` is odd while the kernel writes the slot; ns[] are cumulative since the slot was opened.
CLOCK_SLOTS = 1024
CLOCK_WORDS = 24
CLOCK_VERSION, CLOCK_SINCE, CLOCK_STATE, CLOCK_TID = range(4)
CLOCK_NS = 4
CLOCK_COUNT = 20
#: Order of ns[0..15] in a slot: causes with a clock of their own; the rest of the elapsed time is `run`.
CLOCK_CLASSES: tuple[str, ...] = (
    "preempted", "wakeup", "blocked", "block_io", "throttled", "stopped", "hardirq", "timer",
    "ipi", "softirq", "nmi", "page_fault", "reclaim", "steal", "reserved0", "reserved1",
)  # fmt: skip
#: Order of count[0..3].
CLOCK_COUNTERS: tuple[str, ...] = ("switches", "involuntary", "migrations", "faults")
