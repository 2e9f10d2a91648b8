"""The recorder's process: loads the probes, drains the ring to disk, and keeps out of the workload's way."""

import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jitterprof.errors import JitterprofError, ProbeUnavailable
from jitterprof.experiment.channel import Channel
from jitterprof.experiment.children import enter_child
from jitterprof.experiment.flight import Batch, Flight
from jitterprof.experiment.row_follower import RowFollower
from jitterprof.model.event import EventKind, OutFlag
from jitterprof.store.streams import (
    EVENT_STREAM,
    LOSS_STREAM,
    SAMPLE_STREAM,
    STATE_STREAM,
    WINDOW_STREAM,
    EventStream,
    RecordStream,
    StateStream,
)
from jitterprof.system.counters import Counters, difference, snapshot
from jitterprof.system.files import Host
from jitterprof.system.kallsyms import symbol_addresses
from jitterprof.system.naming import cgroup_paths, device_names, kernel_symbols
from jitterprof.system.rights import BPF_RIGHTS, check_rights
from jitterprof.system.sampler import Sampler
from jitterprof.trace.session import CPU_COUNTERS, TraceSession

#: Drain at least this often, so that a kill loses little; the kernel wakes us earlier when a quarter is full.
DRAIN_S = 1.0
#: Above this fill at a drain, being quiet is no longer worth the risk of losing records.
ESCALATE_AT = 0.5
_TICKS = ("tick_nohz_handler", "tick_sched_timer")


@dataclass(slots=True)
class Drained:
    """What went by so far. `devices`, `functions`, `groups`: ids to be named at the end."""

    records: int = 0
    last_seq: dict[int, int] = field(default_factory=dict)
    devices: set[int] = field(default_factory=set)
    functions: set[int] = field(default_factory=set)
    groups: dict[int, str] = field(default_factory=dict)
    highest_fill: float = 0.0
    error: str = ""

    def note(self, events: npt.NDArray[np.void], host: Host) -> None:
        """Collect the ids in a batch; a cgroup is named at once, since it may be gone later."""
        self.records += len(events)
        kind = events["kind"]
        self.devices.update(np.unique(events["other"][kind == EventKind.BLOCK_IO]).tolist())
        named = (kind == EventKind.VECTOR) | (kind == EventKind.WORK)
        self.functions.update(np.unique(events["b"][named]).tolist())
        # In task context the waker's word is the work item that a kworker ran; small numbers are irqs and vectors.
        wakers = events["b"][(kind == EventKind.WAKING) & (events["flags"] == 0)]
        self.functions.update(np.unique(wakers).tolist())
        groups = set(np.unique(events["a"][kind == EventKind.TASK_CGROUP]).tolist())
        throttled = (kind == EventKind.SWITCH_OUT) & (events["flags"] & OutFlag.THROTTLED != 0)
        groups |= set(np.unique(events["b"][throttled]).tolist())
        groups -= self.groups.keys() | {0}
        if groups:
            names = _recorded_names(events[kind == EventKind.CGROUP])
            self.groups.update({group: names.get(group & 0xFFFFFFFF, "") for group in groups})
            self.groups.update(cgroup_paths(host, groups))


def _recorded_names(records: npt.NDArray[np.void]) -> dict[int, str]:
    """Low half of the kernfs id -> "parent/name" from CGROUP records, for cgroups whose directory is gone already."""
    texts: dict[tuple[int, int], bytes] = {}
    for record in records[np.argsort(records["other"], kind="stable")]:
        key = (int(record["tid"]), int(record["flags"]))
        texts[key] = texts.get(key, b"") + record["a"].tobytes() + record["b"].tobytes()
    names = {key: text.split(b"\0")[0].decode(errors="replace") for key, text in texts.items()}
    return {group: f"{names.get((group, 1), '')}/{name}" for (group, level), name in names.items() if level == 0}


#: With autogroups the scheduler first shares a CPU among sessions, and idle priority counts inside ours alone; the
#: group has a nice value of its own (man 7 sched). It is gone with the session, which is this process.
_AUTOGROUP = Path("/proc/self/autogroup")


def _be_quiet() -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _weigh_autogroup("19")


def _be_prompt() -> None:
    # Leaving SCHED_IDLE needs CAP_SYS_NICE; without it we never entered with that problem (root only).
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    _weigh_autogroup("0")


def _weigh_autogroup(nice: str) -> None:
    if _AUTOGROUP.exists():
        _AUTOGROUP.write_text(nice)


@dataclass(frozen=True, slots=True)
class _Start:
    counters: Counters
    cpu_counts: tuple[tuple[int, ...], ...]
    steal_ns: tuple[int, ...]


