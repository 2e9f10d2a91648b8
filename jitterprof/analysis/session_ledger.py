"""The ledger of a recorded session, from the best evidence it has."""

from jitterprof.analysis.calibration import host_costs
from jitterprof.analysis.degraded import ledger_from_clocks, ledger_from_procfs
from jitterprof.analysis.evidence import Evidence
from jitterprof.analysis.flight import keeps_tail, mixed_ledger, run_evidence
from jitterprof.analysis.ledger import build_ledger_and_claims
from jitterprof.analysis.queueing import inherit_queue
from jitterprof.analysis.run_excess import bill_run_excess
from jitterprof.model.ledger import Ledger
from jitterprof.store import Run


def session_ledger(run: Run) -> Ledger:
    """One ledger row per measured request of `run`: from events, else from state clocks, else from procfs counters;
    with none of them every request is `unknown`."""
    evidence = run_evidence(run)
    if run.manifest.probe_mode == "clocks" and len(run.clocks):
        return inherit_queue(run.requests, ledger_from_clocks(run.requests, run.clocks, evidence))
    if run.manifest.probe_mode == "procfs" and len(run.procfs):
        return inherit_queue(run.requests, ledger_from_procfs(run.requests, run.procfs, evidence))
    ledger = mixed_ledger(run, _from_events) if keeps_tail(run) else _from_events(run, evidence)
    return inherit_queue(run.requests, ledger)


def _from_events(run: Run, evidence: Evidence) -> Ledger:
    ledger, claims = build_ledger_and_claims(run.requests, evidence)
    host = host_costs(run.canary, run.events)
    return bill_run_excess(run.requests, run.events, ledger, host, claims, evidence.gaps)[0]
