"""Records a session in which every fault that this host allows is injected, at known times and in random order."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jitterprof.errors import Interrupted, ProbeUnavailable, UnsupportedError
from jitterprof.experiment.session import Listener, Recording, record_session
from jitterprof.inject.fault import Fault
from jitterprof.inject.faults import FAULTS, VICTIM
from jitterprof.inject.processes import guarded
from jitterprof.inject.site import Site
from jitterprof.inject.timetable import EPOCH, TIMETABLE_ENV, Slot, Timetable, draw
from jitterprof.model.pulse import PULSE_DTYPE, PulseLog
from jitterprof.model.run import RunSpec
from jitterprof.system.cgroup import cgroup_directory, hierarchy_of
from jitterprof.system.cpus import allowed_cpus, housekeeping_cpus, smt_siblings
from jitterprof.system.files import Host
from jitterprof.system.rights import BPF_RIGHTS, check_rights
from jitterprof.trace import bcc_module
from jitterprof.units import NS_PER_MS, NS_PER_S

#: Mean time between two pulses: what one has done to caches and queues is over before the next.
GAP_NS = 250 * NS_PER_MS
PULSES = 12
#: How long the coordinator may take to notice that the measurement has begun.
_SLACK_NS = 2 * NS_PER_S
_WARMUP_NS = NS_PER_S
_END_S = 5.0


@dataclass(frozen=True, slots=True)
class SelfCheckRecording:
    """The session, which lies in a folder that goes with `recorded_faults`, and what was injected in it."""

    recording: Recording
    log: PulseLog


def this_site(host: Host) -> Site:
    """The last CPU for the victim, and one that the recorder may use as well for the injectors."""
    allowed = allowed_cpus(host)
    away = [cpu for cpu in housekeeping_cpus(allowed, allowed[-1:], smt_siblings(host)) if cpu != allowed[-1]]
    hierarchy = hierarchy_of(host, "cpu")
    group = cgroup_directory(host, "self", "cpu")
    version = hierarchy.version if hierarchy is not None else 0
    return Site(allowed[-1], away[0] if away else -1, cpu_cgroup=group or "", cgroup_version=version)


def require_probes(host: Host) -> None:
    """Raises UnsupportedError where the ledger could not be recorded with eBPF: there would be nothing to check."""
    for right in check_rights(host):
        if right.name in BPF_RIGHTS and not right.granted:
            raise UnsupportedError(
                f"the self-check records with eBPF: no right to {right.name} ({right.reason})", right.fix
            )
    if bcc_module.find() is None:
        raise ProbeUnavailable("the self-check records with eBPF: bcc is not installed", bcc_module.HOW_TO_INSTALL)


@contextmanager
def recorded_faults(
    pulses: int = PULSES,
    listen: Listener = lambda _phase, _done: None,
    names: Collection[str] = (),
    gap_ns: int = GAP_NS,
    seed: int = 0,
) -> Iterator[SelfCheckRecording]:
    """Record one session with `pulses` of each fault of `names` (default: all); the session is gone when this is left.

    Raises UnsupportedError without eBPF, Interrupted on Ctrl-C, MeasurementInvalid when the session is not whole.
    """
    host = Host()
    require_probes(host)
    site = this_site(host)
    wanted = [fault for fault in FAULTS if not names or fault.kind.name in names]
    refused = [(fault.kind.name, fault.available(site)) for fault in wanted]
    absent = tuple((name, reason) for name, reason in refused if reason)
    present = [fault for fault, (_, reason) in zip(wanted, refused, strict=True) if not reason]
    slots = [Slot(FAULTS.index(each), each.length_ns, each.length_ns + each.overrun_ns) for each in present]
    planned = draw(slots, pulses, gap_ns, seed)
    duration = planned[-1].start_ns + max(slot.longest_ns for slot in slots) + gap_ns + _SLACK_NS
    spec = RunSpec(VICTIM, cpus=(site.cpu,), duration_ns=duration, warmup_ns=_WARMUP_NS, seed=seed, probes="bpf")
    with _folder() as folder:
        timetable = Timetable.create(folder / "timetable", planned)

        def hear(phase: str, done: float | None) -> None:
            # Only the measurement knows how far it is.
            if done is not None and not timetable.words[EPOCH]:
                timetable.words[EPOCH] = time.monotonic_ns()
            listen(phase if done is None else "injecting faults", done)

        with _injectors(present, folder, site) as failures:
            recording = _record(spec, folder, hear)
            failed = failures()
        if recording.trouble is not None:
            if isinstance(recording.trouble, Interrupted):
                raise Interrupted("interrupted", "nothing was kept, and nothing is left behind")
            raise recording.trouble
        done_rows = [
            (one.fault, one.t0_ns, one.t1_ns, one.taken_ns or one.t1_ns - one.t0_ns) for one in timetable.done()
        ]
        table = np.array(done_rows, PULSE_DTYPE)
        log = PulseLog(tuple(fault.kind for fault in FAULTS), table[np.argsort(table["t0_ns"])], absent + failed)
        yield SelfCheckRecording(recording, log)


@contextmanager
def _folder() -> Iterator[Path]:
    """A temporary directory that goes when this is left, even by a SIGKILL."""
    folder = Path(tempfile.mkdtemp(prefix="jitterprof-selfcheck-"))
    with guarded("folder", str(folder)):
        yield folder


@contextmanager
def _injectors(
    faults: Sequence[Fault], folder: Path, site: Site
) -> Iterator[Callable[[], tuple[tuple[str, str], ...]]]:
    """A process per fault that is not the victim's own. Yields what tells which of them failed, and with what words."""
    running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def failures() -> tuple[tuple[str, str], ...]:
        return tuple(
            (name, _last_line(folder / f"{name}.log") or f"exit code {process.returncode}")
            for name, process in running
            if process.poll()
        )

    try:
        for fault in faults:
            if fault.enter is not None:
                running.append((fault.kind.name, _start(fault.kind.name, folder, site)))
        yield failures
    finally:
        for _, process in running:
            process.terminate()
        for _, process in running:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(name: str, folder: Path, site: Site) -> subprocess.Popen[bytes]:
    """In a session of its own: Ctrl-C reaches the coordinator alone."""
    command = [sys.executable, "-m", "jitterprof.inject.injector", name, str(folder / "timetable")]
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, json.dumps(asdict(site)), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _record(spec: RunSpec, folder: Path, listen: Listener) -> Recording:
    os.environ[TIMETABLE_ENV] = str(folder / "timetable")
    try:
        return record_session(spec, folder / "session.jprof", listen)
    finally:
        del os.environ[TIMETABLE_ENV]
