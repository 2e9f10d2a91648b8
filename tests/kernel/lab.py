"""What the kernel tests share: the victim (victim.c), a session on it, and the records of one act."""

import gzip
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest

from jitterprof.model.event import CLOCK_CLASSES, CLOCK_COUNT, CLOCK_COUNTERS, CLOCK_NS, CLOCK_STATE, EventKind
from jitterprof.trace.session import TraceSession

SOURCE = Path(__file__).resolve().parent / "victim.c"
CPUS = sorted(os.sched_getaffinity(0))
#: Where the victim's acts that want one CPU take place.
CPU = CPUS[-1]

Rows = npt.NDArray[np.void]


def build(folder: Path) -> Path:
    """The victim program."""
    program = folder / "jp-victim"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(program), str(SOURCE)], check=True)
    return program


@dataclass(frozen=True)
class Clock:
    """One snapshot of a state clock."""

    words: tuple[int, ...]

    @property
    def state(self) -> int:
        return self.words[CLOCK_STATE]

    @property
    def ns(self) -> dict[str, int]:
        return dict(zip(CLOCK_CLASSES, self.words[CLOCK_NS:], strict=False))

    @property
    def counts(self) -> dict[str, int]:
        return dict(zip(CLOCK_COUNTERS, self.words[CLOCK_COUNT:], strict=True))


@dataclass(frozen=True)
class Answer:
    """What the victim says of an act: when, in which thread, and more by name."""

    begin: int
    end: int
    tid: int
    values: dict[str, int]
    clocks: tuple[Clock, ...]

    def __getitem__(self, name: str) -> int:
        return self.values[name]


