"""Who took the time: culprits as integer codes while columns are built, as names once at the end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.evidence import Evidence
from jitterprof.analysis.segments import Ints, Rows
from jitterprof.analysis.syscalls import NO_SYSCALL, is_lock, syscall_name
from jitterprof.model.event import SOFTIRQ_NAMES, Context, EventKind, OutFlag, Vector

_SHIFT = 56
_LOW32 = 0xFFFFFFFF
#: A thread number fits 22 bits (PID_MAX_LIMIT), so a vector's sender and function share one payload.
_TID_BITS = 24


class CulpritKind(IntEnum):
    """The high byte of a code. The payload in the low 56 bits is explained in `_name`."""

    NOBODY = 0
    TASK = 1
    IDLE_TASK = 2
    IDLE_EXIT = 3
    WORK = 4
    IRQ = 5
    SOFTIRQ = 6
    VECTOR = 7
    NMI = 8
    HYPERVISOR = 9
    CGROUP = 10
    FAULT = 11
    DEVICE = 12
    GENERATION = 13
    BLOCKED = 14
    TIMER = 15
    TRACER = 16
    FREEZER = 17
    LOST = 18
    UNCOVERED = 19
    UNOBSERVED = 20
    EXITED = 21
    UNKNOWN_TASK = 22
    OFF_CPU = 23
    EXCESS = 24
    SLEPT = 25
    OUTSIDE = 26


#: The culprit of time in which a record is missing.
LOST_NAME = "lost events"

#: Codes whose name needs no payload.
_PLAIN: Mapping[int, str] = {
    CulpritKind.NOBODY: "",
    CulpritKind.IDLE_TASK: "idle task",
    CulpritKind.IDLE_EXIT: "idle exit",
    CulpritKind.NMI: "nmi",
    CulpritKind.HYPERVISOR: "hypervisor",
    CulpritKind.TIMER: "timer",
    CulpritKind.TRACER: "ptrace",
    CulpritKind.FREEZER: "freezer",
    CulpritKind.LOST: LOST_NAME,
    CulpritKind.UNCOVERED: "no record of this thread yet",
    CulpritKind.UNOBSERVED: "not observed",
    CulpritKind.EXITED: "after the thread's exit",
    CulpritKind.UNKNOWN_TASK: "unknown task",
    CulpritKind.OFF_CPU: "off CPU, not observed",
    CulpritKind.EXCESS: "clocks exceed the request",
    CulpritKind.SLEPT: "blocked while throttled",
    CulpritKind.OUTSIDE: "outside the recording",
}

#: Notes above this name a lock (an index into Coder.locks), those below a system call (its number + 1).
LOCK_NOTE = 1 << 20
_ADDRESS_BITS = 48

_MAPPINGS = ("unknown mapping", "anonymous", "file")


def plain(kind: CulpritKind) -> int:
    """The code of a culprit that has no payload."""
    return int(kind) << _SHIFT


def coded(kind: CulpritKind, payload: Ints) -> Ints:
    """Codes of one kind for a column of payloads."""
    code: Ints = np.int64(int(kind) << _SHIFT) | (payload.astype(np.int64) & np.int64((1 << _SHIFT) - 1))
    return code


@dataclass(frozen=True, slots=True)
class Coder:
    """Turns columns of records into culprit codes. `addresses`: sorted kernel addresses that occur in the events.
    `locks`: sorted numbers of the locks that threads waited for (system call and address); the first is 0, no lock."""

    addresses: npt.NDArray[np.uint64]
    locks: Ints

    @staticmethod
    def of(evidence: Evidence) -> "Coder":
        """The coder for one session."""
        functions = evidence.of_kind(EventKind.VECTOR, EventKind.WORK)["b"]
        waking = evidence.of_kind(EventKind.WAKING)
        works = waking["b"][waking["flags"] == Context.TASK]
        out = evidence.of_kind(EventKind.SWITCH_OUT)
        locks = _lock_keys(out, evidence.machine)
        none = np.zeros(1, np.uint64)
        return Coder(np.unique(np.concatenate([functions, works, none])), np.unique(np.append(locks, 0)))

    def lock(self, out: Rows, machine: str) -> Ints:
        """Per SWITCH_OUT record the index in `locks` of the lock that it waits for, 0 where it waits for none."""
        return np.searchsorted(self.locks, _lock_keys(out, machine)).astype(np.int64)

    def _symbol(self, address: npt.NDArray[np.uint64]) -> Ints:
        # Index 0 is address 0: no function known.
        return np.searchsorted(self.addresses, address).astype(np.int64)

    def work(self, tid: Ints, address: npt.NDArray[np.uint64]) -> Ints:
        """A kworker, by the function that it ran; the task itself where no function is known."""
        symbol = self._symbol(address)
        return np.where(
            symbol > 0, coded(CulpritKind.WORK, tid | symbol << 32), np.where(tid > 0, coded(CulpritKind.TASK, tid), 0)
        )

    def vector(self, vector: Ints, sender: Ints, address: npt.NDArray[np.uint64]) -> Ints:
        """An interrupt vector, the function that it ran and the task that sent it."""
        payload = self._symbol(address) << (8 + _TID_BITS) | (sender & (1 << _TID_BITS) - 1) << 8 | vector
        return coded(CulpritKind.VECTOR, payload)

    def waker(self, waking: Rows) -> Ints:
        """Who a WAKING record says did it: a task, or the interrupt in whose context it happened."""
        context, tid, detail = waking["flags"], waking["other"].astype(np.int64), waking["b"]
        number = (detail & np.uint64(_LOW32)).astype(np.int64)
        task = np.where(
            tid > 0,
            self.work(tid, np.where(context == Context.TASK, detail, np.uint64(0))),
            plain(CulpritKind.IDLE_TASK),
        )
        return np.select(
            [context == Context.HARDIRQ, context == Context.SOFTIRQ, context == Context.VECTOR, context == Context.NMI],
            [
                coded(CulpritKind.IRQ, number),
                coded(CulpritKind.SOFTIRQ, number),
                coded(CulpritKind.VECTOR, number & 0xFF),
                np.full(len(waking), plain(CulpritKind.NMI)),
            ],
            task,
        )


def _lock_keys(out: Rows, machine: str) -> Ints:
    """System call and address of the lock that each SWITCH_OUT record says it waits for; 0: none.

    A thread that is preempted is in no system call of its own making; locks have addresses in user space.
    """
    number = (out["a"] >> np.uint64(32)).astype(np.int64) & NO_SYSCALL
    sleeps = (out["a"] & np.uint64(_LOW32) != 0) & (out["flags"] & OutFlag.PREEMPT == 0)
    address = out["b"].astype(np.int64) & (1 << _ADDRESS_BITS) - 1
    return np.where(sleeps & (address > 0) & is_lock(number, machine), number << _ADDRESS_BITS | address, 0)


@dataclass(frozen=True, slots=True)
class Tasks:
    """Names of threads, from the TASK and TASK_CGROUP records: tid -> comm, process, cgroup (kernfs id). `kernel`: the
    kernel's own."""

    comm: Mapping[int, str]
    process: Mapping[int, int]
    cgroup: Mapping[int, int]
    kernel: frozenset[int]

    @staticmethod
    def of(evidence: Evidence) -> "Tasks":
        """Read the records; a task that was renamed has its last name."""
        named, grouped = evidence.of_kind(EventKind.TASK), evidence.of_kind(EventKind.TASK_CGROUP)
        pairs = np.stack([named["a"], named["b"]], axis=1).astype("<u8")
        comms = np.ascontiguousarray(pairs).view("S16").reshape(-1).tolist()
        tids = named["tid"].tolist()
        return Tasks(
            {tid: comm.split(b"\0")[0].decode("utf-8", "replace") for tid, comm in zip(tids, comms, strict=True)},
            dict(zip(tids, named["other"].tolist(), strict=True)),
            dict(zip(grouped["tid"].tolist(), grouped["a"].tolist(), strict=True)),
            frozenset(named["tid"][named["flags"] & 1 != 0].tolist()),
        )

    def processes(self, tid: npt.NDArray[np.uint32]) -> Ints:
        """The process of each thread; the thread itself where no record says."""
        return _looked_up(tid, self.process, own=True)

    def cgroup_ids(self, tid: npt.NDArray[np.uint32]) -> Ints:
        """The kernfs id of each thread's cpu cgroup, 0 where no record says."""
        return _looked_up(tid, self.cgroup, own=False)

    def label(self, tid: int) -> str:
        """`comm/pid`; `?/tid` for a thread that no record names."""
        return f"{self.comm.get(tid, '?')}/{self.process.get(tid, tid)}"


