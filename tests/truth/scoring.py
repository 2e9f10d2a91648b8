"""Scores the blame of a recording pulse by pulse against the injector's log. Pure functions of a run directory."""

from dataclasses import asdict, dataclass
from typing import Any

import cooccurrence
import numpy as np
import numpy.typing as npt
from faults import Case, Pair, Truth
from occupants import foreign_spans

from jitterprof.analysis.explanation import Spike, explain
from jitterprof.analysis.session_ledger import session_ledger
from jitterprof.model.cause import CAUSE_IDS, Cause
from jitterprof.model.ledger import Ledger
from jitterprof.model.request import Kind, Phase, Status
from jitterprof.store import Run

#: How long after a pulse its effects may last (a drained queue, an evicted page).
TAIL_NS = 2_000_000
#: A pulse says nothing about its injector when foreign tasks took more of it than this, or than this share of it. Of a
#: control they may not take a share: there is nothing that it could be small against.
FOREIGN_NS, FOREIGN_SHARE = 30_000, 0.1
#: What a control may name, and what it may be blamed on.
NO_FAULT = ("run", "steal", "unknown")
#: Excess that counts as a slow request: above this quantile of the undisturbed ones, and this share of the usual time.
FLOOR_QUANTILE, FLOOR_SHARE = 0.99, 0.1

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """One pulse. Times in ns.

    `clean`: nobody else disturbed it. `visible`: a request was slow in it; `excess`, `top_*`, `unknown` and the
    verdicts are of the most disturbed one. `true` and `billed` are of all requests in the pulse; `true` is -1 where
    there is none. `named`: a control is blamed on a fault.
    """

    fault: str
    workload: str
    control: bool
    pulse: int
    dose: int
    t0: int
    t1: int
    foreign: int
    clean: bool
    visible: bool
    seq: int
    excess: int
    top_cause: str
    top_culprit: str
    confidence: str
    right: bool
    named: bool
    unknown: int
    true: int
    billed: int
    thresholds: tuple[str, ...]
    thresholds_right: bool
    outlier: str
    outlier_right: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """The measured requests of a run, by start: `rows` of the request table, and per request its times."""

    rows: npt.NDArray[np.intp]
    seq: Ints
    start: Ints
    end: Ints
    excess: Ints
    usual: int

    def overlapping(self, start_ns: int, end_ns: int) -> npt.NDArray[np.intp]:
        return np.flatnonzero((self.start < end_ns) & (self.end > start_ns))


def measured(run: Run) -> Measured:
    requests = run.requests
    wanted = (requests["phase"] == Phase.MEASURED) & (requests["kind"] == Kind.REQUEST)
    rows = np.flatnonzero(wanted & (requests["status"] == Status.OK))
    rows = rows[np.argsort(requests["start_ns"][rows], kind="stable")]
    mine = requests[rows]
    response = (mine["end_ns"] - mine["intended_ns"]).astype(np.int64)
    usual = int(np.median(response))
    return Measured(rows, mine["seq"], mine["intended_ns"], mine["end_ns"], response - usual, usual)


