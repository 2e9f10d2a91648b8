"""Records one session: starts the workload and the recorder, watches over both, and closes the run directory."""

import os
import platform
import select
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from jitterprof.errors import Interrupted, JitterprofError, MeasurementInvalid, ProbeUnavailable, RunFileError
from jitterprof.experiment.channel import Channel, Message, raise_error
from jitterprof.experiment.children import Child, start_child
from jitterprof.experiment.remains import anything_measured, discard, reopen
from jitterprof.experiment.reports import (
    IN_ORDER,
    as_list,
    as_mapping,
    ended_early,
    probe_status,
    verdict,
    with_result,
    with_summary,
)
from jitterprof.load.request_file import progress
from jitterprof.model.request import Phase
from jitterprof.model.run import SCHEMA_VERSION, Manifest, ProbeStatus, RunSpec
from jitterprof.store import Run, create_run, finish_run, write_manifest
from jitterprof.store.streams import CANARY_STREAM
from jitterprof.system.cpus import allowed_cpus, housekeeping_cpus, smt_siblings
from jitterprof.system.environment import read_environment
from jitterprof.system.files import Host
from jitterprof.system.naming import irq_names, memory_maps
from jitterprof.system.thread_settings import runtime_environment
from jitterprof.trace.catalog import PROBES

#: What a caller hears while it waits: a phase in words, and how far that is (0..1, or None where nobody knows).
Listener = Callable[[str, float | None], None]

_START_S = 300.0
_ATTACH_S = 60.0
_STOP_S = 30.0
_CANARY_S = 30.0
#: Where the time of causes goes that a mode cannot tell apart.
HIDDEN_IN = {
    "procfs": "without BPF the time of hardirq, timer, ipi, softirq, nmi, page_fault, reclaim and steal is part of"
    " `run`, that of wakeup and throttled part of `preempted`, that of block_io, lock, net, sleep and stopped part of"
    " `unknown`",
    "clocks": "without events the time of lock, net and sleep is part of `unknown`",
}
#: The first moments after attaching are not measured: attaching patches kernel text on every CPU.
_SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished session: what is on disk, and why it is not what was asked for, if so."""

    path: Path
    run: Run
    trouble: JitterprofError | None = None


def _environment(spec: RunSpec) -> dict[str, str]:
    """What runtimes read before they start: no telemetry thread, no pool larger than asked for."""
    threads = str(spec.threads)
    return {
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        **runtime_environment(spec.settings),
    }


def _await(child: Child, kind: str, timeout_s: float, what: str) -> Message:
    """The child's next message of this kind. Raises what it reports, or MeasurementInvalid when it ends or hangs."""
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        try:
            message = child.channel.receive(left)
        except EOFError:
            child.process.wait()
            raise MeasurementInvalid(f"{what} ended: {child.last_words()}", child.advice()) from None
        if message is None:
            break
        if message.kind == "error":
            raise_error(message)
        if message.kind == kind:
            return message
    raise MeasurementInvalid(f"{what} did not answer within {timeout_s:.0f} s", child.advice())


def _first_manifest(spec: RunSpec, host: Host) -> Manifest:
    return Manifest(
        schema=SCHEMA_VERSION,
        state="recording",
        spec=spec,
        started_ns=time.monotonic_ns(),
        started_wall=datetime.now(UTC).isoformat(timespec="seconds"),
        host=platform.node(),
        environment={**read_environment(host).to_json(), "machine": platform.machine()},
        irq_names={str(number): name for number, name in irq_names(host).items()},
    )


@contextmanager
def _confined_to(cpus: tuple[int, ...]) -> Iterator[None]:
    """This process, progress bar and all, keeps off the workload's CPUs meanwhile."""

    def move(to: Collection[int]) -> None:
        for task in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), to)

    before = os.sched_getaffinity(0)
    move(cpus)
    try:
        yield
    finally:
        move(before)


