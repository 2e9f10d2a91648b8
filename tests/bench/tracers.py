"""The arms of the overhead bench: each traces a process from entering its context to leaving it."""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NS = 1_000_000_000
_ATTACH_S = 60.0
#: bpftrace and perf give no sign of being attached; both are within a second here.
_SETTLE_S = 1.5
_TRACEFS = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing"


@dataclass
class Traced:
    """What an arm tells about itself. Filled in on leaving: `records` written, `lost`, `stream_bytes` on disk as
    recorded, `stored_bytes` once compressed; -1 where it has no such thing. `cpu_ns`: CPU time of the tracer so far."""

    cpu_ns: Callable[[], int]
    records: int = -1
    lost: int = -1
    stream_bytes: int = -1
    stored_bytes: int = -1


def cpu_of(pid: int) -> int:
    """ns of CPU that a process and all that it started have used, from schedstat: exact, unlike utime."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
        children = task / "children"
        if children.exists():
            total += sum(cpu_of(int(child)) for child in children.read_text().split())
    return total


@contextmanager
def nothing(pid: int, cpus: tuple[int, ...]) -> Iterator[Traced]:
    """No tracer; as much time passes as for others."""
    time.sleep(_SETTLE_S)
    yield Traced(lambda: 0)


@contextmanager
def recorder(pid: int, cpus: tuple[int, ...], mode: str) -> Iterator[Traced]:
    """jitterprof's own recorder process, as a session starts it. `mode`: bpf or clocks."""
    from jitterprof.experiment.children import start_child
    from jitterprof.store import read_events
    from jitterprof.store.streams import EVENT_STREAM
    from jitterprof.store.tables import write_array

    with tempfile.TemporaryDirectory(prefix="jp-overhead-", dir="/var/tmp") as folder:
        out = Path(folder)
        child = start_child("jitterprof.experiment.recorder_process", out / "recorder.log", {})
        try:
            plan = {"pid": pid, "out": str(out), "mode": mode, "cpus": list(cpus), "canary_pid": 0}
            child.channel.send("attach", **plan, keep="all", workers=1, slo_ns=0, seed=0)
            attached = child.channel.receive(_ATTACH_S)
            if attached is None or attached.kind != "attached":
                raise RuntimeError(f"the recorder did not attach: {attached} {child.last_words()}")
            time.sleep(_SETTLE_S)
            traced = Traced(lambda: cpu_of(child.process.pid))
            yield traced
            child.channel.send("stop")
            done = child.channel.receive(_ATTACH_S)
            if done is None or done.kind != "done":
                raise RuntimeError(f"the recorder did not stop in order: {done} {child.last_words()}")
            if attached.fd >= 0:
                os.close(attached.fd)
            if mode == "bpf":
                traced.records, traced.lost = int(str(done.body["records"])), int(str(done.body["lost"]))
                stream = out / EVENT_STREAM
                traced.stream_bytes = stream.stat().st_size
                write_array(out / "events.parquet", read_events(stream).events)
                traced.stored_bytes = (out / "events.parquet").stat().st_size
        finally:
            child.end()


@contextmanager
def command(cpus: tuple[int, ...], words: list[str], out: Path) -> Iterator[Traced]:
    """A tracer that needs tracefs, in a mount namespace of its own, ended by SIGINT as a user would end it."""
    # A shell's background job ignores SIGINT, and so would what it starts.
    wrap = ["unshare", "-m", "sh", "-c", f'{_TRACEFS}; exec "$@"', "sh", "env", "--default-signal=INT"]
    process = subprocess.Popen(
        [*wrap, "taskset", "-c", ",".join(map(str, cpus)), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        time.sleep(2 * _SETTLE_S)
        if process.poll() is not None:
            raise RuntimeError(f"{words[0]}: {process.stderr.read().decode().strip() if process.stderr else ''}")
        traced = Traced(lambda: cpu_of(process.pid))
        yield traced
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        traced.stream_bytes = out.stat().st_size
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=20)
        out.unlink(missing_ok=True)


@contextmanager
def perf_sched(pid: int, cpus: tuple[int, ...]) -> Iterator[Traced]:
    """`perf sched record`, whole system: it has no other way."""
    out = Path(f"/var/tmp/jp-overhead-perf-{os.getpid()}.data")
    with command(cpus, ["perf", "sched", "record", "-o", str(out)], out) as traced:
        yield traced


#: The events that jitterprof records of a process, one line each, to a file.
SCRIPT = """
tracepoint:sched:sched_switch /pid == PID/ {
  @mine[args->prev_pid] = 1;
  printf("o %lu %d %d %d %ld\\n", nsecs, cpu, args->prev_pid, args->next_pid, args->prev_state);
}
tracepoint:sched:sched_switch /@mine[args->next_pid]/ {
  printf("i %lu %d %d %d\\n", nsecs, cpu, args->prev_pid, args->next_pid);
}
tracepoint:sched:sched_waking /@mine[args->pid]/ { printf("w %lu %d %d %d\\n", nsecs, cpu, args->pid, tid); }
tracepoint:sched:sched_wakeup /@mine[args->pid]/ { printf("u %lu %d %d %d\\n", nsecs, cpu, args->pid, tid); }
tracepoint:sched:sched_migrate_task /@mine[args->pid]/ { printf("m %lu %d %d\\n", nsecs, cpu, args->pid); }
tracepoint:irq:irq_handler_entry /pid == PID/ { printf("h %lu %d %d\\n", nsecs, cpu, args->irq); }
tracepoint:irq:irq_handler_exit /pid == PID/ { printf("H %lu %d %d\\n", nsecs, cpu, args->irq); }
tracepoint:irq:softirq_entry /pid == PID/ { printf("s %lu %d %d\\n", nsecs, cpu, args->vec); }
tracepoint:irq:softirq_exit /pid == PID/ { printf("S %lu %d %d\\n", nsecs, cpu, args->vec); }
VECTORS
"""
_VECTOR = 'tracepoint:irq_vectors:{0}_{1} /pid == PID/ {{ printf("v %lu %d {0} {1}\\n", nsecs, cpu); }}'
_VECTORS = ("local_timer", "reschedule", "call_function", "call_function_single")


@contextmanager
def bpftrace(pid: int, cpus: tuple[int, ...]) -> Iterator[Traced]:
    """bpftrace streaming the same events of the same process as text to a file."""
    vectors = "\n".join(_VECTOR.format(name, edge) for name in _VECTORS for edge in ("entry", "exit"))
    text = SCRIPT.replace("VECTORS", vectors).replace("PID", str(pid))
    out = Path(f"/var/tmp/jp-overhead-bpftrace-{os.getpid()}.txt")
    with command(cpus, ["bpftrace", "-q", "-o", str(out), "-e", text], out) as traced:
        yield traced


def enabled_tracepoints() -> list[str]:
    """Tracepoints that are switched on in tracefs: none may be left behind. Mounts it where only this call sees it."""
    look = "cat /sys/kernel/tracing/set_event"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{_TRACEFS}; {look}"], capture_output=True, text=True, check=True
    )
    return re.findall(r"^\S+$", done.stdout, re.M)
