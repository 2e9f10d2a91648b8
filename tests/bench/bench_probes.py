"""What the probes cost: per context switch and per interrupt, beside peers; loading, draining; and a model end to end.

Rounds of all arms alternate in random order on one CPU, so that whatever else the machine does hits all alike. A cost
is the difference to the same round without probes; its median, lowest and highest round are printed. Needs root.

    python tests/bench/bench_probes.py [--only switch,load,drain,live,model] [--rounds 7] [--seconds 8] [--json]
"""

import argparse
import ctypes
import json
import os
import platform
import random
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CPUS = sorted(os.sched_getaffinity(0))
#: Where the switching happens; everything else runs on the first one.
CPU, OTHER = CPUS[-1], CPUS[0]
#: Mode of handover.c -> what a cost is counted per, operations per chunk, how many of that an operation is.
MODES = {
    "yield-process": ("switch, one side", 600, 2),
    "yield-thread": ("switch, both sides", 600, 2),
    "futex": ("wake-up and switch", 400, 2),
    "fault": ("minor fault", 600, 1),
}
CHUNKS = 60
#: IPIs as gaps of a loop that reads the clock: how many, from which length on, how often.
GAPS, GAP_NS, PERIOD_NS = 4000, 3000, 20_000
PERCENTILE = 5
PEERS = {
    "bpftrace": ["bpftrace", "-q", "-e", "tracepoint:sched:sched_switch { @[args->next_pid] = count(); }"],
    "perf": ["perf", "record", "-q", "-a", "-e", "sched:sched_switch", "-o", "/dev/shm/jp-bench-perf.data"],
}
TARGETS = {"matched": 350, "filtered": 220}


class Handover:
    """tests/bench/native/handover.c, running."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            [str(program), str(CPU), str(OTHER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        ready, pid = self._line().split()
        assert ready == "ready"
        #: The process that does the work; its parent is the partner.
        self.pid = int(pid)

    def _line(self) -> str:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], 120)[0]:
            raise TimeoutError("handover.c says nothing: is its CPU taken by real-time tasks?")
        return self.process.stdout.readline().strip()

    def chunks(self, mode: str, chunks: int, ops: int, period: int = 0) -> np.ndarray:
        """ns per chunk."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{mode} {chunks} {ops} {period}\n")
        return np.array(self._line().split(), float)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


#: ns per event of each mode, and per interrupt: one arm of one round.
Round = dict[str, float]


def measure(handover: Handover) -> Round:
    found = {}
    for mode, (_, ops, events) in MODES.items():
        times = handover.chunks(mode, CHUNKS, ops)
        found[mode] = float(np.percentile(times, PERCENTILE)) / ops / events
        time.sleep(0.1)  # real-time tasks may have 95 % of a second
    # An IPI takes 5 us in this guest; what is shorter is something else, and what is much longer is the hypervisor.
    found["interrupt"] = float(np.percentile(handover.chunks("gaps", GAPS, GAP_NS, PERIOD_NS), 10))
    time.sleep(0.1)
    return found


@contextmanager
def session(pid: int, **options: Any) -> Iterator[Any]:
    from jitterprof.trace.session import TraceSession

    held = TraceSession(pid, **options)
    stop = threading.Event()

    def drain() -> None:
        os.sched_setaffinity(0, {OTHER})
        while held.ring is not None and not stop.wait(0.2):
            held.read()

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        yield held
    finally:
        stop.set()
        thread.join()
        held.close()


@contextmanager
def peer(name: str) -> Iterator[None]:
    """A peer, in a mount namespace of its own that has tracefs, until it has attached."""
    mount = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing"
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f'{mount}; exec "$@"', "sh", "taskset", "-c", str(OTHER), *PEERS[name]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    time.sleep(3)  # no sign of readiness in quiet mode: bpftrace attaches within a second here
    try:
        if process.poll() is not None:
            raise RuntimeError(f"{name}: {process.stderr.read().decode().strip() if process.stderr else ''}")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)
        Path("/dev/shm/jp-bench-perf.data").unlink(missing_ok=True)


def enable_run_times() -> int:
    """BPF_ENABLE_STATS: programs are timed until the descriptor is closed."""
    number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
    fd = ctypes.CDLL(None, use_errno=True).syscall(number, 32, ctypes.byref((ctypes.c_uint32 * 2)()), 8)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "BPF_ENABLE_STATS")
    return int(fd)


