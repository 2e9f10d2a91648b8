"""`explain --json`: docs/reference/json.md. Times are integer nanoseconds."""

import json
from dataclasses import asdict

from jitterprof.analysis.blame import BlameRow
from jitterprof.analysis.explanation import Explanation, Spike
from jitterprof.analysis.health import HealthReport
from jitterprof.analysis.inflation import Inflation
from jitterprof.model.run import Quantiles

JSON_SCHEMA = 1
#: Digits of a share; more would be noise.
_SHARE_DIGITS = 6


def explanation_json(explanation: Explanation) -> str:
    """The document as text, one line per field that is not nested deeper."""
    return json.dumps(explanation_document(explanation), indent=1)


def explanation_document(explanation: Explanation) -> dict[str, object]:
    """The document as JSON values."""
    return {
        "schema": JSON_SCHEMA,
        "session": asdict(explanation.session),
        "latency": _latency(explanation.latency),
        "causes": [_cause(row) for row in explanation.causes],
        "spikes": [_spike(spike) for spike in explanation.spikes],
        "health": _health(explanation.health),
        "episodes": [asdict(episode) for episode in explanation.episodes],
        "counterfactual": [asdict(row) for row in explanation.counterfactuals],
        "utilisation": round(explanation.utilisation, _SHARE_DIGITS),
        "inflation": _inflation(explanation.health.inflation),
    }


def _latency(latency: Quantiles) -> dict[str, int]:
    return {
        "count": latency.count,
        "p50_ns": latency.p50_ns,
        "p90_ns": latency.p90_ns,
        "p99_ns": latency.p99_ns,
        "p99_9_ns": latency.p99_9_ns,
        "max_ns": latency.max_ns,
        "mean_ns": round(latency.mean_ns),
    }


def _cause(row: BlameRow) -> dict[str, object]:
    return {
        "cause": row.cause,
        "culprit": row.culprit,
        "excess_ns": row.excess_ns,
        "share": round(row.share, _SHARE_DIGITS),
        "requests": row.requests,
        "null_share": None if row.null_share is None else round(row.null_share, _SHARE_DIGITS),
    }


def _spike(spike: Spike) -> dict[str, object]:
    document = asdict(spike)
    document["ledger"] = [asdict(part) for part in spike.ledger]
    return document


def _inflation(inflation: Inflation) -> dict[str, object]:
    return {
        "excess_ns": inflation.excess_ns,
        "rows": [asdict(row) for row in inflation.rows],
        "neighbours": [asdict(one) | {"kind": one.kind.name.lower()} for one in inflation.neighbours],
    }


def _health(health: HealthReport) -> dict[str, object]:
    return {
        "probes": {
            "mode": health.probe_mode,
            "status": {probe.name: {"state": probe.state, "reason": probe.reason} for probe in health.probes},
        },
        "lost_events": health.lost_events,
        "unknown_share": round(health.unknown_share, _SHARE_DIGITS),
        "observer_share": round(health.observer_share, _SHARE_DIGITS),
        "floor_p99_9_ns": health.floor.p99_9_ns,
        "dispatch_lag_p99_ns": health.dispatch_lag.p99_ns,
        "caveats": list(health.caveats),
    }
