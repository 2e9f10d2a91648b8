"""Why the slow requests were slow: the answer that every exporter shows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis import health
from jitterprof.analysis.account import Account, Classes, account, check_closure, classify
from jitterprof.analysis.blame import BlameRow, BlameTable, blame_table
from jitterprof.analysis.counterfactual import Counterfactual, counterfactuals
from jitterprof.analysis.distribution import quantiles
from jitterprof.analysis.episodes import Episode, find_episodes
from jitterprof.analysis.flight import sampled_rows
from jitterprof.analysis.health import HealthReport
from jitterprof.analysis.spikes import Population, baseline_ledgers, excess_by_class, select
from jitterprof.analysis.station import station_of, utilisation
from jitterprof.errors import SpecError
from jitterprof.model.cause import CAUSE_IDS, Cause
from jitterprof.model.ledger import Basis, Ledger
from jitterprof.model.run import Manifest, Quantiles
from jitterprof.store import Run

CONFIDENCES = ("low", "medium", "high")
#: Confidence in a spike's top cause: `high` needs at least this part of the excess in the top cause, at most this part
#: unknown, and at most this part of the top cause billed by calibration; `low` is what fails the second set of bounds,
#: has no baseline of its own shape, or has `unknown` on top.
HIGH_TOP, HIGH_UNKNOWN, HIGH_CALIBRATED = 0.5, 0.1, 0.5
LOW_TOP, LOW_UNKNOWN, LOW_CALIBRATED = 0.3, 0.3, 0.9


@dataclass(frozen=True, slots=True)
class Session:
    """What was recorded. `hz` is None where the kernel's build options are not readable."""

    workload: str
    backend: str
    device: str
    arm: str
    kernel: str
    hz: int | None
    started_ns: int
    duration_ns: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one cause and culprit took of a request on one CPU and thread. `calibrated_ns` <= `ns`.

    `inherited_ns`: `ns` where it was lost in the service of the earlier request `origin_seq` and waited out in the
    queue, else 0 and None. `basis`: what most of it rests on, an id of model.ledger.Basis.
    """

    cause: str
    culprit: str
    cpu: int
    tid: int
    ns: int
    calibrated_ns: int
    inherited_ns: int = 0
    basis: str = Basis.MEASURED.name.lower()
    origin_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Spike:
    """One explained request; `ledger` sums to `response_ns`, largest part first."""

    seq: int
    intended_start_ns: int
    start_ns: int
    end_ns: int
    response_ns: int
    baseline_ns: int
    excess_ns: int
    top_cause: str
    top_culprit: str
    confidence: str
    ledger: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`spikes`: the slowest `top` of `spike_count`, or the one request that was asked for. A spike is a request above
    `threshold_ns`: the session's p99, or `slo_ns` where one is given. `episodes`: of all spikes, largest excess first.
    `utilisation`: busy part of the workers' time."""

    session: Session
    latency: Quantiles
    threshold_ns: int
    slo_ns: int | None
    spike_count: int
    blame: BlameTable
    spikes: tuple[Spike, ...]
    health: HealthReport
    counterfactuals: tuple[Counterfactual, ...] = ()
    episodes: tuple[Episode, ...] = ()
    utilisation: float = 0.0

    @property
    def causes(self) -> tuple[BlameRow, ...]:
        """Rows of the blame table."""
        return self.blame.rows


def explain(
    run: Run,
    ledger: Ledger,
    slo_ns: int | None = None,
    top: int = 10,
    request: int | None = None,
) -> Explanation:
    """Explain the spikes of `run`. `ledger`: rows are indices into `run.requests`. `slo_ns`: default the session's own.

    `request`: explain that one `seq` instead of the `top` slowest. Raises SpecError for a `request` that is not there,
    AssertionError for a ledger that does not add up.
    """
    slo_ns = run.manifest.spec.slo_ns if slo_ns is None else slo_ns
    requests = run.requests
    population = select(requests, slo_ns, sampled_rows(run))
    check_closure(requests, ledger, population.rows)
    station = station_of(requests)
    classes = classify(ledger)
    totals = account(ledger, classes)
    baselines = baseline_ledgers(population, totals, classes, len(requests))
    blame = blame_table(station, ledger, classes, totals, population, baselines, len(requests))
    latency = quantiles(population.response_ns)
    tail = np.flatnonzero(population.tail)
    chosen = tail[np.argsort(-population.response_ns[tail], kind="stable")][: max(0, top)]
    if request is not None:
        chosen = np.flatnonzero(requests["seq"][population.rows] == request)
        if not len(chosen):
            seqs = requests["seq"][population.rows]
            known = f"{seqs.min()} to {seqs.max()}" if len(seqs) else "none"
            raise SpecError(f"there is no measured request {request}", f"this session has requests {known}")
    return Explanation(
        _session(run.manifest),
        latency,
        population.threshold_ns,
        slo_ns,
        len(tail),
        blame,
        tuple(_spikes(requests, ledger, classes, totals, population, baselines, chosen)),
        health.report(run, ledger, population, latency, blame, slo_ns),
        counterfactuals(requests, ledger, classes, station, population, blame),
        find_episodes(requests, ledger, classes, totals, station, population, baselines, run.manifest.window_ns[0]),
        utilisation(station, *run.manifest.window_ns),
    )