def run_times(held: Any, handover: Handover) -> dict[str, tuple[float, int]]:
    """Mean ns and runs of each program while the matched measurement runs; the timing itself is in it (20 to 60 ns)."""
    fd = enable_run_times()
    try:
        measure(handover)
    finally:
        os.close(fd)
    found = {}
    for name, function in held._loaded.bpf.funcs.items():
        text = Path(f"/proc/self/fdinfo/{function.fd}").read_text()
        values = dict(re.findall(r"^(run_time_ns|run_cnt):\s*(\d+)", text, re.M))
        if int(values.get("run_cnt", 0)) > 50:
            found[name.decode()] = (int(values["run_time_ns"]) / int(values["run_cnt"]), int(values["run_cnt"]))
    return found


def per_event(rounds: int, program: Path) -> dict[str, Any]:
    """Costs of all arms against `none`, from interleaved rounds."""
    handover = Handover(program)
    bystander = subprocess.Popen(["sleep", "100000"])
    peers = [name for name in PEERS if shutil.which(PEERS[name][0]) and shutil.which("unshare")]
    skipped = [name for name in PEERS if name not in peers]
    arms: dict[str, Callable[[], Any]] = {
        "matched": lambda: session(handover.pid),
        "clocks": lambda: session(handover.pid, events=False),
        "filtered": lambda: session(bystander.pid),
        **{name: (lambda name=name: peer(name)) for name in peers},
    }
    seen: dict[str, list[tuple[Round, Round]]] = {arm: [] for arm in arms}
    programs: dict[str, tuple[float, int]] = {}
    try:
        measure(handover)
        for number in range(rounds):
            for arm in random.sample(list(arms), len(arms)):
                # Its own baseline right before and right after.
                before = measure(handover)
                with arms[arm]() as held:
                    attached = measure(handover)
                    if arm == "matched" and number == rounds - 1:
                        programs = run_times(held, handover)
                after = measure(handover)
                seen[arm].append((attached, {name: min(before[name], after[name]) for name in before}))
                print(f"round {number + 1}: {arm}", file=sys.stderr)
    finally:
        handover.close()
        bystander.kill()
        bystander.wait()
    return {"arms": {arm: costs(pairs) for arm, pairs in seen.items()}, "programs": programs, "skipped": skipped}


def costs(pairs: list[tuple[Round, Round]]) -> dict[str, dict[str, float]]:
    """Per figure: baseline, added ns (median, lowest and highest round, and best minus best), ratio."""
    sides = {name: np.array([[pair[side][name] for pair in pairs] for side in range(2)]) for name in pairs[0][0]}
    return {name: spread(with_, without, with_ - without) for name, (with_, without) in sides.items()}


def spread(with_: np.ndarray, without: np.ndarray, added: np.ndarray) -> dict[str, float]:
    return {
        "without_ns": float(np.median(without)),
        "added_ns": float(np.median(added)),
        "added_min_ns": float(added.min()),
        "added_max_ns": float(added.max()),
        "best_to_best_ns": float(with_.min() - without.min()),
        "ratio": float(np.median(with_ / without)),
    }


def loading(rounds: int) -> dict[str, float]:
    """Wall and CPU seconds from nothing to attached, in a fresh process each time, imports left out."""
    code = "import time, os, json\nfrom jitterprof.trace.session import TraceSession\n"
    code += "from jitterprof.trace import bcc_module\n"
    code += "bcc_module.load()\nw, c = time.monotonic(), time.process_time()\ns = TraceSession(os.getppid())\n"
    code += "print(json.dumps([time.monotonic() - w, time.process_time() - c]))\ns.close()"
    taken = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        taken.append(json.loads(done.stdout.splitlines()[-1]))
    wall, cpu = np.array(taken).T
    return {"wall_s": float(np.median(wall)), "wall_max_s": float(wall.max()), "cpu_s": float(np.median(cpu))}


def draining(rounds: int) -> dict[str, float]:
    """Million records a second and core that the reader takes out of a full ring, and that reach a file."""
    from jitterprof.model.event import EVENT_DTYPE
    from jitterprof.store.streams import EventStream
    from jitterprof.trace.ring import Ring
    from jitterprof.trace.session import RING_BYTES

    record, page = 8 + EVENT_DTYPE.itemsize, 4096
    fd = os.memfd_create("ring")
    os.ftruncate(fd, 2 * page + 2 * RING_BYTES)
    count = RING_BYTES // record
    block = np.zeros(count, np.dtype([("length", "<u4"), ("page", "<u4"), ("event", EVENT_DTYPE)]))
    block["length"], block["event"]["seq"] = EVENT_DTYPE.itemsize, np.arange(count)
    os.pwrite(fd, block.tobytes(), 2 * page)
    ring = Ring(fd, RING_BYTES)
    read, stored = [], []
    with tempfile.TemporaryDirectory() as folder, EventStream(Path(folder) / "events") as stream:
        for _ in range(rounds):
            for sums, use in ((read, len), (stored, stream.write_batch)):
                os.pwrite(fd, bytes(8), 0)
                os.pwrite(fd, (count * record).to_bytes(8, "little"), page)
                begin = time.thread_time()
                use(ring.read())
                sums.append(count / (time.thread_time() - begin) / 1e6)
    os.close(fd)
    return {
        "read_m_s": float(np.median(read)),
        "read_min_m_s": float(min(read)),
        "stored_m_s": float(np.median(stored)),
        "stored_min_m_s": float(min(stored)),
    }


