"""How right the blame is on this host: a ledger compared with a log of faults that were injected at known times."""

from collections import Counter
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.explanation import Explanation, Spike, explain
from jitterprof.analysis.spikes import measured_rows
from jitterprof.model.cause import CAUSE_IDS, Cause
from jitterprof.model.ledger import Ledger
from jitterprof.model.pulse import FaultKind, PulseLog
from jitterprof.store import Run
from jitterprof.units import NS_PER_MS, NS_PER_US

#: A request is slow, and is asked about, when it takes this many times the usual.
SLOW = 1.2
#: How long after a pulse its effects may last (a drained queue, an evicted page).
TAIL_NS = 2 * NS_PER_MS
#: More than this, or than this part of a long pulse, taken by tasks that are not the fault's: the pulse says nothing.
FOREIGN_NS, FOREIGN_SHARE = 200 * NS_PER_US, 0.02
#: A fault is named right when this part of its pulses is; with fewer pulses nothing is said.
RIGHT_SHARE, MIN_JUDGED = 0.8, 3
#: What stands in a matrix for a pulse without a slow request.
NOT_SEEN = "none"
#: A control blamed on one of these is no false alarm.
BLAMES_NOBODY = (Cause.RUN.id, Cause.STEAL.id, Cause.UNKNOWN.id, NOT_SEEN)
_TASK_CAUSES = (Cause.PREEMPTED, Cause.WAKEUP)
_NOBODY = "idle exit"
#: Quantile of the standard normal distribution for 95 %, two-sided.
_Z = 1.959964


@dataclass(frozen=True, slots=True)
class JudgedPulse:
    """One pulse. `left_out`: why it says nothing, "" when it does. `cause`, `culprit`, `excess_ns`: of the most
    disturbed request; NOT_SEEN, "" and 0 where no request was slow.

    `taken_ns`: time off the CPU as the injector logged it, `billed_ns`: as the ledger has it inside the pulse, for the
    right cause; both None for faults that do not take the victim off its CPU.
    """

    fault: str
    t0_ns: int
    t1_ns: int
    left_out: str
    cause: str
    culprit: str
    excess_ns: int
    right: bool
    taken_ns: int | None
    billed_ns: int | None


@dataclass(frozen=True, slots=True)
class JudgedFault:
    """One fault over its pulses. `verdict`: right, wrong, unclear (too few pulses that say something) or absent (not
    possible here, `reason` says why).

    `judged` pulses were neither left out nor, but for controls, unseen. `blamed`: (cause, pulses) over all that were
    not left out, most frequent first; `culprit`: the most frequent one. `excess_ns`: median over the judged pulses.
    `error_ns`, `error_share`: medians of |billed - taken| and of its part of `taken`; None where that is not measured.
    """

    name: str
    summary: str
    control: bool
    expected: tuple[str, ...]
    verdict: str
    reason: str
    pulses: int
    left_out: int
    unseen: int
    judged: int
    right: int
    blamed: tuple[tuple[str, int], ...]
    culprit: str
    excess_ns: int
    error_ns: int | None
    error_share: float | None


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """The whole answer. `judged`, `right`: pulses of faults; `low`, `high`: Wilson 95 % interval of right / judged.

    `control_judged`, `control_blamed`: pulses in which nothing was wrong, and those of them blamed on somebody.
    `error_*`: medians over the `error_pulses` pulses that took the victim off its CPU. `columns`: the causes of the
    confusion matrix; `matrix[f][c]`: pulses of fault f blamed on column c.
    """

    kernel: str
    host: str
    faults: tuple[JudgedFault, ...]
    pulses: tuple[JudgedPulse, ...]
    right: int
    judged: int
    low: float
    high: float
    control_judged: int
    control_blamed: int
    error_pulses: int
    error_ns: int | None
    error_share: float | None
    columns: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    lost_events: int

    def named(self, verdict: str) -> tuple[str, ...]:
        """Names of the faults (controls left out) with this verdict."""
        return tuple(fault.name for fault in self.faults if fault.verdict == verdict and not fault.control)