class _Log:
    """The files of a recording: all records, or what the flight recorder keeps of them."""

    def __init__(self, out: Path, flight: Flight | None, workers: int) -> None:
        self._events, self.kept = EventStream(out / EVENT_STREAM), 0
        self._flight, self._rows = flight, RowFollower(out, workers)
        if flight is not None:
            self._losses, self._windows = RecordStream(out / LOSS_STREAM), RecordStream(out / WINDOW_STREAM)
            self._states = StateStream(out / STATE_STREAM)

    def add(self, events: npt.NDArray[np.void]) -> None:
        """Write `events`, or those that are decided. Raises OSError."""
        if self._flight is None:
            self._events.write_batch(events)
            self.kept += len(events)
            return
        now = time.monotonic_ns()
        self._write(self._flight.take(events, self._rows.finished(), now))

    def finish(self, cpu_seq: Mapping[int, int]) -> None:
        """Write what is left to decide. Raises OSError."""
        if self._flight is not None:
            self._write(self._flight.finish(self._rows.finished(), cpu_seq))

    def _write(self, batch: Batch) -> None:
        self._states.write(self._rows.states())
        self._events.write_batch(batch.events)
        self._losses.write(batch.losses)
        self._windows.write(batch.windows)
        self.kept += len(batch.events)

    def close(self) -> None:
        """Write back to the disk. Raises OSError."""
        self._rows.close()
        self._events.close()
        if self._flight is not None:
            for stream in (self._losses, self._windows, self._states):
                stream.close()


class Recorder:
    """One BPF recording, from attach to the summary."""

    def __init__(
        self,
        channel: Channel,
        pid: int,
        out: Path,
        events: bool,
        canary_pid: int,
        flight: Flight | None = None,
        workers: int = 1,
    ) -> None:
        self._channel, self._pid, self._out = channel, pid, out
        self._host = Host()
        tick = next(iter(symbol_addresses(self._host, _TICKS).values()), 0)
        self._session = TraceSession(pid, events=events, tick_function=tick, canary_pid=canary_pid)
        self._log = _Log(out, flight, workers) if events else None
        self._drained = Drained()
        self._escalated = False
        self._followed: tuple[int, ...] = (pid,)
        channel.send(
            "attached",
            fd=self._session.clock_fd,
            with_fd=True,
            mode="bpf" if events else "clocks",
            probes=[asdict(status) for status in self._session.statuses],
        )
        self._start = self._look()

    def _look(self) -> _Start:
        rows = self._session.cpu_counts()
        counters = snapshot(self._host, (self._pid,))
        return _Start(counters, tuple(row.counts for row in rows), tuple(row.steal_ns for row in rows))

    def drain(self) -> None:
        """Copy what is ready to the disk. After a write error the rest is counted, not written."""
        ring = self._session.ring
        if ring is None or self._log is None:
            return
        fill = ring.filled()
        self._drained.highest_fill = max(self._drained.highest_fill, fill)
        if fill > ESCALATE_AT and not self._escalated:
            self._escalated = True
            _be_prompt()
        events = self._session.read()
        if self._drained.error:
            return
        if len(events):
            self._drained.note(events, self._host)
        self._written(lambda log: log.add(events))

    def _written(self, write: Callable[[_Log], None]) -> None:
        if self._log is None or self._drained.error:
            return
        try:
            write(self._log)
        except OSError as error:
            self._drained.error = f"events could not be written any more: {error.strerror}"
            self._channel.send("trouble", message=self._drained.error)

    def _drain_to_the_end(self) -> None:
        """A drain stops before a record that is still being written, so after detaching one more may be due."""
        ring = self._session.ring
        deadline = time.monotonic() + DRAIN_S
        while ring is not None and ring.filled() > 0 and time.monotonic() < deadline:
            self.drain()

    def record(self, stopping: Callable[[], bool]) -> None:
        """Until the coordinator says stop or goes away."""
        poll = select.epoll()
        poll.register(self._channel.fileno(), select.EPOLLIN)
        if self._session.ring_fd >= 0:
            poll.register(self._session.ring_fd, select.EPOLLIN)
        while not stopping():
            ready = poll.poll(DRAIN_S)
            self.drain()
            if any(fd == self._channel.fileno() for fd, _ in ready) and self._channel.receive() is not None:
                return

    def abandon(self) -> None:
        """Write what was drained and is not decided yet: nobody is left to send a summary to."""
        self._written(lambda log: log.finish({}))

    def finish(self) -> None:
        """Last drain, counters, names; sends the summary."""
        _be_prompt()
        end = self._look()
        self._session.detach()
        rows = self._session.cpu_counts()
        missed = self._session.recursion_misses()
        self._followed = self._session.followed()
        self._drain_to_the_end()
        self._session.close()
        cpu_seq = {row.cpu: row.seq - 1 for row in rows if row.seq}
        self._written(lambda log: log.finish(cpu_seq))
        if self._log is not None:
            self._log.close()
        symbols, no_symbols = kernel_symbols(self._host, self._drained.functions - {0})
        counts = [
            {name: now[i] - then[i] for i, name in enumerate(CPU_COUNTERS)}
            for now, then in zip(end.cpu_counts, self._start.cpu_counts, strict=True)
        ]
        self._channel.send(
            "done",
            records=self._drained.records,
            pids=list(self._followed),
            kept=self._log.kept if self._log is not None else 0,
            lost=sum(row.lost for row in rows),
            missing=max(0, sum(row.seq for row in rows) - self._drained.records),
            recursion_misses=missed,
            cpu_seq={str(cpu): seq for cpu, seq in cpu_seq.items()},
            symbols={str(address): name for address, name in symbols.items()},
            no_symbols=no_symbols,
            devices={f"{device >> 20}:{device & 0xFFFFF}": name for device, name in self._device_names().items()},
            cgroups={str(number): path for number, path in self._drained.groups.items()},
            highest_fill=self._drained.highest_fill,
            escalated=self._escalated,
            error=self._drained.error,
            oracles={
                "begin_ns": self._start.counters.taken_ns,
                "end_ns": end.counters.taken_ns,
                "kernel": asdict(difference(self._start.counters, end.counters)),
                "probes": counts,
                "steal_ns": [now - then for now, then in zip(end.steal_ns, self._start.steal_ns, strict=True)],
            },
            cpu_ns=time.process_time_ns(),
        )

    def _device_names(self) -> dict[int, str]:
        return device_names(self._host, self._drained.devices)