#: A record of the probes' layout for every system call of a process: the probes cannot write a million a second.
PRODUCER = """
#include <linux/types.h>
struct record { u64 words[5]; };
struct counts { u64 written, lost; };
BPF_ARRAY(counts, struct counts, 1);
BPF_RINGBUF_OUTPUT(events, PAGES);
int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct counts *count;
	struct record *record;
	u32 key = 0;

	if (bpf_get_current_pid_tgid() >> 32 != TARGET)
		return 0;
	count = counts.lookup(&key);
	if (!count)
		return 0;
	record = events.ringbuf_reserve(sizeof(*record));
	if (!record) {
		count->lost++;
		return 0;
	}
	__builtin_memset(record, 0, sizeof(*record));
	record->words[0] = bpf_ktime_get_ns();
	events.ringbuf_submit(record, count->written++ % WAKE_EVERY ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP);
	return 0;
}
"""


def live(seconds: float, program: Path) -> dict[str, float]:
    """A ring of the session's size, written as fast as one CPU can and drained from another as recorders do: when
    a quarter is full, or after a second."""
    from jitterprof.trace import bcc_module
    from jitterprof.trace.ring import Ring
    from jitterprof.trace.session import RING_BYTES

    handover = Handover(program)
    wake_every = RING_BYTES // 4 // 48
    flags = [f"-DTARGET={handover.pid}", f"-DPAGES={RING_BYTES // 4096}", f"-DWAKE_EVERY={wake_every}"]
    bpf = bcc_module.compile_program(PRODUCER, flags)
    bpf.attach_raw_tracepoint(tp=b"sys_enter", fn_name=b"on_sys_enter")
    descriptor = bpf[b"events"].map_fd
    ring = Ring(descriptor, RING_BYTES)
    total, busy, highest, stop = 0, 0.0, 0.0, threading.Event()

    def drain() -> None:
        nonlocal total, busy, highest
        os.sched_setaffinity(0, {OTHER})
        poll = select.epoll()
        poll.register(descriptor, select.EPOLLIN | select.EPOLLET)
        begin = time.thread_time()
        while not stop.is_set():
            poll.poll(1.0)
            highest = max(highest, ring.filled())
            total += len(ring.read())
        total += len(ring.read())
        busy = time.thread_time() - begin

    thread = threading.Thread(target=drain)
    thread.start()
    took = 0.0
    operations = 0
    try:
        while took < seconds:
            times = handover.chunks("syscall", 100, 4000)
            took += float(times.sum()) / 1e9
            operations += 100 * 4000
            time.sleep(0.01)
    finally:
        stop.set()
        thread.join()
        counts = bpf[b"counts"][0]
        handover.close()
        bpf.cleanup()
    assert total == counts.written, "records went missing that were not counted as lost"
    return {
        "m_s": operations / took / 1e6,
        "records": float(total),
        "lost": float(counts.lost),
        "drain_ns_per_record": busy / total * 1e9,
        "highest_fill": highest,
    }


def model(blocks: int, seconds: float) -> dict[str, Any]:
    """p50 and p99 of `mlp`, recordings without probes, with clocks only and with all events, in ABBA order."""
    from jitterprof.experiment.session import record_session
    from jitterprof.model.request import Phase
    from jitterprof.model.run import RunSpec

    def one(probes: str) -> dict[str, float]:
        spec = RunSpec("mlp", cpus=(CPU,), probes=probes, duration_ns=int(seconds * 1e9), warmup_ns=1_000_000_000)
        with tempfile.TemporaryDirectory() as folder:
            requests = record_session(spec, Path(folder) / "a.jprof").run.requests
        response = (requests["end_ns"] - requests["start_ns"])[requests["phase"] == Phase.MEASURED]
        return {"p50": float(np.quantile(response, 0.5)), "p99": float(np.quantile(response, 0.99))}

    arms = ["none", "clocks", "bpf", "none"]
    ratios: dict[str, list[float]] = {
        f"{arm} {q}": [] for arm in ("none again", "clocks", "bpf") for q in ("p50", "p99")
    }
    for block in range(blocks):
        random.shuffle(arms)
        order = arms + arms[::-1]
        seen: dict[str, list[dict[str, float]]] = {"none": [], "clocks": [], "bpf": []}
        for arm in order:
            seen[arm].append(one(arm))
            print(f"block {block + 1}: {arm} {seen[arm][-1]}", file=sys.stderr)
        for q in ("p50", "p99"):
            none = [cell[q] for cell in seen["none"]]
            for arm in ("clocks", "bpf"):
                ratios[f"{arm} {q}"].append(float(np.mean([cell[q] for cell in seen[arm]]) / np.mean(none)))
            ratios[f"none again {q}"].append(float(np.mean(none[::2]) / np.mean(none[1::2])))
    return {
        name: {"ratio": float(np.median(values)), "min": min(values), "max": max(values)}
        for name, values in ratios.items()
    }