def _looked_up(tid: npt.NDArray[np.uint32], table: Mapping[int, int], own: bool) -> Ints:
    unique, inverse = np.unique(tid, return_inverse=True)
    return np.array([table.get(one, one if own else 0) for one in unique.tolist()], np.int64)[inverse]


@dataclass(frozen=True, slots=True)
class Culprits:
    """Distinct culprits, in the order of their `keys` (code, note, via): `index` into `names` for each of them; `names`
    with "" first, `observer` per name."""

    keys: Ints
    index: Ints
    names: tuple[str, ...]
    observer: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Namer:
    """Gives culprits their names."""

    coder: Coder
    tasks: Tasks
    machine: str
    observer_pids: frozenset[int]
    decode: Callable[[int], str]

    @staticmethod
    def of(evidence: Evidence, coder: Coder) -> "Namer":
        """The names of one session."""
        tasks = Tasks.of(evidence)
        decode = _decoder(evidence, coder, tasks)
        return Namer(coder, tasks, evidence.machine, frozenset(evidence.observer_pids), decode)

    def name(self, keys: Ints) -> Culprits:
        """Name culprits by `keys`, int64[n, 3], distinct and sorted: the code, a note (a system call, or a lock of the
        thread in the third column) and the thread whose state it is, because it was waited for (0: none)."""
        names: dict[str, int] = {"": 0}
        observer = [False]
        index = np.zeros(len(keys), np.int64)
        for row, (code, note, holder) in enumerate(keys.tolist()):
            name = self.decode(code)
            if 0 < note < LOCK_NOTE:
                name = f"{name} (in {syscall_name(note - 1, self.machine)})".strip()
            if holder:
                lock = f" of {_lock_name(self.coder, note, self.machine)}" if note > LOCK_NOTE else ""
                name = f"{name} (holder {self.tasks.comm.get(holder, '?')}/{holder}{lock})".strip()
            if name not in names:
                names[name] = len(names)
                observer.append(False)
            index[row] = names[name]
            tid = _task_of(code)
            ours = self.tasks.process.get(tid, tid) in self.observer_pids or tid in self.observer_pids
            observer[names[name]] |= tid > 0 and ours
        return Culprits(keys, index, tuple(names), np.array(observer, bool))


