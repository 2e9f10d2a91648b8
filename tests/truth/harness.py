"""Records a victim while an injector runs beside it, and lines the ledger up with the injector's log."""

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from injectors.control import CONTROL_ENV
from injectors.injector import Injector

from jitterprof.analysis.explanation import Explanation, Spike, explain
from jitterprof.analysis.session_ledger import session_ledger
from jitterprof.experiment.session import Recording, record_session
from jitterprof.model.cause import CAUSE_IDS
from jitterprof.model.ledger import Ledger
from jitterprof.model.request import Kind, Phase
from jitterprof.model.run import RunSpec
from jitterprof.units import NS_PER_MS, NS_PER_S

VICTIM = f"{Path(__file__).resolve().parent / 'victims.py'}:build"
CPU = max(os.sched_getaffinity(0))
#: Floor and warm-up are over by then.
DELAY_MS = 2500
#: How long after a pulse its effects may last (a drained queue, an evicted page).
TAIL_NS = 2 * NS_PER_MS


@dataclass(frozen=True)
class Trial:
    """One recording with its pulses. `rows`: the injector's log lines."""

    recording: Recording
    ledger: Ledger
    explanation: Explanation
    pulses: list[tuple[int, int]]
    rows: list[dict[str, Any]]

    @property
    def requests(self) -> npt.NDArray[np.void]:
        return self.recording.run.requests

    def spikes_of(self, pulse: tuple[int, int]) -> list[Spike]:
        """The explained requests that overlap a pulse, most excess first."""
        start, end = pulse
        hit = [s for s in self.explanation.spikes if s.start_ns < end + TAIL_NS and s.end_ns > start]
        return sorted(hit, key=lambda spike: -spike.excess_ns)

    def clipped(self, pulse: tuple[int, int]) -> dict[tuple[str, str], int]:
        """Time inside the pulse by (cause, culprit), over all measured requests and the gaps between them left out."""
        start, end = pulse
        pieces = self.ledger.pieces
        overlap = np.minimum(pieces["start_ns"] + pieces["ns"], end) - np.maximum(pieces["start_ns"], start)
        found: dict[tuple[str, str], int] = defaultdict(int)
        for index in np.flatnonzero(overlap > 0):
            piece = pieces[index]
            key = (CAUSE_IDS[piece["cause"]], self.ledger.culprits[piece["culprit"]])
            found[key] += int(overlap[index])
        return dict(found)

    def total(self, pulse: tuple[int, int], cause: str, culprit: str = "") -> int:
        """Time inside the pulse that is billed to a cause and to culprits whose name contains `culprit`."""
        return sum(ns for (c, who), ns in self.clipped(pulse).items() if c == cause and culprit in who)


@contextmanager
def recorded(kind: str, seconds: float, cpu: int = CPU, **options: Any) -> Iterator[Trial]:
    """Record the victim in a closed loop on `cpu` for `seconds` with an injector of `kind` beside it."""
    with tempfile.TemporaryDirectory(prefix="jp-truth-") as folder:
        control = Path(folder) / "control"
        os.environ[CONTROL_ENV] = str(control)
        spec = RunSpec(
            VICTIM, "auto", cpus=(cpu,), duration_ns=int(seconds * NS_PER_S), warmup_ns=NS_PER_S, probes="bpf"
        )
        try:
            with Injector(kind, cpu, control=control, delay_ms=DELAY_MS, **options) as injector:
                recording = record_session(spec, Path(folder) / "session.jprof")
        finally:
            del os.environ[CONTROL_ENV]
        ledger = session_ledger(recording.run)
        # Explain every request that is well above the usual one, not the slowest hundredth alone.
        usual = int(np.median(_responses(recording.run.requests)))
        explanation = explain(recording.run, ledger, top=100_000, slo_ns=int(usual * 1.2))
        start, end = recording.run.manifest.window_ns
        pulses = [pulse for pulse in injector.pulses if start < pulse[0] and pulse[1] + TAIL_NS < end]
        rows = [row for row in injector.rows if (row["t0_ns"], row["t1_ns"]) in pulses]
        yield Trial(recording, ledger, explanation, pulses, rows)


def _responses(requests: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    mine = requests[(requests["phase"] == Phase.MEASURED) & (requests["kind"] == Kind.REQUEST)]
    times: npt.NDArray[np.int64] = mine["end_ns"] - mine["intended_ns"]
    return times


#: What the test bench itself does to a pulse: more of it than this, or than this share of a long pulse, and the pulse
#: says nothing about the injector.
FOREIGN_NS, FOREIGN_SHARE = 200_000, 0.02
_TASK_CAUSES = ("preempted", "wakeup")


def clean(trial: Trial, ours: tuple[str, ...]) -> list[int]:
    """Numbers of the pulses that no foreign task disturbed. `ours`: parts of the names of the trial's own tasks."""
    numbers = []
    for number, (start, end) in enumerate(trial.pulses):
        hits = trial.spikes_of((start, end))
        window = (min([start, *(hit.start_ns for hit in hits)]), max([end, *(hit.end_ns for hit in hits)]))
        foreign = sum(
            ns
            for (cause, who), ns in trial.clipped(window).items()
            if cause in _TASK_CAUSES and not any(name in who for name in ours) and who != "idle exit"
        )
        if foreign <= max(FOREIGN_NS, FOREIGN_SHARE * (end - start)):
            numbers.append(number)
    return numbers