def wilson(right: int, judged: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927); (0, 1) for nothing judged."""
    if not judged:
        return 0.0, 1.0
    share, scale = right / judged, 1 + _Z**2 / judged
    middle = (share + _Z**2 / (2 * judged)) / scale
    half = _Z * sqrt(share * (1 - share) / judged + _Z**2 / (4 * judged**2)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def judge(run: Run, ledger: Ledger, log: PulseLog) -> SelfCheck:
    """Compare the `ledger` of `run` with what was injected in it."""
    rows = measured_rows(run.requests)
    response = run.requests["end_ns"][rows] - run.requests["intended_ns"][rows]
    usual = float(np.median(response)) if len(response) else 0.0
    explanation = explain(run, ledger, slo_ns=int(SLOW * usual), top=len(rows))
    pulses = judge_pulses(explanation, ledger, log, run.manifest.window_ns)
    lost = run.manifest.health.loss.total
    return summed_up(log, pulses, explanation.session.kernel, run.manifest.host, lost)


def judge_pulses(
    explanation: Explanation, ledger: Ledger, log: PulseLog, window_ns: tuple[int, int]
) -> tuple[JudgedPulse, ...]:
    """Every pulse of the log by itself. `explanation`: with every request that is to count as slow among its spikes."""
    spikes = explanation.spikes
    starts = np.array([spike.start_ns for spike in spikes], np.int64)
    ends = np.array([spike.end_ns for spike in spikes], np.int64)
    piece_end = ledger.pieces["start_ns"] + ledger.pieces["ns"]
    overlapping = _overlapping(log.pulses)
    judged = []
    for number, pulse in enumerate(log.pulses):
        kind = log.faults[pulse["fault"]]
        t0, t1 = int(pulse["t0_ns"]), int(pulse["t1_ns"])
        hit = [spikes[at] for at in np.flatnonzero((starts < t1 + TAIL_NS) & (ends > t0))]
        worst = max(hit, key=lambda spike: spike.excess_ns, default=None)
        around = (min([t0, *(one.start_ns for one in hit)]), max([t1, *(one.end_ns for one in hit)]))
        touched = np.flatnonzero((ledger.pieces["start_ns"] < around[1]) & (piece_end > around[0]))
        pieces = ledger.pieces[touched]
        left_out = ""
        if not (window_ns[0] < t0 and t1 + TAIL_NS < window_ns[1]):
            left_out = "outside the measurement"
        elif overlapping[number]:
            left_out = "overlaps another pulse"
        elif _foreign_ns(pieces, ledger.culprits, around, kind) > max(FOREIGN_NS, FOREIGN_SHARE * (t1 - t0)):
            left_out = "disturbed by others"
        measured = kind.off_cpu and not kind.control
        judged.append(
            JudgedPulse(
                kind.name,
                t0,
                t1,
                left_out,
                worst.top_cause if worst else NOT_SEEN,
                worst.top_culprit if worst else "",
                worst.excess_ns if worst else 0,
                _is_right(kind, worst),
                int(pulse["taken_ns"]) if measured else None,
                _billed_ns(pieces, ledger.culprits, (t0, t1), kind) if measured else None,
            )
        )
    return tuple(judged)


def _is_right(kind: FaultKind, worst: Spike | None) -> bool:
    return kind.control if worst is None else kind.is_right(worst.top_cause, worst.top_culprit)


def _overlapping(pulses: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """bool[pulses], in order of start: True where another pulse is not over, tail included, when this one begins."""
    overlap = np.zeros(len(pulses), bool)
    late = pulses["t0_ns"][1:] < np.maximum.accumulate(pulses["t1_ns"])[:-1] + TAIL_NS
    overlap[1:] |= late
    overlap[:-1] |= late
    return overlap


def _clipped_ns(pieces: npt.NDArray[np.void], window: tuple[int, int]) -> npt.NDArray[np.int64]:
    """int64[pieces]: how much of each lies inside the window."""
    end = np.minimum(pieces["start_ns"] + pieces["ns"], window[1])
    inside: npt.NDArray[np.int64] = np.maximum(0, end - np.maximum(pieces["start_ns"], window[0]))
    return inside


def _foreign_ns(
    pieces: npt.NDArray[np.void], culprits: tuple[str, ...], window: tuple[int, int], kind: FaultKind
) -> int:
    """Time that tasks which have nothing to do with the fault took from requests in the window."""
    mine = pieces[np.isin(pieces["cause"], _TASK_CAUSES)]
    foreign = [
        culprits[number] != _NOBODY and not any(part in culprits[number] for part in kind.ours)
        for number in mine["culprit"].tolist()
    ]
    return int(_clipped_ns(mine, window)[np.array(foreign, bool)].sum())


def _billed_ns(
    pieces: npt.NDArray[np.void], culprits: tuple[str, ...], window: tuple[int, int], kind: FaultKind
) -> int:
    mine = pieces[pieces["cause"] == CAUSE_IDS.index(kind.off_cpu)]
    right = [kind.is_right(kind.off_cpu, culprits[number]) for number in mine["culprit"].tolist()]
    return int(_clipped_ns(mine, window)[np.array(right, bool)].sum())


def summed_up(
    log: PulseLog, pulses: tuple[JudgedPulse, ...], kernel: str = "", host: str = "", lost_events: int = 0
) -> SelfCheck:
    """Per fault and over all. Faults with neither a pulse nor a reason why not were not asked for, and are left out."""
    reasons = dict(log.absent)
    faults = []
    for kind in log.faults:
        mine = [pulse for pulse in pulses if pulse.fault == kind.name]
        if mine or kind.name in reasons:
            faults.append(_judge_fault(kind, mine, reasons.get(kind.name, "")))
    kept = [pulse for pulse in pulses if not pulse.left_out]
    occurring = {pulse.cause for pulse in kept}
    columns = tuple(cause for cause in (*CAUSE_IDS, NOT_SEEN) if cause in occurring)
    matrix = tuple(tuple(dict(fault.blamed).get(column, 0) for column in columns) for fault in faults)
    right = sum(fault.right for fault in faults if not fault.control)
    judged = sum(fault.judged for fault in faults if not fault.control)
    low, high = wilson(right, judged)
    controls = [fault.name for fault in faults if fault.control]
    unharmed = [pulse for pulse in kept if pulse.fault in controls]
    errors = _errors(kept)
    return SelfCheck(
        kernel,
        host,
        tuple(faults),
        pulses,
        right,
        judged,
        low,
        high,
        len(unharmed),
        sum(pulse.cause not in BLAMES_NOBODY for pulse in unharmed),
        len(errors),
        *_medians(errors),
        columns,
        matrix,
        lost_events,
    )


def _judge_fault(kind: FaultKind, pulses: list[JudgedPulse], reason: str) -> JudgedFault:
    kept = [pulse for pulse in pulses if not pulse.left_out]
    seen = [pulse for pulse in kept if pulse.cause != NOT_SEEN]
    judged = kept if kind.control else seen
    right = sum(pulse.right for pulse in judged)
    if not pulses and reason:
        verdict = "absent"
    elif len(judged) < MIN_JUDGED:
        verdict, reason = "unclear", reason or _why_unclear(pulses, kept)
    else:
        verdict = "right" if right >= RIGHT_SHARE * len(judged) else "wrong"
    blamed = Counter(pulse.cause for pulse in kept).most_common()
    top = blamed[0][0] if blamed else ""
    who = Counter(pulse.culprit for pulse in seen if pulse.cause == top).most_common(1)
    return JudgedFault(
        kind.name,
        kind.summary,
        kind.control,
        tuple(dict.fromkeys(cause for cause, _ in kind.right)),
        verdict,
        reason,
        len(pulses),
        len(pulses) - len(kept),
        len(kept) - len(seen),
        len(judged),
        right,
        tuple(blamed),
        who[0][0] if who else "",
        round(float(np.median([pulse.excess_ns for pulse in seen]))) if seen else 0,
        *_medians(_errors(seen)),
    )


def _why_unclear(pulses: list[JudgedPulse], kept: list[JudgedPulse]) -> str:
    if len(kept) < MIN_JUDGED:
        why = Counter(pulse.left_out for pulse in pulses if pulse.left_out).most_common(1)
        return f"{len(pulses) - len(kept)} of {len(pulses)} pulses left out: {why[0][0] if why else 'none took place'}"
    return f"only {sum(pulse.cause != NOT_SEEN for pulse in kept)} of {len(kept)} pulses made a request slow"


def _errors(pulses: list[JudgedPulse]) -> list[tuple[int, int]]:
    """(|billed - taken|, taken) of the pulses that took the victim off its CPU."""
    return [
        (abs(pulse.billed_ns - pulse.taken_ns), pulse.taken_ns)
        for pulse in pulses
        if pulse.billed_ns is not None and pulse.taken_ns
    ]


def _medians(errors: list[tuple[int, int]]) -> tuple[int | None, float | None]:
    if not errors:
        return None, None
    return (
        round(float(np.median([error for error, _ in errors]))),
        float(np.median([error / taken for error, taken in errors])),
    )