def _spikes(
    requests: npt.NDArray[np.void],
    ledger: Ledger,
    classes: Classes,
    totals: Account,
    population: Population,
    baselines: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.intp],
) -> list[Spike]:
    wanted = np.zeros(len(requests), bool)
    wanted[population.rows[chosen]] = True
    kept = np.flatnonzero(wanted[ledger.pieces["row"]])
    kept = kept[np.argsort(ledger.pieces["row"][kept], kind="stable")]
    pieces, keys = ledger.pieces[kept], classes.of_piece[kept]
    spikes = []
    for index in chosen.tolist():
        row = int(population.rows[index])
        mine = slice(*np.searchsorted(pieces["row"], [row, row + 1]))
        number = population.baseline[index]
        excess = excess_by_class(totals, population, baselines, index)
        cause, culprit, confidence = _top(
            pieces[mine],
            keys[mine],
            ledger.culprits,
            classes,
            excess,
            bool(population.matched[number]),
        )
        response, baseline = int(population.response_ns[index]), int(population.baseline_ns[number])
        at = requests[row]
        spikes.append(
            Spike(
                int(at["seq"]),
                int(at["intended_ns"]),
                int(at["start_ns"]),
                int(at["end_ns"]),
                response,
                baseline,
                response - baseline,
                cause,
                culprit,
                confidence,
                _parts(pieces[mine], ledger.culprits, requests),
            )
        )
    return spikes


def _top(
    pieces: npt.NDArray[np.void],
    keys: npt.NDArray[np.int32],
    culprits: tuple[str, ...],
    classes: Classes,
    excess: npt.NDArray[np.int64],
    matched: bool,
) -> tuple[str, str, str]:
    """Cause with the largest excess over all its culprits, its largest culprit, and the confidence in the two."""
    by_cause = np.zeros(len(Cause), np.int64)
    np.add.at(by_cause, classes.cause, excess)
    top = int(by_cause.argmax())
    total = int(excess.sum())
    calibrated = int(pieces["calibrated_ns"][pieces["cause"] == top].sum())
    of_top = np.flatnonzero(classes.cause == top)
    group = of_top[excess[of_top].argmax()]
    members = pieces[keys == group]
    spent = np.bincount(members["culprit"], members["ns"].astype(np.float64))
    culprit = culprits[int(spent.argmax())] if len(members) else ""
    confidence = "low"
    if total > 0 and matched and top != Cause.UNKNOWN:
        share, unknown = by_cause[top] / total, by_cause[Cause.UNKNOWN] / total
        billed = calibrated / max(1, int(by_cause[top]))
        if share >= HIGH_TOP and unknown <= HIGH_UNKNOWN and billed <= HIGH_CALIBRATED:
            confidence = "high"
        elif share >= LOW_TOP and unknown <= LOW_UNKNOWN and billed <= LOW_CALIBRATED:
            confidence = "medium"
    of_cause = pieces[pieces["cause"] == top]
    by_basis = np.bincount(of_cause["basis"], of_cause["ns"], len(Basis))
    for basis, most in ((Basis.POOL, "medium"), (Basis.POOL_GUESS, "low")):
        # That it waited for the thread is seen of the session, not of this request.
        if 2 * by_basis[basis:].sum() > by_basis.sum():
            confidence = min(confidence, most, key=CONFIDENCES.index)
    return CAUSE_IDS[top], culprit, confidence


def _parts(pieces: npt.NDArray[np.void], culprits: tuple[str, ...], requests: npt.NDArray[np.void]) -> tuple[Part, ...]:
    """One per distinct cause, culprit, CPU, thread and origin, largest first."""
    columns = ("cause", "culprit", "cpu", "tid", "origin")
    found, inverse = np.unique(np.stack([pieces[name] for name in columns], axis=1), axis=0, return_inverse=True)
    sums = np.zeros((len(found), len(Basis)), np.int64)
    calibrated = np.zeros(len(found), np.int64)
    np.add.at(sums, (inverse, pieces["basis"]), pieces["ns"])
    np.add.at(calibrated, inverse, pieces["calibrated_ns"])
    total = sums.sum(axis=1)
    parts = []
    for number in np.argsort(-total, kind="stable").tolist():
        cause, culprit, cpu, tid, origin = found[number].tolist()
        ns = int(total[number])
        basis = Basis(int(sums[number].argmax())).name.lower()
        known = CAUSE_IDS[cause], culprits[culprit], cpu, tid, ns, int(calibrated[number])
        parts.append(Part(*known, ns, basis, int(requests["seq"][origin])) if origin >= 0 else Part(*known, 0, basis))
    return tuple(parts)


def _session(manifest: Manifest) -> Session:
    kernel = manifest.environment.get("kernel", "")
    facts: Mapping[str, object] = kernel if isinstance(kernel, Mapping) else {"release": kernel}
    hz = facts.get("hz", manifest.environment.get("hz"))
    if isinstance(hz, Mapping):
        hz = hz.get("value")
    start, end = manifest.window_ns
    return Session(
        manifest.spec.workload,
        manifest.spec.backend,
        manifest.spec.device,
        manifest.arm,
        str(facts.get("release", "")),
        int(hz) if isinstance(hz, int | str) and str(hz).isdigit() else None,
        manifest.started_ns,
        end - start,
    )