def show(report: dict[str, Any]) -> list[str]:
    """Prints the tables; returns the targets that were missed."""
    missed = []
    if "events" in report:
        events = report["events"]
        print(f"\nadded by tracing, ns (median of {report['rounds']} rounds; lowest - highest; best minus best)")
        print(f"{'':10}{'per':22}{'without':>9}{'added':>9}{'range':>18}{'best':>8}{'ratio':>8}")
        for arm, table in events["arms"].items():
            for name, row in table.items():
                unit = MODES[name][0] if name in MODES else "interrupt (IPI)"
                between = f"{row['added_min_ns']:.0f} - {row['added_max_ns']:.0f}"
                print(
                    f"{arm:10}{unit:22}{row['without_ns']:9.0f}{row['added_ns']:9.0f}{between:>18}"
                    f"{row['best_to_best_ns']:8.0f}{row['ratio']:8.2f}"
                )
            if arm in TARGETS:
                for name in ("yield-process", "interrupt"):
                    if table[name]["added_ns"] > TARGETS[arm]:
                        missed.append(f"{arm}, per {name}: {table[name]['added_ns']:.0f} > {TARGETS[arm]} ns")
        for name in events["skipped"]:
            print(f"{name}: not installed, skipped")
        print("\nrun time of the programs in the matched arm, ns (the kernel's timing of them included)")
        for name, (mean, count) in sorted(events["programs"].items(), key=lambda item: -item[1][1]):
            print(f"  {name:36}{mean:8.0f}{count:10d} runs")
    if "load" in report:
        load = report["load"]
        print(
            f"\nload and attach: {load['wall_s']:.2f} s (at most {load['wall_max_s']:.2f}), "
            f"{load['cpu_s']:.2f} s of CPU"
        )
    if "drain" in report:
        drain = report["drain"]
        print(
            f"\ndrain, million records/s and core: {drain['read_m_s']:.1f} read (worst {drain['read_min_m_s']:.1f}), ",
            end="",
        )
        print(f"{drain['stored_m_s']:.1f} read and stored (worst {drain['stored_min_m_s']:.1f})")
        if drain["read_m_s"] < 5:
            missed.append(f"drain: {drain['read_m_s']:.1f} < 5 M records/s")
    if "live" in report:
        found = report["live"]
        print(
            f"\nlive: {found['m_s']:.2f} M records/s, {found['lost']:.0f} lost, "
            f"{found['drain_ns_per_record']:.0f} ns a record to drain"
        )
        if found["lost"] or found["m_s"] < 1:
            missed.append(f"live: {found['lost']:.0f} lost at {found['m_s']:.2f} M/s")
    if "model" in report:
        print("\nmlp with probes, ratio to none (median of blocks; lowest - highest)")
        for name, row in report["model"].items():
            print(f"  {name:16}{row['ratio']:7.3f}   ({row['min']:.3f} - {row['max']:.3f})")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="switch,load,drain,live,model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blocks", type=int, default=3, help="of the model's recordings")
    parser.add_argument("--seconds", type=float, default=8, help="of one recording")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if len(CPUS) < 2:
        parser.error("needs two CPUs: one to switch on, one for everything else")
    wanted = given.only.split(",")
    os.sched_setaffinity(0, {OTHER})
    report: dict[str, Any] = {"rounds": given.rounds}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "handover"
        source = HERE / "native" / "handover.c"
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(program), str(source)], check=True)
        if "switch" in wanted:
            report["events"] = per_event(given.rounds, program)
        if "load" in wanted:
            report["load"] = loading(given.rounds)
        if "drain" in wanted:
            report["drain"] = draining(4 * given.rounds)
        if "live" in wanted:
            report["live"] = live(2.0, program)
        if "model" in wanted:
            os.sched_setaffinity(0, CPUS)
            report["model"] = model(given.blocks, given.seconds)
    if given.json:
        print(json.dumps(report))
        return 0
    missed = show(report)
    if missed:
        print(f"MISSED: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