class Victim:
    """A running victim. `do` waits for the answer; `ask` and `answer` are its two halves."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = self._process.pid
        self.expect_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            if end is not None and not end.closed:
                end.close()

    def expect_ready(self) -> None:
        """After the start, or after it became itself again by exec."""
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, act: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(act + "\n")

    def answer(self) -> Answer:
        line = self._read()
        if not line or line.startswith("error"):
            raise RuntimeError(f"the victim: {line or 'gone'}")
        begin, end, tid, *rest = line.split()
        values = dict(part.split("=") for part in rest)
        clocks = [values.pop(f"clock{edge}") for edge in range(2) if f"clock{edge}" in values]
        return Answer(
            int(begin),
            int(end),
            int(tid),
            {name: int(value) for name, value in values.items()},
            tuple(Clock(tuple(map(int, words.split(",")))) for words in clocks),
        )

    def do(self, act: str) -> Answer:
        self.ask(act)
        return self.answer()

    def state(self) -> str:
        """As in /proc/PID/stat: R, S, T ..."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def wait(self) -> int:
        """Ends its input and waits for the end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(30)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Polls; fails the test when it does not come true. Never a measure of time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)


@dataclass(frozen=True)
class Act:
    """One act: its answer and the records of all CPUs from its begin to its end, by time. `since_asked`: from the
    moment at which it was asked for."""

    answer: Answer
    events: Rows
    since_asked: Rows

    @property
    def begin(self) -> int:
        return self.answer.begin

    @property
    def end(self) -> int:
        return self.answer.end

    @property
    def tid(self) -> int:
        return self.answer.tid

    def all_since_asked(self) -> "Act":
        """The same act, from when it was asked for."""
        return Act(self.answer, self.since_asked, self.since_asked)

    def of(self, kind: EventKind, tid: int | None = None) -> Rows:
        """Records of a kind about the acting thread (or another)."""
        chosen = (self.events["kind"] == kind) & (self.events["tid"] == (self.tid if tid is None else tid))
        return self.events[chosen]

    def outs(self, syscall: int | None = None, tid: int | None = None) -> Rows:
        """SWITCH_OUTs, or those in one system call."""
        outs = self.of(EventKind.SWITCH_OUT, tid)
        return outs if syscall is None else outs[nr_of(outs) == syscall]


@cache
def kernel_config(name: str) -> str:
    """An option of the running kernel; "" where it is not set. Skips the test where the kernel does not say."""
    packed, boot = Path("/proc/config.gz"), Path(f"/boot/config-{os.uname().release}")
    if packed.exists():
        text = gzip.decompress(packed.read_bytes()).decode()
    elif boot.exists():
        text = boot.read_text()
    else:
        pytest.skip("this kernel does not tell its configuration")
    found = [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]
    return found[0] if found else ""


def nr_of(outs: Rows) -> npt.NDArray[np.int64]:
    """System call numbers of SWITCH_OUTs."""
    return ((outs["a"] >> np.uint64(32)) & np.uint64(0xFFFF)).astype(np.int64)


def state_of(outs: Rows) -> npt.NDArray[np.int64]:
    """prev_state of SWITCH_OUTs."""
    return (outs["a"] & np.uint64(0xFFFFFFFF)).astype(np.int64)


def cpu_of(queued: Rows) -> npt.NDArray[np.int64]:
    """The run queue that WAKING, WAKEUP and MIGRATE name."""
    return (queued["a"] & np.uint64(0xFFFFFFFF)).astype(np.int64)


def transitions(act: Act, cpu: int) -> list[tuple[int, int, int]]:
    """Who followed whom on a CPU, as far as it was recorded: (ts, from, to), each switch once."""
    switches = act.events[act.events["cpu"] == cpu]
    found = set()
    for event in switches[np.isin(switches["kind"], (EventKind.SWITCH_OUT, EventKind.SWITCH_IN, EventKind.OCCUPY))]:
        pair = (int(event["tid"]), int(event["other"]))
        found.add((int(event["ts"]), *(pair if event["kind"] == EventKind.SWITCH_OUT else pair[::-1])))
    return sorted(found)


def comm_of(task: Any) -> str:
    """The name in a TASK record."""
    return (int(task["a"]).to_bytes(8, "little") + int(task["b"]).to_bytes(8, "little")).split(b"\0")[0].decode()


def init_switches() -> int:
    """How often threads of process 1 have left a CPU so far."""
    statuses = [path.read_text() for path in Path("/proc/1/task").glob("*/status")]
    return sum(int(line.split()[1]) for text in statuses for line in text.splitlines() if "ctxt_switches" in line)


def appeared(events: Rows) -> list[Any]:
    """SWITCH_OUTs of victims that nothing says had arrived."""
    last: dict[int, int] = {}
    found = []
    for event in events[np.isin(events["kind"], (EventKind.FORK, EventKind.SWITCH_IN, EventKind.SWITCH_OUT))]:
        kind, tid = int(event["kind"]), int(event["tid"])
        if kind == EventKind.SWITCH_OUT and last.get(tid, EventKind.SWITCH_IN) != EventKind.SWITCH_IN:
            found.append(event)
        last[tid] = kind
    return found


class Lab:
    """A victim with a session on it."""

    def __init__(self, victim: Victim, session: TraceSession) -> None:
        self.victim, self.session = victim, session
        self.before: list[Rows] = []

    def drain(self) -> Rows:
        """Everything that is in the ring, by time."""
        batches = [self.session.read()]
        ring = self.session.ring
        assert ring is not None
        # A drain stops before a record that is just being written.
        while ring.filled():
            batches.append(self.session.read())
        events = np.concatenate(batches)
        return events[np.argsort(events["ts"], kind="stable")]

    def act(self, act: str, meanwhile: Callable[[], None] | None = None) -> Act:
        """Have the victim do something, and `meanwhile` do something to it.

        The kernel of one sandbox hides whatever happens while a thread of its init is current (perf and bpftrace see
        nothing either), the switch to the next task too. An act that met that is done again; a SWITCH_IN that is
        missing without it fails the test.
        """
        for _ in range(8):
            self.before.append(self.drain())
            init = init_switches()
            self.victim.ask(act)
            if meanwhile is not None:
                meanwhile()
            answer = self.victim.answer()
            events = self.drain()
            self.before.append(events)
            unseen = appeared(events)
            if not unseen:
                break
            assert init_switches() != init, f"left a CPU without having arrived: {unseen}"
        assert not unseen, f"left a CPU without having arrived, each time: {unseen}"
        inside = (events["ts"] >= answer.begin) & (events["ts"] <= answer.end)
        return Act(answer, events[inside], events)

    def tasks(self) -> Rows:
        """All TASK records so far: a task is named once."""
        self.before.append(self.drain())
        events = np.concatenate(self.before)
        return events[events["kind"] == EventKind.TASK]

    def table(self, name: str) -> Any:
        """A map of the programs, as bcc gives it."""
        return self.session._loaded.bpf[name.encode()]

    def lost(self) -> int:
        return sum(row.lost for row in self.session.cpu_counts())

    def watched(self) -> list[int]:
        """Per CPU how many victims the programs think wait there."""
        return [self.table("cpus")[cpu].watch for cpu in range(len(self.session.cpu_counts()))]

    def slots(self) -> dict[int, int]:
        """Thread -> slot of its state clock."""
        return {tid.value: slot.value for tid, slot in self.table("slots").items()}


@contextmanager
def open_lab(program: Path, **options: Any) -> Iterator[Lab]:
    """A fresh victim and a session on it (options of TraceSession)."""
    with Victim(program) as victim:
        session = TraceSession(victim.pid, **options)
        try:
            yield Lab(victim, session)
        finally:
            session.close()