def distinct(code: Ints, note: Ints, via: Ints) -> tuple[Ints, Ints]:
    """The distinct (code, note, via), int64[n, 3], sorted; and for each row the index of its own."""
    # Few of each are different: their places among those make one number of the three.
    codes, notes, vias = (_values(column) for column in (code, note, via))
    joint = np.searchsorted(codes, code)
    for table, column in ((notes, note), (vias, via)):
        joint = joint * len(table) + (np.searchsorted(table, column) if len(table) > 1 else 0)
    found = _values(joint)
    place, which_via = np.divmod(found, max(1, len(vias)))
    which_code, which_note = np.divmod(place, max(1, len(notes)))
    keys = np.stack([codes[which_code], notes[which_note], vias[which_via]], axis=1)
    return keys, joint if len(found) == len(codes) and len(notes) == len(vias) == 1 else np.searchsorted(found, joint)


def _values(column: Ints) -> Ints:
    """The distinct values, sorted. Sorting beats the hashing of np.unique here."""
    ordered = np.sort(column)
    return ordered[np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))]


def _lock_name(coder: Coder, note: int, machine: str) -> str:
    key = int(coder.locks[note - LOCK_NOTE])
    return f"{syscall_name(key >> _ADDRESS_BITS, machine)} {key & (1 << _ADDRESS_BITS) - 1:#x}"