def _sample(channel: Channel, pid: int, out: Path, stopping: Callable[[], bool]) -> None:
    """The fallback: the kernel's own counters, window by window."""
    host = Host()
    stop = threading.Event()
    errors: list[OSError] = []

    def sample() -> None:
        try:
            sampler.run(stop)
        except OSError as error:
            errors.append(error)

    sampler = Sampler(host, (pid,), out / SAMPLE_STREAM)
    try:
        channel.send("attached", mode="procfs", probes=[])
        before = snapshot(host, (pid,))
        thread = threading.Thread(target=sample)
        thread.start()
        while not stopping() and not errors:
            if channel.receive(DRAIN_S) is not None:
                break
        stop.set()
        thread.join()
        sampler.close()
    except OSError as error:
        errors.append(error)
    after = snapshot(host, (pid,))
    reason = f"samples could not be written any more: {errors[0].strerror}" if errors else ""
    if reason:
        channel.send("trouble", message=reason)
    oracles = {
        "begin_ns": before.taken_ns,
        "end_ns": after.taken_ns,
        "kernel": asdict(difference(before, after)),
        "quota_paths": list(sampler.quota_paths),
    }
    channel.send("done", oracles=oracles, error=reason, cpu_ns=time.process_time_ns())


def _check_rights() -> None:
    """Said before bcc tries, which would call a missing right a failure to compile."""
    for right in check_rights(Host()):
        if right.name in BPF_RIGHTS and not right.granted:
            raise ProbeUnavailable(f"no right to {right.name}: {right.reason}", right.fix)


def _run(channel: Channel, stopping: Callable[[], bool]) -> None:
    start = channel.receive()
    assert start is not None
    pid, out, mode = int(str(start.body["pid"])), Path(str(start.body["out"])), str(start.body["mode"])
    cpus = start.body["cpus"]
    assert isinstance(cpus, list)
    os.sched_setaffinity(0, cpus)
    if mode == "procfs":
        _sample(channel, pid, out, stopping)
        return
    _check_rights()
    workers, slo, seed = (int(str(start.body[name])) for name in ("workers", "slo_ns", "seed"))
    flight = Flight(workers, slo or None, seed) if start.body["keep"] == "tail" else None
    recorder = Recorder(channel, pid, out, mode == "bpf", int(str(start.body["canary_pid"])), flight, workers)
    _be_quiet()
    try:
        recorder.record(stopping)
    except EOFError:
        recorder.abandon()
        raise
    recorder.finish()


def main() -> None:
    """Entry point of `python -m`."""
    channel = enter_child()
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _run(channel, lambda: bool(stopped))
    except JitterprofError as error:
        channel.send_error(error)
    except EOFError:
        return  # the coordinator is gone: what was drained is on disk, and the probes go with us
    except Exception:
        traceback.print_exc()
        raise


if __name__ == "__main__":
    main()
