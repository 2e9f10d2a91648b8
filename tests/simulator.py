"""A machine in a few hundred lines: it schedules threads, takes interrupts and faults, writes the records of
model/event.py as the probes would, and keeps its own account of where every nanosecond of every request went.

It shares no code with the analysis: the account comes from the machine's state, never from the records. What it leaves
out, because the records cannot show it: a victim does not leave a CPU's queue while that CPU is in an interrupt.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from jitterprof.model.cause import Cause
from jitterprof.model.event import EVENT_DTYPE, Context, EventKind, FaultFlag, OutFlag, Vector
from jitterprof.model.request import GC_DTYPE, REQUEST_DTYPE

#: (cause, culprit)
Blame = tuple[Cause, str]
#: (row, start, ns, cause, culprit)
Piece = tuple[int, int, int, str, str]

PROCESS = 10
FIRST_NOISE = 100
FIRST_KWORKER = 200
ORIGIN = 1_000_000_000

IRQ_NAMES = {"24": "nvme0q1", "30": "eth0"}
SYMBOLS = {str(0xFFFF_1000): "vmstat_update", str(0xFFFF_2000): "flush_tlb_func", str(0xFFFF_3000): "timerfd_tmrproc"}
DEVICES = {"254:0": "vda"}
CGROUPS = {"77": "/jobs/victim"}
#: Two mappings: file and heap.
MAPS = ((0x1000, 0x2000, "file:libm.so"), (0x2000, 0x3000, "heap"))
FILE_ADDRESS, HEAP_ADDRESS = 0x1800, 0x2800

NO_SYSCALL, WAIT4, MUNMAP, FUTEX, NANOSLEEP, EPOLL_WAIT, READ = 0xFFFF, 61, 11, 202, 35, 232, 0

#: What may explain the wait for a lock better than its holder.
_HOLDER_STATES = {
    Cause.PREEMPTED, Cause.WAKEUP, Cause.THROTTLED, Cause.PAGE_FAULT, Cause.RECLAIM, Cause.BLOCK_IO, Cause.HARDIRQ,
    Cause.TIMER, Cause.IPI, Cause.SOFTIRQ, Cause.NMI, Cause.STEAL, Cause.STOPPED, Cause.GC,
}  # fmt: skip
#: A thread that is back at the same lock after running for no longer was woken for nothing.
FALSE_WAKE_NS = 50_000


@dataclass
class Frame:
    """An interrupt (or a theft by the hypervisor) that a CPU is in."""

    name: str
    start: int
    blame: Blame
    number: int = 0
    sender: int = 0
    function: int = 0


@dataclass
class Cpu:
    number: int
    current: int = 0
    frames: list[Frame] = field(default_factory=list)
    queue: list[int] = field(default_factory=list)
    seq: int = 0
    work: tuple[int, int] | None = None
    """Start and function of the work item that its kworker runs."""
    looked: int = ORIGIN

    @property
    def calm(self) -> bool:
        return not self.frames

    @property
    def can_wake(self) -> bool:
        """No scheduler code runs in an NMI, and nothing at all while the hypervisor runs another guest."""
        return not self.frames or self.frames[-1].name not in ("nmi", "steal")


@dataclass
class Sleep:
    """Why a thread sleeps and who may end it."""

    blame: Blame
    state: int
    flags: int
    number: int
    argument: int
    ender: str
    holder: int = 0
    ran: int = 0
    """How long its thread had run by then."""
    ended: bool = False
    again: Sleep | None = None
    """The next wait for the same lock, where this one was ended for nothing."""

    @property
    def meant(self) -> Sleep:
        """What the thread really waited for."""
        return self.again.meant if self.again else self


@dataclass
class Thread:
    tid: int
    cpu: int
    state: str = "new"
    waits: Cause = Cause.WAKEUP
    placed: bool = True
    sleep: Sleep | None = None
    fault: tuple[int, int, int, int] | None = None
    """start, flags, address, system call"""
    reclaim: int = 0
    gc: int = 0
    request: tuple[int, int, int] | None = None
    """intended, start, cpu"""
    free_since: int = 0
    log: list[tuple[int, Blame, Sleep | None]] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    """Of the log, once it is complete."""
    stopped_by: str = ""
    on_since: int = 0
    ran: int = 0
    offs: list[Sleep | None] = field(default_factory=list)
    """Each time that it was off the CPU and not just waiting for it; None: not asleep."""


@dataclass(frozen=True)
class Trace:
    """What the probes saw and what really happened."""

    events: npt.NDArray[np.void]
    requests: npt.NDArray[np.void]
    gc: npt.NDArray[np.void]
    cpu_seq: dict[int, int]
    window: tuple[int, int]
    truth: tuple[Piece, ...]


class Machine:
    def __init__(self, seed: int, cpus: int = 2, threads: int = 3) -> None:
        self.random = random.Random(seed)
        self.now = ORIGIN
        self.cpus = [Cpu(number) for number in range(cpus)]
        self.threads = {PROCESS + n: Thread(PROCESS + n, self.random.randrange(cpus)) for n in range(threads)}
        self.noise = [FIRST_NOISE + n for n in range(3)] + [FIRST_KWORKER + n for n in range(cpus)]
        self.events: list[tuple[int, ...]] = []
        self.rows: list[tuple[int, int, int, int, int, int]] = []
        self.collections: list[tuple[int, int, int, int]] = []
        self.ready_at = 0
        self.moments: list[int] = []

    # Names.

    def label(self, tid: int) -> str:
        if tid in self.threads:
            return f"victim/{PROCESS}"
        return f"kworker/{tid - FIRST_KWORKER}:0/{tid}" if tid >= FIRST_KWORKER else f"noise{tid - FIRST_NOISE}/{tid}"

    # Time and records.

    def pass_time(self, most: int = 400) -> None:
        self.settle()
        self.now += self.random.randint(1, most if self.random.random() < 0.97 else 100 * most)

    def settle(self) -> None:
        """Note what every thread is blamed on from now on."""
        for thread in self.threads.values():
            blame = self.plain_blame(thread)
            if thread.log and thread.log[-1][0] == self.now:
                thread.log.pop()
            if not thread.log or thread.log[-1][1:] != (blame, thread.sleep):
                thread.log.append((self.now, blame, thread.sleep))

    def emit(
        self, cpu: Cpu, kind: EventKind, tid: int = 0, other: int = 0, a: int = 0, b: int = 0, flags: int = 0
    ) -> None:
        self.events.append((self.now, cpu.seq, cpu.number, kind, flags, tid, other, a, b))
        cpu.seq += 1

    def watched(self, cpu: Cpu) -> bool:
        return cpu.current in self.threads or bool(cpu.queue)

    # The account.

    def state_at(self, thread: Thread, time: int) -> tuple[Blame, Sleep | None]:
        """What it was doing, and why it slept if it did."""
        at = bisect.bisect_right(thread.times, time) - 1
        _, blame, sleep = thread.log[at]
        return (sleep.meant.blame, sleep.meant) if sleep else (blame, None)

    def blame_at(self, thread: Thread, time: int) -> Blame:
        """What its time is blamed on, when all is known: back along those that were waited for."""
        label, sleep = self.state_at(thread, time)
        while sleep is not None and sleep.holder:
            holder = self.threads[sleep.holder]
            (cause, culprit), next_sleep = self.state_at(holder, time)
            waits = next_sleep is not None and cause in (Cause.LOCK, Cause.NET)
            if waits and next_sleep is not None and next_sleep.holder == thread.tid:
                break
            if not waits and cause not in _HOLDER_STATES:
                break
            system_call = culprit.endswith(" (in munmap)")
            lock = f" of futex {sleep.argument:#x}" if sleep.number == FUTEX and not system_call else ""
            label = cause, f"{culprit} (holder victim/{holder.tid}{lock})".strip()
            sleep = next_sleep if waits else None
        return label

    def plain_blame(self, thread: Thread) -> Blame:
        if thread.sleep is not None:
            return thread.sleep.blame
        if thread.state == "stopped":
            return Cause.STOPPED, thread.stopped_by
        if thread.state == "throttled":
            return Cause.THROTTLED, CGROUPS["77"]
        if thread.state == "new":
            return Cause.UNKNOWN, "no record of this thread yet"
        cpu = self.cpus[thread.cpu]
        interrupts = [frame for frame in cpu.frames if frame.name != "steal"]
        if interrupts:
            return interrupts[-1].blame
        if cpu.frames:
            return cpu.frames[-1].blame
        if thread.state == "waiting":
            return thread.waits, self.occupant(cpu, thread.waits)
        if thread.reclaim:
            return Cause.RECLAIM, ""
        if thread.fault:
            return Cause.PAGE_FAULT, self.fault_name(thread.fault)
        if thread.gc:
            return Cause.GC, "generation 1"
        return Cause.RUN, ""

    def occupant(self, cpu: Cpu, cause: Cause) -> str:
        if not cpu.current:
            return "idle exit" if cause == Cause.WAKEUP else "idle task"
        if cpu.work and cpu.current >= FIRST_KWORKER:
            return f"kworker/{cpu.current - FIRST_KWORKER}:0 (vmstat_update)"
        return self.label(cpu.current)

    @staticmethod
    def fault_name(fault: tuple[int, int, int, int]) -> str:
        size = "major" if fault[1] & FaultFlag.MAJOR else "minor"
        return f"{size}: {'file' if fault[2] == FILE_ADDRESS else 'anonymous'}"

    # The scheduler.

    def switch(
        self, cpu: Cpu, flags: int = 0, state: int = 0, number: int = 0, argument: int = 0, stay: bool = False
    ) -> None:
        """Take the current task off `cpu` and put another on it."""
        old = cpu.current
        if cpu.work and old >= FIRST_KWORKER:
            self.emit(cpu, EventKind.WORK, old, a=cpu.work[0], b=cpu.work[1])
            cpu.work = None
        ready = [tid for tid in cpu.queue if self.threads[tid].placed and tid != old]
        ready += [
            t.tid for t in self.threads.values() if t.state == "throttled" and t.cpu == cpu.number and t.tid != old
        ]
        others = [tid for tid in self.noise if tid != old and all(other.current != tid for other in self.cpus)]
        others = [tid for tid in others if tid < FIRST_KWORKER or tid - FIRST_KWORKER == cpu.number]
        new = self.random.choice(ready) if ready and (not stay) and self.random.random() < 0.7 else 0
        if not new and self.random.random() < 0.7 and others:
            new = self.random.choice(others)
        if old == new:
            return
        if old in self.threads:
            self.threads[old].ran += self.now - self.threads[old].on_since
            self.emit(cpu, EventKind.SWITCH_OUT, old, new, state | number << 32, argument, flags)
        if new in self.threads:
            self.emit(cpu, EventKind.SWITCH_IN, new, old)
            thread = self.threads[new]
            thread.state, thread.on_since = "running", self.now
            if new in cpu.queue:
                cpu.queue.remove(new)
        elif old not in self.threads and cpu.queue:
            self.emit(cpu, EventKind.OCCUPY, new, old)
        cpu.current = new
        if new >= FIRST_KWORKER and self.random.random() < 0.7:
            cpu.work = (self.now, 0xFFFF_1000)

    def enqueue(self, thread: Thread, cause: Cause, placed: bool) -> None:
        if thread.sleep is not None:
            thread.sleep.ended = True
        thread.state, thread.waits, thread.placed, thread.sleep = "waiting", cause, placed, None
        self.cpus[thread.cpu].queue.append(thread.tid)

    def place_word(self, cpu: Cpu) -> int:
        return cpu.number | cpu.current << 32

    def wake(self, thread: Thread, by: Cpu) -> None:
        """WAKING, from whatever context `by` is in."""
        context, detail = Context.TASK, 0
        interrupts = [frame for frame in by.frames if frame.name != "steal"]
        if interrupts:
            frame = interrupts[-1]
            context = {"softirq": Context.SOFTIRQ, "vector": Context.VECTOR, "hardirq": Context.HARDIRQ}[frame.name]
            detail = frame.number
        elif by.work and by.current >= FIRST_KWORKER:
            detail = by.work[1]
        word = self.place_word(self.cpus[thread.cpu])
        self.emit(by, EventKind.WAKING, thread.tid, by.current, word, detail, context)

    # What can happen. Each action returns whether it could.

    def running(self) -> list[Thread]:
        return [t for t in self.threads.values() if t.state == "running" and self.cpus[t.cpu].calm]

    def pick(self, threads: list[Thread]) -> Thread | None:
        return self.random.choice(threads) if threads else None

    def start_thread(self) -> bool:
        thread = self.pick([t for t in self.threads.values() if t.state == "new"])
        by = self.random.choice(self.cpus)
        if thread is None or not by.calm:
            return False
        self.emit(by, EventKind.FORK, thread.tid, PROCESS)
        self.pass_time()
        self.enqueue(thread, Cause.WAKEUP, placed=True)
        self.emit(by, EventKind.WAKEUP, thread.tid, PROCESS, self.place_word(self.cpus[thread.cpu]))
        return True

    def reschedule(self) -> bool:
        """A CPU changes its task; a victim that loses it is preempted."""
        cpu = self.random.choice(self.cpus)
        if not cpu.calm:
            return False
        thread = self.threads.get(cpu.current)
        if thread is None:
            self.switch(cpu)
            return True
        self.switch(cpu, OutFlag.PREEMPT | self.in_flags(thread), number=NO_SYSCALL)
        if cpu.current != thread.tid:
            self.enqueue(thread, Cause.PREEMPTED, placed=True)
        return True

    def in_flags(self, thread: Thread) -> int:
        return (OutFlag.IN_FAULT if thread.fault else 0) | (OutFlag.IN_RECLAIM if thread.reclaim else 0)

    def migrate(self) -> bool:
        waiting = [t for t in self.threads.values() if t.state == "waiting" and self.cpus[t.cpu].calm]
        thread = self.pick(waiting)
        by = self.random.choice(self.cpus)
        if thread is None or not by.can_wake:
            return False
        target = self.random.choice(self.cpus)
        if target.number == thread.cpu:
            return False
        self.emit(by, EventKind.MIGRATE, thread.tid, thread.cpu, self.place_word(target))
        self.cpus[thread.cpu].queue.remove(thread.tid)
        thread.cpu = target.number
        target.queue.append(thread.tid)
        return True

    def settle_down(self) -> bool:
        """A woken thread arrives in its queue; the kernel says so again, or the probe leaves it out as known."""
        thread = self.pick([t for t in self.threads.values() if t.state == "waiting" and not t.placed])
        by = self.random.choice(self.cpus)
        if thread is None or not by.can_wake:
            return False
        if self.random.random() < 0.5:
            self.emit(by, EventKind.WAKEUP, thread.tid, by.current, self.place_word(self.cpus[thread.cpu]))
        thread.placed = True
        return True

    def choose_sleep(self, thread: Thread) -> Sleep:
        """A reason to sleep that fits what the thread is doing."""
        inside = self.in_flags(thread)
        if thread.reclaim:
            return Sleep((Cause.RECLAIM, ""), 2, inside, NO_SYSCALL, 0, "noise")
        if thread.fault:
            blame = (Cause.PAGE_FAULT, self.fault_name(thread.fault))
            iowait = OutFlag.IOWAIT if thread.fault[1] & FaultFlag.MAJOR else 0
            return Sleep(blame, 2, inside | iowait, thread.fault[3], 0, "disk")
        holders = [t.tid for t in self.threads.values() if t is not thread and not self.depends(t, thread)]
        noise = self.random.choice(self.noise[:3])
        other = self.label(noise)
        lock = self.random.choice((64, 128))
        kinds: list[Sleep] = [
            Sleep((Cause.LOCK, other), 1, 0, FUTEX, lock, str(noise)),
            Sleep((Cause.SLEEP, "timer"), 1, 0, FUTEX, lock, "timer"),
            Sleep((Cause.SLEEP, ""), 1, 0, NANOSLEEP, 0, "timer"),
            Sleep((Cause.NET, "NET_RX"), 1, 0, EPOLL_WAIT, 5, "network"),
            Sleep((Cause.SLEEP, "timer"), 1, 0, EPOLL_WAIT, 5, "timer"),
            Sleep((Cause.BLOCK_IO, "vda"), 2, OutFlag.IOWAIT, READ, 254 << 20, "disk"),
            Sleep((Cause.LOCK, f"{other} (in munmap)"), 2, 0, MUNMAP, 0, str(noise)),
            Sleep((Cause.UNKNOWN, "blocked in wait4"), 1, 0, WAIT4, 0, "noise"),
        ]
        if holders and self.random.random() < 0.6:
            holder, kinds = self.random.choice(holders), []
            for number, cause in ((FUTEX, Cause.LOCK), (READ, Cause.LOCK), (EPOLL_WAIT, Cause.NET)):
                kinds.append(Sleep((cause, f"victim/{PROCESS}"), 1, 0, number, lock, str(holder), holder))
        return self.random.choice(kinds)

    def depends(self, thread: Thread, on: Thread) -> bool:
        while thread.sleep is not None and thread.sleep.holder:
            thread = self.threads[thread.sleep.holder]
            if thread is on:
                return True
        return False

    def go_to_sleep(self) -> bool:
        thread = self.pick(self.running())
        if thread is None:
            return False
        sleep = self.choose_sleep(thread)
        if self.random.random() < 0.15:
            return self.race(thread, sleep)
        self.leave(thread, sleep)
        thread.sleep, thread.state, sleep.ran = sleep, "blocked", thread.ran
        thread.offs.append(sleep)
        return True

    def leave(self, thread: Thread, sleep: Sleep) -> None:
        self.switch(self.cpus[thread.cpu], sleep.flags, sleep.state, sleep.number, sleep.argument)

    def race(self, thread: Thread, sleep: Sleep) -> bool:
        """It is woken while on its way out."""
        by = self.waker_cpu(sleep, thread.cpu)
        if by is None:
            return False
        self.wake(thread, by)
        self.pass_time(30)
        self.leave(thread, sleep)
        self.enqueue(thread, Cause.WAKEUP, placed=False)
        return True

    def waker_cpu(self, sleep: Sleep, not_on: int = -1) -> Cpu | None:
        def top(cpu: Cpu) -> tuple[str, int]:
            return (cpu.frames[-1].name, cpu.frames[-1].number) if cpu.frames else ("", 0)

        tests: dict[str, Callable[[Cpu], bool]] = {
            "timer": lambda cpu: top(cpu) == ("vector", Vector.LOCAL_TIMER),
            "network": lambda cpu: top(cpu) == ("softirq", 3),
            "disk": lambda cpu: top(cpu) in (("hardirq", 24), ("softirq", 4)),
            "noise": lambda cpu: cpu.calm and cpu.current >= FIRST_NOISE,
        }
        wanted = tests.get(sleep.ender, lambda cpu: cpu.calm and cpu.current == int(sleep.ender))
        fitting = [cpu for cpu in self.cpus if cpu.number != not_on and wanted(cpu)]
        return self.random.choice(fitting) if fitting else None

    def wake_up(self) -> bool:
        thread = self.pick([t for t in self.threads.values() if t.state == "blocked"])
        if thread is None or thread.sleep is None:
            return False
        by = self.waker_cpu(thread.sleep)
        if by is None:
            return self.interrupt()
        self.wake(thread, by)
        self.enqueue(thread, Cause.WAKEUP, placed=False)
        return True

    def false_wake(self) -> bool:
        """Somebody wakes a thread that is still running: no effect."""
        thread = self.pick(self.running())
        by = self.pick_cpu(lambda cpu: cpu.calm and cpu.current >= FIRST_NOISE)
        if thread is None or by is None:
            return False
        self.wake(thread, by)
        return True

    def pick_cpu(self, test: Callable[[Cpu], bool]) -> Cpu | None:
        fitting = [cpu for cpu in self.cpus if test(cpu)]
        return self.random.choice(fitting) if fitting else None

    def stop(self) -> bool:
        thread = self.pick(self.running())
        by = self.pick_cpu(lambda cpu: cpu.calm and FIRST_NOISE <= cpu.current < FIRST_KWORKER)
        if thread is None or by is None:
            return False
        self.emit(by, EventKind.SIGNAL, thread.tid, by.current, 19)
        thread.stopped_by = self.label(by.current)
        self.pass_time(50)
        self.switch(self.cpus[thread.cpu], self.in_flags(thread), 0x104, NO_SYSCALL)
        thread.state = "stopped"
        thread.offs.append(None)
        return True

    def resume(self) -> bool:
        thread = self.pick([t for t in self.threads.values() if t.state == "stopped"])
        by = self.pick_cpu(lambda cpu: cpu.calm and cpu.current >= FIRST_NOISE)
        if thread is None or by is None:
            return False
        self.wake(thread, by)
        self.enqueue(thread, Cause.WAKEUP, placed=False)
        return True

    def throttle(self) -> bool:
        thread = self.pick([t for t in self.running() if not t.fault and not t.reclaim])
        if thread is None:
            return False
        self.switch(self.cpus[thread.cpu], OutFlag.THROTTLED, number=NO_SYSCALL, argument=77)
        thread.state = "throttled"
        thread.offs.append(None)
        return True

    # Interrupts.

    def interrupt(self) -> bool:
        cpu = self.random.choice(self.cpus)
        names = [frame.name for frame in cpu.frames]
        if "steal" in names or "nmi" in names:
            return False
        options = [Frame("nmi", self.now, (Cause.NMI, "nmi")), Frame("steal", self.now, (Cause.STEAL, "hypervisor"))]
        if not {"hardirq", "vector"} & set(names):
            irq = self.random.choice((24, 30))
            sender = self.random.choice((0, FIRST_NOISE))
            call = f"call_function_single (flush_tlb_func){f' from {self.label(sender)}' if sender else ''}"
            options += [
                Frame("hardirq", self.now, (Cause.HARDIRQ, IRQ_NAMES[str(irq)]), irq),
                Frame("vector", self.now, (Cause.TIMER, "tick"), Vector.LOCAL_TIMER),
                Frame("vector", self.now, (Cause.TIMER, "timerfd_tmrproc"), Vector.LOCAL_TIMER, 0, 0xFFFF_3000),
                Frame("vector", self.now, (Cause.IPI, call), Vector.CALL_FUNCTION_SINGLE, sender, 0xFFFF_2000),
            ]
        if not names:
            for number, name in ((3, "NET_RX"), (4, "BLOCK"), (7, "SCHED")):
                options.append(Frame("softirq", self.now, (Cause.SOFTIRQ, name), number))
        cpu.frames.append(self.random.choice(options))
        return True

    def end_interrupt(self) -> bool:
        cpu = self.pick_cpu(lambda cpu: bool(cpu.frames))
        if cpu is None:
            return False
        frame = cpu.frames.pop()
        if not self.watched(cpu):
            cpu.looked = self.now
            return True
        tid, start = cpu.current, frame.start
        if frame.name == "steal":
            self.emit(cpu, EventKind.STEAL, a=self.random.randint(cpu.looked, start), b=self.now - start)
            cpu.looked = self.now
        elif frame.name == "vector":
            self.emit(cpu, EventKind.VECTOR, tid, frame.sender, start, frame.function, frame.number)
        else:
            kind = {"nmi": EventKind.NMI, "hardirq": EventKind.HARDIRQ, "softirq": EventKind.SOFTIRQ}[frame.name]
            self.emit(cpu, kind, tid, frame.number, start)
        return True

    # What a thread does by itself.

    def fault(self) -> bool:
        thread = self.pick([t for t in self.running() if not t.reclaim])
        if thread is None:
            return False
        if thread.fault is None:
            flags = self.random.choice((0, FaultFlag.MAJOR))
            number = self.random.choice((NO_SYSCALL, READ))
            thread.fault = (self.now, flags, self.random.choice((FILE_ADDRESS, HEAP_ADDRESS)), number)
        else:
            start, flags, address, _ = thread.fault
            self.emit(self.cpus[thread.cpu], EventKind.FAULT, thread.tid, 0, start, address, flags)
            thread.fault = None
        return True

    def reclaim(self) -> bool:
        thread = self.pick(self.running())
        if thread is None:
            return False
        if thread.reclaim:
            self.emit(self.cpus[thread.cpu], EventKind.RECLAIM, thread.tid, 0, thread.reclaim)
            thread.reclaim = 0
        else:
            thread.reclaim = self.now
        return True

    def end_work(self) -> bool:
        """Finish a fault or reclaim that is under way."""
        return any(
            (thread.reclaim and self.reclaim()) or (thread.fault and self.fault())
            for thread in self.running()
            if thread.reclaim or thread.fault
        )

    def collect(self) -> bool:
        thread = self.pick([t for t in self.running() if not t.fault and not t.reclaim])
        if thread is None:
            return False
        if thread.gc:
            self.collections.append((thread.gc, self.now, thread.tid, 1))
            thread.gc = 0
        else:
            thread.gc = self.now
        return True

    def serve(self) -> bool:
        """A request begins or ends: only a thread that runs its own code can say so."""
        thread = self.pick([t for t in self.running() if not t.fault and not t.reclaim and not t.gc])
        if thread is None or not self.ready_at:
            return False
        if thread.request is None:
            intended = max(self.ready_at, self.now - self.random.choice((0, 0, 100, 3000)))
            thread.request = (intended, self.now, thread.cpu)
        else:
            intended, start, cpu = thread.request
            self.rows.append((intended, start, self.now, thread.tid, cpu, thread.cpu))
            thread.request = None
        return True

    # The run.

    def run(self, steps: int) -> Trace:
        weighted: list[tuple[Callable[[], bool], int]] = [
            (self.start_thread, 2), (self.reschedule, 10), (self.migrate, 2), (self.settle_down, 6),
            (self.go_to_sleep, 10), (self.wake_up, 14), (self.false_wake, 1), (self.stop, 1), (self.resume, 2),
            (self.throttle, 1),
            (self.interrupt, 6), (self.end_interrupt, 12), (self.fault, 3), (self.reclaim, 1), (self.collect, 2),
            (self.serve, 30),
        ]  # fmt: skip
        actions, weights = [action for action, _ in weighted], [weight for _, weight in weighted]
        first = self.cpus[0]
        for tid in (*self.threads, *self.noise):
            comm = b"victim" if tid in self.threads else self.label(tid).rpartition("/")[0].encode()
            a, b = np.frombuffer(comm.ljust(16, b"\0"), "<u8").tolist()
            process = PROCESS if tid in self.threads else tid
            self.emit(first, EventKind.TASK, tid, process, a, b, int(tid >= FIRST_KWORKER))
            self.emit(first, EventKind.TASK_CGROUP, tid, 0, 77)
        seen_running: set[int] = set()
        for _ in range(steps):
            self.pass_time()
            # Not everything can happen at every moment.
            any(self.random.choices(actions, weights)[0]() for _ in range(20))
            if not self.ready_at:
                seen_running |= {tid for tid, thread in self.threads.items() if thread.state == "running"}
                if len(seen_running) == len(self.threads):
                    self.ready_at = self.now + 1
        closing = [self.reschedule, self.settle_down, self.wake_up, self.resume, self.end_interrupt, self.end_work]
        for _ in range(steps):
            if not self.under_way():
                break
            self.pass_time()
            self.random.choice(closing)()
        self.pass_time()
        for thread in self.threads.values():
            if thread.gc:
                self.collections.append((thread.gc, self.now, thread.tid, 1))
        return self.trace()

    def under_way(self) -> list[int]:
        """Starts of what has not ended."""
        starts = [frame.start for cpu in self.cpus for frame in cpu.frames]
        starts += [cpu.work[0] for cpu in self.cpus if cpu.work]
        starts += [thread.fault[0] for thread in self.threads.values() if thread.fault]
        return starts + [thread.reclaim for thread in self.threads.values() if thread.reclaim]

    def trace(self) -> Trace:
        # What is still under way leaves no record: the machine is switched off before the probes could write it.
        self.rows = [row for row in self.rows if row[2] <= min(self.under_way(), default=self.now)]
        requests = np.zeros(len(self.rows), REQUEST_DTYPE)
        for column, name in enumerate(("intended_ns", "start_ns", "end_ns", "tid", "cpu_start", "cpu_end")):
            requests[name] = [row[column] for row in self.rows]
        requests["seq"], requests["parent"] = np.arange(len(requests)), -1
        requests["worker"] = requests["tid"] - PROCESS
        requests["phase"] = 2
        events = np.array(self.events, EVENT_DTYPE)
        self.find_false_wakes()
        for thread in self.threads.values():
            thread.times = [entry[0] for entry in thread.log]
        self.moments = sorted({entry[0] for thread in self.threads.values() for entry in thread.log})
        truth: list[Piece] = []
        free: dict[int, int] = {}
        for row, (intended, start, end, tid, _, _) in enumerate(self.rows):
            ready = min(max(free.get(tid, intended), intended), start)
            free[tid] = end
            truth += merged(row, self.account(self.threads[tid], intended, ready, start, end))
        return Trace(
            events=events[np.argsort(events["ts"], kind="stable")],
            requests=requests,
            gc=np.array(self.collections, GC_DTYPE),
            cpu_seq={cpu.number: cpu.seq - 1 for cpu in self.cpus},
            window=(ORIGIN, self.now),
            truth=tuple(truth),
        )

    def find_false_wakes(self) -> None:
        for thread in self.threads.values():
            for sleep, later in itertools.pairwise(thread.offs):
                if sleep is None or later is None or {sleep.number, later.number} != {FUTEX} or not later.ended:
                    continue
                if sleep.argument == later.argument and later.ran - sleep.ran <= FALSE_WAKE_NS:
                    sleep.again = later

    def account(self, thread: Thread, intended: int, ready: int, start: int, end: int) -> list[tuple[int, int, Blame]]:
        pieces: list[tuple[int, int, Blame]] = [(intended, ready, (Cause.QUEUE, ""))]
        # The states of all threads may matter.
        inside = self.moments[bisect.bisect_left(self.moments, ready) : bisect.bisect_left(self.moments, end)]
        edges = sorted({ready, start, end, *inside})
        for begin, until in itertools.pairwise(edges):
            blame = self.blame_at(thread, begin)
            if begin < start and blame[0] in (Cause.RUN, Cause.SLEEP):
                blame = (Cause.DISPATCH, "timer" if blame[0] == Cause.SLEEP else "")
            pieces.append((begin, until, blame))
        return [piece for piece in pieces if piece[0] < piece[1]]


def merged(row: int, pieces: list[tuple[int, int, Blame]]) -> list[Piece]:
    """Join neighbours with the same blame."""
    joined: list[Piece] = []
    for begin, end, (cause, culprit) in pieces:
        if joined and joined[-1][3:] == (cause.id, culprit) and joined[-1][1] + joined[-1][2] == begin:
            joined[-1] = (row, joined[-1][1], joined[-1][2] + end - begin, cause.id, culprit)
        else:
            joined.append((row, begin, end - begin, cause.id, culprit))
    return joined


def simulate(seed: int, steps: int = 400, cpus: int = 2, threads: int = 3) -> Trace:
    """Run a machine for a number of actions."""
    return Machine(seed, cpus, threads).run(steps)


def without(trace: Trace, lost: npt.NDArray[np.bool_]) -> Trace:
    """The same run, had those records been lost."""
    return replace(trace, events=trace.events[~lost])
