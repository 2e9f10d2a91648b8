"""How far a session can be trusted, in numbers and in words."""

from dataclasses import dataclass, field

import numpy as np

from jitterprof.analysis import inflation
from jitterprof.analysis.blame import BlameTable
from jitterprof.analysis.flight import detail_line, detailed_rows, keeps_tail
from jitterprof.analysis.inflation import Inflation
from jitterprof.analysis.spikes import Population
from jitterprof.analysis.unreported import unreported_switches
from jitterprof.model.cause import Cause
from jitterprof.model.event import CLOCK_SLOTS
from jitterprof.model.ledger import Ledger
from jitterprof.model.request import Kind, Phase, Status
from jitterprof.model.run import Manifest, ProbeStatus, Quantiles
from jitterprof.store import Run
from jitterprof.units import format_ns

UNKNOWN_LOUD = 0.05
OBSERVER_LOUD = 0.02
FLOOR_LOUD = 0.10
LAG_LOUD = 0.10
MINOR_LOUD = 0.05
STEAL_LOUD = 0.05
STEAL_STEP_NS = 10_000_000
#: Probes that only split running time further.
SPLITS_RUN = ("pmu", "frequency", "neighbour")
#: Requests below which a quantile rests on a handful of observations.
ENOUGH_FOR = (("p99", 1_000), ("p99.9", 10_000))

#: What becomes unknown without a probe; equal to the catalogue in trace (a test compares them).
HIDDEN_CAUSES: tuple[tuple[str, tuple[Cause, ...]], ...] = (
    (
        "sched",
        (
            Cause.PREEMPTED,
            Cause.WAKEUP,
            Cause.THROTTLED,
            Cause.STOPPED,
            Cause.LOCK,
            Cause.SLEEP,
            Cause.NET,
            Cause.STEAL,
        ),
    ),
    ("irq", (Cause.HARDIRQ, Cause.SOFTIRQ, Cause.TIMER, Cause.IPI, Cause.NMI)),
    ("memory", (Cause.PAGE_FAULT, Cause.RECLAIM)),
    ("block", (Cause.BLOCK_IO,)),
)


@dataclass(frozen=True, slots=True)
class HealthReport:
    """`unknown_share`, `observer_share`: parts of the measured requests' response time. `loud`: caveats that put the
    result itself in doubt; `caveats`: all of them, loud ones first. `probe_mode`: bpf, clocks, procfs or none.
    `inflation`: what the running time of the slow requests beyond the usual consists of."""

    probe_mode: str
    probes: tuple[ProbeStatus, ...]
    lost_events: int
    unknown_share: float
    observer_share: float
    floor: Quantiles
    dispatch_lag: Quantiles
    loud: tuple[str, ...]
    caveats: tuple[str, ...]
    inflation: Inflation = field(default_factory=Inflation)


def report(
    run: Run, ledger: Ledger, population: Population, latency: Quantiles, blame: BlameTable, slo_ns: int | None
) -> HealthReport:
    """Judge the session."""
    health = run.manifest.health
    unknown, observer = _shares(run, ledger, population)
    loud: list[str] = []
    quiet: list[str] = []
    if health.cut:
        loud.append("the recording was cut; this is what had reached the disk")
    if health.saturated:
        loud.append(
            f"saturated: {health.offered_rate:.4g} requests/s were offered and {health.achieved_rate:.4g}/s served, so "
            "response times grow with the length of the run"
        )
    if health.loss.total:
        loud.append(f"{health.loss.total} kernel events were lost; the time they covered is unknown")
    if unknown > UNKNOWN_LOUD:
        loud.append(f"{unknown:.0%} of the time is unknown: the evidence does not explain it")
    if health.floor.count and health.floor.p99_9_ns > FLOOR_LOUD * latency.p99_ns > 0:
        loud.append(
            f"the generator alone takes up to {format_ns(health.floor.p99_9_ns)} (p99.9), "
            f"{health.floor.p99_9_ns / latency.p99_ns:.0%} of the measured p99"
        )
    if health.dispatch_lag.p99_ns > LAG_LOUD * latency.p99_ns > 0:
        loud.append(
            f"the load generator started requests up to {format_ns(health.dispatch_lag.p99_ns)} late (p99); "
            "that time is in the response times as `dispatch`"
        )
    if observer > OBSERVER_LOUD:
        loud.append(f"jitterprof itself took {observer:.1%} of the requests' time")
    loud += _sample_caveats(run, population, slo_ns)
    loud += _slot_caveats(run.manifest)
    if keeps_tail(run):
        quiet.append(detail_line(run, population.rows, population.tail_rows))
    quiet += _probe_caveats(run.manifest)
    quiet += _steal_caveats(run.manifest)
    split = inflation.split(run, ledger, population)
    quiet += split.caveats
    if not health.loss.total and (unreported := unreported_switches(run)):
        quiet.append(
            f"{unreported} task switches were not reported by this kernel, though no event was lost: it hides some of "
            "its tasks from tracing; time next to them is unknown"
        )
    if blame.minor_share > MINOR_LOUD:
        quiet.append(f"{blame.minor_share:.0%} of the excess lies with causes that are not above chance and noise")
    # What the recorder wrote and this report says in its own words is not repeated.
    quiet += [line for line in health.caveats if not line.startswith("the recording was cut")]
    return HealthReport(
        run.manifest.probe_mode,
        run.manifest.probes,
        health.loss.total,
        unknown,
        observer,
        health.floor,
        health.dispatch_lag,
        tuple(loud),
        tuple(dict.fromkeys((*loud, *quiet))),
        split,
    )


