"""A recorded session that nobody recorded: a serving thread with a pool, thousands of requests, and the records that
the probes would have written, made with whole columns at a time. Seeded, and the same for the same arguments.

The mix is that of a model that serves on a busy host: ten records per request, of which a third are interrupts on the
thread's CPU, a third the pool's wake-ups, and the rest sleeping between requests, preemption, locks and page faults.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jitterprof.model.event import EVENT_DTYPE, Context, EventKind, OutFlag, Vector
from jitterprof.model.request import REQUEST_DTYPE, Phase
from jitterprof.model.run import SCHEMA_VERSION, Manifest, ProbeStatus, RunSpec
from jitterprof.store import create_run
from jitterprof.store.manifest import STATE_COMPLETE, write_manifest
from jitterprof.store.tables import write_array

EVENTS_PER_REQUEST = 10
ORIGIN = 1_000_000_000_000
SERVICE_NS = 800_000
UTILISATION = 0.45
PROCESS, SERVER, FIRST_POOL, FIRST_HOG, OBSERVER = 4000, 4001, 4002, 9000, 7000
POOL, HOGS = 3, 12
FUTEX, NANOSLEEP, EXCEPTION = 202, 230, 0xFFFF
TICK, FLUSH = 0xFFFF_FFFF_8100_0000, 0xFFFF_FFFF_8200_0000

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Host:
    """The requests and where the serving thread was: `cpu` per request; pool thread k is on the k-th CPU after it."""

    random: np.random.Generator
    cpus: int
    start: Ints
    end: Ints
    cpu: Ints

    def hit(self, share: float) -> Ints:
        """Requests that something happens to."""
        return np.flatnonzero(self.random.random(len(self.start)) < share)

    def at(self, rows: Ints, low: float, high: float) -> Ints:
        """A moment in each request between two fractions of its service time."""
        part = self.random.uniform(low, high, len(rows))
        return self.start[rows] + (part * (self.end[rows] - self.start[rows])).astype(np.int64)

    def length(self, rows: Ints, mean: int, most: int) -> Ints:
        return np.minimum(self.random.exponential(mean, len(rows)).astype(np.int64) + 300, most)


def _records(ts: Ints, cpu: Ints, kind: EventKind, **columns: Ints | int) -> npt.NDArray[np.void]:
    rows = np.zeros(len(ts), EVENT_DTYPE)
    rows["ts"], rows["cpu"], rows["kind"] = ts, cpu, kind
    for name, value in columns.items():
        rows[name] = value
    return rows


def _requests(random: np.random.Generator, count: int) -> npt.NDArray[np.void]:
    """A queue with one server: Poisson arrivals, two shapes, a heavy tail."""
    shape = (random.random(count) < 0.2).astype(np.int16)
    service = SERVICE_NS * np.where(shape, 1.6, 1.0) * random.lognormal(0, 0.08, count)
    service = np.where(random.random(count) < 0.005, service * 3, service).astype(np.int64)
    intended = ORIGIN + np.cumsum(random.exponential(service.mean() / UTILISATION, count)).astype(np.int64)
    # Lindley: a request starts when it is due and the one before is done.
    work = np.cumsum(service)
    end = work + np.maximum.accumulate(intended - (work - service))
    rows = np.zeros(count, REQUEST_DTYPE)
    rows["seq"], rows["parent"], rows["phase"] = np.arange(count), -1, Phase.MEASURED
    rows["intended_ns"], rows["end_ns"], rows["start_ns"] = intended, end, end - service
    rows["tid"], rows["shape"] = SERVER, shape
    return rows


def _sleeps(host: Host) -> list[npt.NDArray[np.void]]:
    """The thread sleeps on a timer until the next request, where that is worth it; now and then it wakes elsewhere."""
    gap = host.start[1:] - host.end[:-1]
    row = np.flatnonzero((gap > 60_000) & (host.random.random(len(gap)) < 0.9))
    out, wake = host.end[row] + 4_000, host.start[row + 1] - 40_000
    before, after = host.cpu[row], host.cpu[row + 1]
    moved = np.flatnonzero(before != after)
    return [
        _records(out, before, EventKind.SWITCH_OUT, tid=SERVER, a=1 | NANOSLEEP << 32),
        _records(wake, before, EventKind.WAKING, tid=SERVER, flags=Context.VECTOR, a=before, b=int(Vector.LOCAL_TIMER)),
        _records(wake[moved] + 900, before[moved], EventKind.MIGRATE, tid=SERVER, other=before[moved], a=after[moved]),
        _records(wake + 3_000, after, EventKind.SWITCH_IN, tid=SERVER),
    ]


def _interrupts(host: Host) -> list[npt.NDArray[np.void]]:
    """Ticks with their softirq, devices with theirs, IPIs, page faults: all on the serving thread."""
    parts = []
    for number in range(2):
        row = host.hit(0.95)
        start = host.at(row, 0.02 + 0.4 * number, 0.06 + 0.4 * number)
        end = start + host.length(row, 1_500, 6_000)
        parts.append(
            _records(end, host.cpu[row], EventKind.VECTOR, tid=SERVER, a=start, b=TICK, flags=Vector.LOCAL_TIMER)
        )
        raised = host.random.random(len(row)) < 0.35
        row, start = row[raised], end[raised] + 200
        vector = host.random.choice([1, 7, 9], len(row))
        parts.append(
            _records(
                start + host.length(row, 2_500, 9_000),
                host.cpu[row],
                EventKind.SOFTIRQ,
                tid=SERVER,
                other=vector,
                a=start,
            )
        )
    row = host.hit(0.15)
    start = host.at(row, 0.35, 0.38)
    end = start + host.length(row, 2_000, 8_000)
    parts.append(_records(end, host.cpu[row], EventKind.HARDIRQ, tid=SERVER, other=24, a=start))
    parts.append(
        _records(
            end + 150 + host.length(row, 20_000, 60_000), host.cpu[row], EventKind.SOFTIRQ, tid=SERVER, other=3,
            a=end + 150,
        )
    )  # fmt: skip
    row = host.hit(0.4)
    start = host.at(row, 0.80, 0.82)
    parts.append(
        _records(
            start + host.length(row, 900, 3_000), host.cpu[row], EventKind.VECTOR, tid=SERVER, a=start, b=FLUSH,
            other=FIRST_POOL, flags=Vector.CALL_FUNCTION,
        )
    )  # fmt: skip
    row = host.hit(0.3)
    start = host.at(row, 0.84, 0.90)
    parts.append(
        _records(
            start + host.length(row, 1_500, 20_000), host.cpu[row], EventKind.FAULT, tid=SERVER, a=start,
            b=np.where(host.random.random(len(row)) < 0.3, 0x1800, 0x2800),
        )
    )  # fmt: skip
    return parts


def _preemptions(host: Host) -> list[npt.NDArray[np.void]]:
    """Hogs take the CPU from the serving thread, sometimes two in a row."""
    row = host.hit(0.12)
    cpu, out = host.cpu[row], host.at(row, 0.10, 0.15)
    hog, second = host.random.integers(0, HOGS, (2, len(row))) + FIRST_HOG
    length = host.length(row, 60_000, 150_000)
    pair = np.flatnonzero(host.random.random(len(row)) < 0.5)
    last = hog.copy()
    last[pair] = second[pair]
    return [
        _records(out, cpu, EventKind.SWITCH_OUT, tid=SERVER, other=hog, flags=OutFlag.PREEMPT, a=EXCEPTION << 32),
        _records((out + length // 2)[pair], cpu[pair], EventKind.OCCUPY, tid=second[pair], other=hog[pair]),
        _records(out + length, cpu, EventKind.SWITCH_IN, tid=SERVER, other=last),
    ]


def _pool(host: Host) -> list[npt.NDArray[np.void]]:
    """The serving thread wakes pool threads, which compute and go back to sleep; sometimes it waits for one."""
    parts = []
    for number in range(POOL):
        tid, row = FIRST_POOL + number, host.hit(0.39)
        cpu = (host.cpu[row] + 1 + number) % host.cpus
        wake = host.at(row, 0.50, 0.52)
        done = host.at(row, 0.60, 0.68)
        here = host.cpu[row]
        parts += [
            _records(wake, here, EventKind.WAKING, tid=tid, other=SERVER, a=cpu),
            _records(wake + 4_000, cpu, EventKind.SWITCH_IN, tid=tid),
            _records(done, cpu, EventKind.SWITCH_OUT, tid=tid, a=1 | FUTEX << 32, b=64 + number),
        ]
        # The pool's CPUs are interrupted too.
        ticked = host.random.random(len(row)) < 0.4
        start = wake[ticked] + 9_000
        parts.append(_records(start + 1_500, cpu[ticked], EventKind.VECTOR, tid=tid, a=start, flags=Vector.LOCAL_TIMER))
        if number == 0:
            waits = host.random.random(len(row)) < 0.6
            out, woken = wake[waits] + 10_000, done[waits] - 3_000
            word = here[waits]
            parts += [
                _records(out, word, EventKind.SWITCH_OUT, tid=SERVER, a=1 | FUTEX << 32, b=640),
                _records(woken, cpu[waits], EventKind.WAKING, tid=SERVER, other=tid, a=word),
                _records(woken + 3_500, word, EventKind.SWITCH_IN, tid=SERVER),
            ]
    return parts


def _names(cpus: int) -> npt.NDArray[np.void]:
    tasks = [(SERVER, "model", PROCESS), (OBSERVER, "jitterprof", OBSERVER)]
    tasks += [(FIRST_POOL + number, "pool", PROCESS) for number in range(POOL)]
    tasks += [(FIRST_HOG + number, f"hog{number % 4}", FIRST_HOG + number) for number in range(HOGS)]
    rows = np.zeros(len(tasks), EVENT_DTYPE)
    rows["ts"], rows["kind"] = ORIGIN - 1_000_000, EventKind.TASK
    rows["cpu"] = np.arange(len(tasks)) % cpus
    for row, (tid, comm, process) in zip(rows, tasks, strict=True):
        row["tid"], row["other"] = tid, process
        row["a"], row["b"] = np.frombuffer(comm.encode().ljust(16, b"\0"), "<u8")
    return rows


def synthetic(count: int, seed: int = 0, cpus: int = 8) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void], Manifest]:
    """Requests (REQUEST_DTYPE), events (EVENT_DTYPE by ts) and the manifest of a session of `count` requests."""
    random = np.random.default_rng(seed)
    requests = _requests(random, count)
    # The scheduler moves the thread every few hundred requests, when it sleeps.
    gap = requests["start_ns"][1:] - requests["end_ns"][:-1]
    moves = np.concatenate([[False], (gap > 60_000) & (random.random(count - 1) < 0.005)])
    cpu = random.integers(0, cpus, count)[np.cumsum(moves)]
    host = Host(random, cpus, requests["start_ns"].copy(), requests["end_ns"].copy(), cpu)
    requests["cpu_start"] = requests["cpu_end"] = cpu
    first = _records(np.array([ORIGIN - 500_000]), cpu[:1], EventKind.SWITCH_IN, tid=SERVER)
    events = np.concatenate(
        [_names(cpus), first, *_sleeps(host), *_interrupts(host), *_preemptions(host), *_pool(host)]
    )
    events = events[np.argsort(events["ts"], kind="stable")]
    for number in range(cpus):
        mine = np.flatnonzero(events["cpu"] == number)
        events["seq"][mine] = np.arange(len(mine))
    window = (ORIGIN - 2_000_000, int(requests["end_ns"].max()) + 1_000_000)
    manifest = Manifest(
        schema=SCHEMA_VERSION,
        state=STATE_COMPLETE,
        spec=RunSpec(workload="synthetic", backend="null", threads=1 + POOL, seed=seed),
        started_ns=ORIGIN,
        started_wall="2026-01-01T00:00:00+00:00",
        window_ns=window,
        pids=(PROCESS,),
        worker_tids=(SERVER,),
        observer_pids=(OBSERVER,),
        shapes=("1x64", "1x128"),
        environment={"machine": "x86_64"},
        probes=tuple(ProbeStatus(name, "on") for name in ("sched", "irq", "memory", "block")),
        probe_mode="bpf",
        irq_names={"24": "nvme0q1"},
        symbols={hex(TICK): "tick_nohz_handler", hex(FLUSH): "flush_tlb_func"},
        maps=((0x1000, 0x2000, "file:libm.so"), (0x2000, 0x3000, "heap")),
        cpu_seq={str(number): int((events["cpu"] == number).sum()) - 1 for number in range(cpus)},
    )
    return requests, events, manifest


def write_session(path: Path, count: int, seed: int = 0, cpus: int = 8) -> tuple[int, int]:
    """Write a session of `count` requests to the run directory `path`. Returns how many requests and events it has."""
    requests, events, manifest = synthetic(count, seed, cpus)
    create_run(path, manifest)
    write_array(path / "requests.parquet", requests)
    write_array(path / "events.parquet", events)
    write_manifest(path, manifest)
    return len(requests), len(events)