class _Session:
    """The two children of one recording, and what they have told so far."""

    def __init__(self, spec: RunSpec, out: Path, listen: Listener) -> None:
        self.spec, self.out, self.listen = spec, out, listen
        self.host = Host()
        allowed = allowed_cpus(self.host)
        self.housekeeping = housekeeping_cpus(allowed, spec.cpus or allowed, smt_siblings(self.host))
        self.manifest = _first_manifest(spec, self.host)
        create_run(out, self.manifest)
        try:
            self.workload = start_child(
                "jitterprof.experiment.workload_process", out / "workload.log", _environment(spec)
            )
        except JitterprofError:
            discard(out, keep_logs=False)
            raise
        self.recorder: Child | None = None
        self.caveats: list[str] = []
        self.trouble: JitterprofError | None = None
        self.interrupted = False
        self.measured_from = 0

    def load_model(self) -> None:
        """Wait until the model runs."""
        self.listen(f"loading {self.spec.workload}", None)
        self.workload.channel.send("load", out=str(self.out))
        ready = _await(self.workload, "ready", _START_S, "the workload's process")
        environment = {**self.manifest.environment, "runtime": ready.body["runtime"]}
        if ready.body["effective"]:
            environment["settings"] = ready.body["effective"]
        self.manifest = replace(
            self.manifest,
            pids=(int(str(ready.body["pid"])),),
            spec=replace(self.spec, backend=str(as_mapping(ready.body["runtime"]).get("backend", self.spec.backend))),
            shapes=tuple(str(shape) for shape in as_list(ready.body["shapes"])),
            environment=environment,
        )

    def attach(self) -> int:
        """Start the recorder in the wanted mode, or in the best that works; returns the clocks' descriptor or -1."""
        wanted = self.spec.probes
        if wanted == "none":
            self.manifest = replace(self.manifest, observer_pids=(os.getpid(),))
            write_manifest(self.out, self.manifest)
            return -1
        modes = ("bpf", "procfs") if wanted == "auto" else (wanted,)
        self.listen("attaching probes", None)
        caveats: tuple[str, ...] = ()
        reason = f"--probes {wanted}"
        for mode in modes:
            try:
                attached = self._attach_as(mode)
            except ProbeUnavailable as error:
                if mode == modes[-1]:
                    raise
                reason = error.message
                caveats = (f"no eBPF probes: {error.message}; {error.hint}",)
                continue
            assert self.recorder is not None
            if mode in HIDDEN_IN:
                caveats = (*caveats, HIDDEN_IN[mode])
                if self.spec.keep == "tail":
                    caveats = (*caveats, "--keep tail has no effect: there are no events to choose from")
            statuses = tuple(probe_status(row) for row in as_list(attached.body["probes"]))
            self.manifest = replace(
                self.manifest,
                probe_mode=mode,
                observer_pids=(os.getpid(), self.recorder.process.pid),
                probes=statuses or tuple(ProbeStatus(probe.name, "off", reason) for probe in PROBES),
                health=replace(self.manifest.health, caveats=caveats),
            )
            write_manifest(self.out, self.manifest)
            return attached.fd
        raise AssertionError

    def _attach_as(self, mode: str) -> Message:
        cpus = self.housekeeping
        canary = self._start_canary() if mode == "bpf" else None
        self.recorder = start_child("jitterprof.experiment.recorder_process", self.out / "recorder.log", {})
        try:
            self.recorder.channel.send(
                "attach",
                pid=self.manifest.pids[0],
                out=str(self.out),
                mode=mode,
                cpus=list(cpus),
                canary_pid=canary.process.pid if canary else 0,
                keep=self.spec.keep,
                workers=self.spec.workers,
                slo_ns=self.spec.slo_ns or 0,
                seed=self.spec.seed,
            )
            attached = _await(self.recorder, "attached", _ATTACH_S, "the recorder")
            time.sleep(_SETTLE_S)
            if canary is not None:
                self.listen("measuring what an interruption costs here", None)
                canary.channel.send("go")
                _await(canary, "done", _CANARY_S, "the spin canary")
            return attached
        except JitterprofError:
            self.recorder.end()
            self.recorder = None
            raise
        finally:
            if canary is not None:
                canary.end()
                canary.log.unlink(missing_ok=True)

    def _start_canary(self) -> Child:
        cpu = (self.spec.cpus or allowed_cpus(self.host))[-1]
        canary = start_child("jitterprof.experiment.canary_process", self.out / "canary.log", {})
        canary.channel.send("start", cpu=cpu, out=str(self.out / CANARY_STREAM))
        _await(canary, "ready", _ATTACH_S, "the spin canary")
        return canary

    def measure(self, clocks: int) -> Message | None:
        """Let the generator run; returns its account, or None when the workload died."""
        mode = self.manifest.probe_mode
        snapshots = mode == "clocks" or (mode == "bpf" and self.spec.keep == "tail")
        self.workload.channel.send("go", fd=clocks, with_fd=clocks >= 0, procfs=mode == "procfs", snapshots=snapshots)
        if clocks >= 0:
            os.close(clocks)
        while True:
            try:
                message = self._next_message()
            except KeyboardInterrupt:
                if self.interrupted:
                    raise
                self.interrupted = True
                self.trouble = self.trouble or Interrupted(
                    "interrupted: the session is shorter than asked for", f"it is valid, and in {self.out}"
                )
                self.listen("stopping", None)
                self._end_early()
                continue
            if message is None:
                return None
            if message.kind == "error":
                if not anything_measured(self.out):
                    raise_error(message)
                self._trouble(str(message.body.get("message")))
                return None
            if message.kind == "done":
                return message

    def _next_message(self) -> Message | None:
        channels = [child.channel for child in (self.workload, self.recorder) if child is not None]
        while True:
            readable: list[Channel] = select.select(channels, [], [], 0.5)[0]
            for channel in readable:
                ours = channel is self.workload.channel
                try:
                    message = channel.receive(0)
                except EOFError:
                    if ours:
                        self.workload.process.wait()
                        self._trouble(f"the workload's process died: {self.workload.last_words()}")
                        return None
                    self._recorder_died()
                    channels.remove(channel)
                    continue
                if message is not None and ours:
                    return message
                if message is not None:
                    self._trouble(str(message.body.get("message")))
                    self._end_early()
            self._tell_progress()

    def _end_early(self) -> None:
        """Requests under way end normally. Without its evidence a longer measurement would be worth nothing more."""
        self.workload.process.send_signal(signal.SIGTERM)

    def _recorder_died(self) -> None:
        assert self.recorder is not None
        self.recorder.process.wait()
        self._trouble(f"the recorder died: {self.recorder.last_words()}; what came after its last batch is unknown")
        self.recorder.channel.close()
        self.recorder = None
        self._end_early()

    def _trouble(self, text: str) -> None:
        self.caveats.append(text)
        if self.trouble is None or isinstance(self.trouble, Interrupted):
            self.trouble = MeasurementInvalid(text, f"what was recorded until then is in {self.out}")

    def _tell_progress(self) -> None:
        at = progress(self.out / "requests.0.stream")
        if self.interrupted:
            return
        if at.phase == Phase.MEASURED:
            if self.spec.requests is not None:
                done = min(at.rows / self.spec.requests, 1.0)
            else:
                self.measured_from = self.measured_from or at.last_end_ns
                done = min((time.monotonic_ns() - self.measured_from) / self.spec.duration_ns, 1.0)
            self.listen(f"measuring, {at.rows} requests so far", done)
        elif at.rows:
            self.listen("warming up" if at.phase == Phase.WARMUP else "measuring the generator's own floor", None)

    def stop_recorder(self) -> Mapping[str, object]:
        """The recorder's summary; empty without one."""
        if self.recorder is None:
            return {}
        self.listen("closing the recording", None)
        self.recorder.channel.send("stop")
        try:
            return _await(self.recorder, "done", _STOP_S, "the recorder").body
        except JitterprofError as error:
            self._trouble(error.message)
            return {}

    def close(self, result: Message | None, summary: Mapping[str, object]) -> Recording:
        """The manifest in full, and the streams as tables."""
        if result is not None:
            self.manifest = with_result(self.manifest, result.body)
            self.caveats += [str(caveat) for caveat in as_list(result.body["caveats"])]
            if result.body["stopped"] not in IN_ORDER:
                self.caveats.append(ended_early(result.body))
        if summary:
            self.manifest = with_summary(self.manifest, summary)
            if summary.get("error"):
                self._trouble(str(summary["error"]))
        interrupted = isinstance(self.trouble, Interrupted)
        cut = self.trouble is not None and not interrupted
        if self.interrupted:
            self.caveats.append("interrupted: the session is shorter than asked for")
        health = replace(self.manifest.health, cut=cut, caveats=(*self.manifest.health.caveats, *self.caveats))
        self.manifest = replace(self.manifest, health=health)
        self.listen("writing tables", None)
        try:
            run = finish_run(self.out, self.manifest)
        except RunFileError as error:
            self._trouble(error.message)
            run = reopen(self.out, self.manifest)
        for log in self.out.glob("*.log"):
            if self.trouble is None or interrupted or not log.stat().st_size:
                log.unlink()
        return Recording(self.out, run, self.trouble or _invalid(result))

    def why_nothing(self, result: Message | None) -> JitterprofError:
        """Why there is no measured request at all."""
        if isinstance(self.trouble, Interrupted):
            return Interrupted("interrupted before anything was measured", "nothing was kept")
        if self.trouble is not None:
            return MeasurementInvalid(f"{self.trouble.message}, before anything was measured", self.workload.advice())
        return (result and verdict(result.body)) or MeasurementInvalid(
            "no request was completed", "give a longer --duration"
        )

    def end(self) -> None:
        """No child outlives the session."""
        for child in (self.workload, self.recorder):
            if child is not None:
                child.end()