def _steal_caveats(manifest: Manifest) -> list[str]:
    """The probes' hypervisor steal against /proc/stat's, which counts in steps of 10 ms."""
    kernel = manifest.oracles.get("kernel")
    ours = manifest.oracles.get("steal_ns")
    theirs = kernel.get("steal_ns") if isinstance(kernel, dict) else None
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return []
    seen, told = sum(ours), sum(theirs)
    if abs(seen - told) <= STEAL_STEP_NS * (len(theirs) + 1) + STEAL_LOUD * max(seen, told):
        return []
    return [f"steal disagrees: {format_ns(seen)} by the probes, {format_ns(told)} by /proc/stat"]


def _slot_caveats(manifest: Manifest) -> list[str]:
    """The probes follow CLOCK_SLOTS threads at a time; what others did is not there, and looks like running."""
    rows = manifest.oracles.get("probes")
    missed = sum(row.get("slotless", 0) for row in rows) if isinstance(rows, list) else 0
    if not missed:
        return []
    return [f"the target has more than {CLOCK_SLOTS} threads at a time: {missed} times one was not recorded"]


def _shares(run: Run, ledger: Ledger, population: Population) -> tuple[float, float]:
    """Of the requests with full detail: of the others little is known, and that is said in words."""
    inside = np.zeros(len(run.requests), bool)
    inside[population.rows] = True
    if keeps_tail(run):
        inside &= detailed_rows(run)
    total = int((run.requests["end_ns"] - run.requests["intended_ns"])[inside].sum())
    if not total:
        return 0.0, 0.0
    pieces = ledger.pieces
    mine = inside[pieces["row"]]
    unknown = pieces["ns"][mine & (pieces["cause"] == Cause.UNKNOWN)].sum()
    observer = pieces["ns"][mine & np.asarray(ledger.observer, bool)[pieces["culprit"]]].sum()
    return float(unknown / total), float(observer / total)


def _sample_caveats(run: Run, population: Population, slo_ns: int | None) -> list[str]:
    count = len(population.rows)
    measured = (run.requests["phase"] == Phase.MEASURED) & (run.requests["kind"] == Kind.REQUEST)
    failed = int((measured & (run.requests["status"] != Status.OK)).sum())
    lines = []
    if failed:
        lines.append(f"{failed} of {failed + count} requests failed and are left out")
    if not count:
        lines.append("no measured request was completed")
        return lines
    short = [(name, needed) for name, needed in ENOUGH_FOR if count < needed]
    if short:
        name, needed = short[0]
        names = " and ".join(label for label, _ in short)
        lines.append(f"{count} requests are too few for a steady {names}: record at least {needed} for {name}")
    if slo_ns is not None and not population.tail.any():
        lines.append(f"no request took longer than {format_ns(slo_ns)}")
    if not population.matched.all():
        lines.append("some input shapes have too few ordinary requests: all shapes together are their baseline")
    return lines


def _probe_caveats(manifest: Manifest) -> list[str]:
    if manifest.probe_mode == "none":
        return ["no kernel events were recorded (--probes none): kernel causes are part of `run` and `unknown`"]
    lines = []
    if manifest.probe_mode == "procfs":
        lines.append("recorded without BPF: /proc counters give waiting time and counts, not who caused them")
    if manifest.probe_mode == "clocks":
        lines.append("recorded with state clocks alone: how long each cause took, not who caused it")
    hidden = dict(HIDDEN_CAUSES)
    for probe in manifest.probes:
        if probe.state == "on" or (manifest.probe_mode == "procfs" and probe.state == "off"):
            continue
        # Most machines lack one of these; what that means is said where there is running time to explain.
        if probe.name in SPLITS_RUN and probe.state == "missing":
            continue
        causes = ", ".join(cause.id for cause in hidden.get(probe.name, ()))
        reason = f" ({probe.reason})" if probe.reason else ""
        partial = probe.state == "partial"
        effect = f"; {'may be incomplete' if partial else 'not seen, and so unknown'}: {causes}" if causes else ""
        lines.append(f"probe {probe.name} is {'only partly there' if partial else probe.state}{reason}{effect}")
    return lines