def score_case(case: Case, run: Run, pulses: list[dict[str, Any]]) -> list[Score]:
    """Score every pulse (a line of the injector's log) that lies in the measured window."""
    window = run.manifest.window_ns
    pulses = [row for row in pulses if window[0] < row["t0_ns"] and row["t1_ns"] + TAIL_NS < window[1]]
    ledger = session_ledger(run)
    at = measured(run)
    foreign = foreign_spans(run, case.fault.helpers)
    calm = _calm(at, pulses) & (foreign.inside(at.start, at.end) == 0)
    floor = max(float(np.quantile(at.excess[calm], FLOOR_QUANTILE)), FLOOR_SHARE * at.usual)
    explanation = explain(run, ledger, top=len(at.rows), slo_ns=at.usual + int(0.5 * FLOOR_SHARE * at.usual))
    spikes = {spike.seq: spike for spike in explanation.spikes}
    right = case.fault.right(case.workload)
    billed = per_request(ledger, right + case.fault.also, len(run.requests))[at.rows]
    unknown = per_request(ledger, (("unknown", ""),), len(run.requests))[at.rows]
    counts = cooccurrence.counts_of(run)
    by_threshold = cooccurrence.thresholds(counts, at.end)
    by_outlier = cooccurrence.outlier(counts, at.start, at.end)
    causes = {cause for cause, _ in right if cause not in NO_FAULT}

    scores = []
    for row in pulses:
        t0, t1 = row["t0_ns"], row["t1_ns"]
        hit = at.overlapping(t0, t1 + TAIL_NS)
        if not len(hit):
            continue
        worst = int(hit[at.excess[hit].argmax()])
        spike = spikes.get(int(at.seq[worst]))
        excess = int(at.excess[worst])
        begin, end = min(t0, int(at.start[worst])), max(t1, int(at.end[worst]))
        took = int(foreign.inside(np.array([begin]), np.array([end]))[0])
        true, inside = _true_ns(case, row, at)
        # A hog that was not given the CPU before its time was over has done nothing.
        visible = excess > floor and spike is not None and (case.fault.control or true > floor)
        usual_bill = int(np.median(billed[calm]))
        top = (spike.top_cause, bare(spike.top_culprit)) if spike is not None else ("", "")
        named = visible and top[0] not in NO_FAULT
        verdict = by_outlier[worst]
        means = cooccurrence.MEANS.get(verdict, ())
        scores.append(
            Score(
                case.fault.name,
                case.workload.name,
                case.fault.control,
                int(row["pulse"]),
                int(row.get("dose_ns", t1 - t0)),
                t0,
                t1,
                took,
                took <= (FOREIGN_NS if case.fault.control else max(FOREIGN_NS, FOREIGN_SHARE * (t1 - t0))),
                visible,
                int(at.seq[worst]),
                excess,
                top[0],
                spike.top_culprit if spike is not None else "",
                spike.confidence if spike is not None else "",
                visible and (not named if case.fault.control else _matches(top, right)),
                named,
                max(0, int(unknown[worst] - np.median(unknown[calm]))),
                true,
                int((billed[inside] - usual_bill).sum()),
                by_threshold[worst],
                # Named together with something else is as little help as not named.
                set(by_threshold[worst]) <= causes and bool(by_threshold[worst]) == bool(causes),
                verdict,
                (not verdict) if not causes else any(cause in causes for cause in means),
            )
        )
    return scores


def _calm(at: Measured, pulses: list[dict[str, Any]]) -> npt.NDArray[np.bool_]:
    """Requests that no pulse touches."""
    calm = np.ones(len(at.rows), bool)
    for row in pulses:
        calm[at.overlapping(row["t0_ns"], row["t1_ns"] + TAIL_NS)] = False
    return calm


def _true_ns(case: Case, row: dict[str, Any], at: Measured) -> tuple[int, npt.NDArray[np.intp]]:
    """The true time of a pulse, and the requests whose bill is compared with it. -1: a control has none."""
    t0, t1 = row["t0_ns"], row["t1_ns"]
    span = t1 - t0
    inside = at.overlapping(t0, t1 + TAIL_NS)
    match case.fault.truth:
        case _ if case.fault.control:
            return -1, inside
        case Truth.BURNT:
            # A burner that found nobody there to take the CPU from took nothing: between two requests there is next to
            # nothing.
            return int(row["cpu_ns"]), inside
        case Truth.WAITED:
            return span - int(row["victim_cpu_ns"]), inside
        case Truth.DOSE:
            return int(row["dose_ns"]), inside
        case Truth.SPAN:
            return span, inside
        # Two threads are throttled on two CPUs, each for itself, and cpu.stat adds them up.
        case Truth.THROTTLED if case.workload.threads == 1:
            return int(row["throttled_ns"]), inside
    inside = at.overlapping(t0, t1)
    return int(at.excess[inside].sum()), inside


def per_request(ledger: Ledger, pairs: tuple[Pair, ...], size: int) -> Ints:
    """int64[size]: what each row of the request table has of these causes and culprits."""
    pieces = ledger.pieces
    chosen = np.zeros(len(pieces), bool)
    for cause, part in pairs:
        of_cause = pieces["cause"] == Cause[cause.upper()]
        named = np.array([part in bare(culprit) for culprit in ledger.culprits], bool)
        chosen |= of_cause & named[pieces["culprit"]]
    assert all(cause in CAUSE_IDS for cause, _ in pairs)
    total = np.zeros(size, np.int64)
    np.add.at(total, pieces["row"][chosen], pieces["ns"][chosen])
    return total


def bare(culprit: str) -> str:
    """Without whoever held the lock meanwhile: that one is not to blame."""
    return culprit.split(" (holder")[0]


def _matches(top: Pair, right: tuple[Pair, ...]) -> bool:
    return any(top[0] == cause and part in top[1] for cause, part in right)


__all__ = ["Measured", "Score", "Spike", "measured", "per_request", "score_case"]
