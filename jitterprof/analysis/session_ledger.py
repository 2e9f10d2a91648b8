"""The ledger of a recorded session, from the best evidence it has."""

from jitterprof.analysis.calibration import host_costs
from jitterprof.analysis.degraded import ledger_from_clocks, ledger_from_procfs
from jitterprof.analysis.evidence import evidence_of
from jitterprof.analysis.ledger import build_ledger
from jitterprof.analysis.run_excess import bill_run_excess
from jitterprof.analysis.stragglers import pool_claims
from jitterprof.analysis.timeline import build_timeline
from jitterprof.model.ledger import Ledger
from jitterprof.store import Run


def session_ledger(run: Run) -> Ledger:
    """One ledger row per measured request of `run`: from events, else from state clocks, else from procfs counters;
    with none of them every request is `unknown`."""
    evidence = evidence_of(run.manifest, run.events, run.gc)
    if run.manifest.probe_mode == "clocks" and len(run.clocks):
        return ledger_from_clocks(run.requests, run.clocks, evidence)
    if run.manifest.probe_mode == "procfs" and len(run.procfs):
        return ledger_from_procfs(run.requests, run.procfs, evidence)
    timeline = build_timeline(run.requests, evidence)
    ledger = build_ledger(run.requests, evidence, timeline=timeline)
    claims = pool_claims(run.requests, timeline)
    host = host_costs(run.canary, run.events)
    return bill_run_excess(run.requests, run.events, ledger, host, claims, evidence.gaps)[0]