def culprit_cgroups(evidence: Evidence) -> dict[str, str]:
    """The cgroup path of every task by its culprit name (`comm/pid`), where the session knows it."""
    tasks = Tasks.of(evidence)
    found = {tasks.label(tid): evidence.cgroups.get(str(group), "") for tid, group in tasks.cgroup.items()}
    return {name: path for name, path in found.items() if path}


def _task_of(code: int) -> int:
    """The thread that a code names as the culprit; 0 where it is no thread."""
    kind, payload = code >> _SHIFT, code & (1 << _SHIFT) - 1
    if kind in (CulpritKind.TASK, CulpritKind.WORK):
        return payload & _LOW32
    if kind == CulpritKind.VECTOR:
        return payload >> 8 & (1 << _TID_BITS) - 1
    return 0


def _decoder(evidence: Evidence, coder: Coder, tasks: Tasks) -> Callable[[int], str]:
    symbols = {int(address, 0): name for address, name in evidence.symbols.items()}
    addresses = coder.addresses.tolist()

    def symbol(index: int) -> str:
        return symbols.get(addresses[index], f"{addresses[index]:#x}") if index else ""

    def vector(payload: int) -> str:
        kind, sender, function = payload & 0xFF, payload >> 8 & (1 << _TID_BITS) - 1, symbol(payload >> 8 + _TID_BITS)
        if kind == Vector.LOCAL_TIMER:
            return function or "tick"
        name = Vector(kind).name.lower() if kind in Vector._value2member_map_ else f"vector {kind}"
        return f"{name}{f' ({function})' if function else ''}{f' from {tasks.label(sender)}' if sender else ''}"

    def device(number: int) -> str:
        if not number:
            return "unknown device"
        pair = f"{number >> 20}:{number & 0xFFFFF}"
        return evidence.devices.get(pair) or evidence.devices.get(str(number)) or pair

    def blocked(number: int) -> str:
        return (
            "blocked outside a system call"
            if number == NO_SYSCALL
            else f"blocked in {syscall_name(number, evidence.machine)}"
        )

    def cgroup(number: int) -> str:
        return evidence.cgroups.get(str(number)) or (f"cgroup {number}" if number else "unknown cgroup")

    def work(payload: int) -> str:
        return f"{tasks.comm.get(payload & _LOW32, 'kworker')} ({symbol(payload >> 32)})"

    by_kind: dict[int, Callable[[int], str]] = {
        CulpritKind.TASK: tasks.label,
        CulpritKind.WORK: work,
        CulpritKind.IRQ: lambda number: evidence.irq_names.get(str(number)) or f"irq {number}",
        CulpritKind.SOFTIRQ: lambda number: (
            SOFTIRQ_NAMES[number] if number < len(SOFTIRQ_NAMES) else f"softirq {number}"
        ),
        CulpritKind.VECTOR: vector,
        CulpritKind.CGROUP: cgroup,
        CulpritKind.FAULT: lambda payload: f"{'major' if payload & 4 else 'minor'}: {_MAPPINGS[payload & 3]}",
        CulpritKind.DEVICE: device,
        CulpritKind.GENERATION: lambda number: f"generation {number}",
        CulpritKind.BLOCKED: blocked,
    }

    def decode(code: int) -> str:
        kind, payload = code >> _SHIFT, code & (1 << _SHIFT) - 1
        return _PLAIN[kind] if kind in _PLAIN else by_kind[kind](payload)

    return decode


def fault_codes(address: npt.NDArray[np.uint64], major: npt.NDArray[np.bool_], evidence: Evidence) -> Ints:
    """Codes of page faults by what is mapped at their address (0: not known)."""
    maps = sorted(evidence.maps)
    starts = np.array([start for start, _, _ in maps], np.uint64)
    ends = np.array([end for _, end, _ in maps], np.uint64)
    kinds = np.array([2 if what.startswith("file:") else 1 for _, _, what in maps], np.int64)
    if not len(maps):
        return coded(CulpritKind.FAULT, np.where(major, 4, 0).astype(np.int64))
    at = np.searchsorted(starts, address, "right") - 1
    inside = (at >= 0) & (address < ends[np.maximum(at, 0)])
    mapping = np.where(inside, kinds[np.maximum(at, 0)], 0)
    return coded(CulpritKind.FAULT, (mapping | np.where(major, 4, 0)).astype(np.int64))