def _invalid(result: Message | None) -> JitterprofError | None:
    return None if result is None else verdict(result.body)


def record_session(spec: RunSpec, out: Path, listen: Listener = lambda _phase, _done: None) -> Recording:
    """Record one session into the new directory `out`.

    Raises JitterprofError when nothing was measured; `out` is then removed. Trouble during the measurement is in
    `Recording.trouble`: the session on disk is valid, and shorter. Ctrl-C ends the session early and in order; a second
    one aborts with Interrupted, and leaves what had reached the disk.
    """
    session = _Session(spec, out, listen)
    kept = crashed = False
    try:
        session.load_model()
        with _confined_to(session.housekeeping):
            clocks = session.attach()
            result = session.measure(clocks)
        session.manifest = replace(session.manifest, maps=memory_maps(session.host, session.manifest.pids[0]))
        summary = session.stop_recorder()
        kept = anything_measured(out)
        if not kept:
            raise session.why_nothing(result)
        return session.close(result, summary)
    except KeyboardInterrupt:
        kept = kept or anything_measured(out)
        if kept:
            raise Interrupted("aborted", f"what had reached the disk opens with `jitterprof explain {out}`") from None
        raise Interrupted("interrupted before anything was measured", "nothing was kept") from None
    except JitterprofError as error:
        crashed = isinstance(error, MeasurementInvalid)
        raise
    finally:
        session.end()
        if not (kept or anything_measured(out)):
            discard(out, keep_logs=crashed)


__all__ = ["Listener", "Recording", "record_session"]
