"""The ledger of a recorded session, from the best evidence it has."""

from jitterprof.analysis.calibration import host_costs
from jitterprof.analysis.degraded import ledger_from_clocks, ledger_from_procfs
from jitterprof.analysis.evidence import evidence_of
from jitterprof.analysis.hidden_cost import bill_hidden_cost
from jitterprof.analysis.ledger import build_ledger
from jitterprof.analysis.queueing import inherit_queue
from jitterprof.model.ledger import Ledger
from jitterprof.store import Run


def session_ledger(run: Run) -> Ledger:
    """One ledger row per measured request of `run`: from events, else from state clocks, else from procfs counters;
    with none of them every request is `unknown`."""
    evidence = evidence_of(run.manifest, run.events, run.gc)
    if run.manifest.probe_mode == "clocks" and len(run.clocks):
        return inherit_queue(run.requests, ledger_from_clocks(run.requests, run.clocks, evidence))
    if run.manifest.probe_mode == "procfs" and len(run.procfs):
        return inherit_queue(run.requests, ledger_from_procfs(run.requests, run.procfs, evidence))
    ledger = build_ledger(run.requests, evidence)
    ledger = bill_hidden_cost(run.requests, run.events, ledger, host_costs(run.canary, run.events))[0]
    return inherit_queue(run.requests, ledger)
