"""`doctor --calibrate --json`: docs/reference/json.md. Times are integer nanoseconds."""

from dataclasses import asdict

from jitterprof.analysis.selfcheck import SelfCheck

SELFCHECK_SCHEMA = 1


def selfcheck_document(check: SelfCheck) -> dict[str, object]:
    """The document as JSON values."""
    return {
        "schema": SELFCHECK_SCHEMA,
        "kernel": check.kernel,
        "host": check.host,
        "named_right": list(check.named("right")),
        "named_wrong": list(check.named("wrong")),
        "unclear": list(check.named("unclear")),
        "absent": list(check.named("absent")),
        "accuracy": {"right": check.right, "judged": check.judged, "ci_low": check.low, "ci_high": check.high},
        "controls": {"judged": check.control_judged, "blamed": check.control_blamed},
        "time_error": {"pulses": check.error_pulses, "median_ns": check.error_ns, "median_share": check.error_share},
        "lost_events": check.lost_events,
        "matrix": {
            "causes": list(check.columns),
            "rows": [
                {"fault": fault.name, "pulses": list(counts)}
                for fault, counts in zip(check.faults, check.matrix, strict=True)
            ],
        },
        "faults": [
            asdict(fault)
            | {"expected": list(fault.expected), "blamed": [{"cause": c, "pulses": n} for c, n in fault.blamed]}
            for fault in check.faults
        ],
        "pulses": [asdict(pulse) for pulse in check.pulses],
    }
