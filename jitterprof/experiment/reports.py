"""What the children report, checked and put into the manifest."""

from collections.abc import Mapping
from dataclasses import replace

from jitterprof.errors import JitterprofError, MeasurementInvalid
from jitterprof.model.run import Loss, Manifest, ProbeStatus, Quantiles

#: Why the generator stops that is no trouble: its time is over, or we told it to.
IN_ORDER = ("", "interrupted")


def ended_early(body: Mapping[str, object]) -> str:
    """In words, that and why the generator stopped before its time."""
    return f"the measurement ended early: {body['stopped']}"


def verdict(body: Mapping[str, object]) -> JitterprofError | None:
    """Why the generator's account makes the measurement invalid; None when it does not."""
    if body["aborted"] or (body["errors"] and not body["served"]):
        return MeasurementInvalid(
            f"every request failed: {body['first_error']}", "run the model by itself with the same inputs"
        )
    if body["stopped"] not in IN_ORDER:
        return MeasurementInvalid(ended_early(body), "free some space, give another --out, or a shorter --duration")
    if body["saturated"]:
        offered, most = float(str(body["offered_rate"])), float(str(body["max_rate"]))
        return MeasurementInvalid(
            f"saturated: {offered:.4g} requests/s were offered, the workload serves at most {most:.4g}/s here",
            f"lower the rate to about {0.7 * most:.3g}/s, or add --threads or --workers",
        )
    return None


def with_result(manifest: Manifest, body: Mapping[str, object]) -> Manifest:
    """The manifest with the generator's account."""
    window = [int(str(edge)) for edge in as_list(body["window_ns"])]
    return replace(
        manifest,
        window_ns=(window[0], window[1]),
        worker_tids=tuple(int(str(tid)) for tid in as_list(body["tids"])),
        environment={**manifest.environment, "hygiene": body["hygiene"]},
        health=replace(
            manifest.health,
            floor=_quantiles(body["floor"]),
            dispatch_lag=_quantiles(body["dispatch_lag"]),
            achieved_rate=float(str(body["achieved_rate"])),
            offered_rate=float(str(body["offered_rate"])),
            saturated=bool(body["saturated"]),
        ),
    )


def with_summary(manifest: Manifest, summary: Mapping[str, object]) -> Manifest:
    """The manifest with the recorder's summary."""
    oracles = dict(as_mapping(summary["oracles"]))
    oracles["recorder_cpu_ns"] = summary["cpu_ns"]
    if "records" not in summary:
        return replace(manifest, oracles=oracles)
    oracles["records"], oracles["kept_records"] = summary["records"], summary["kept"]
    oracles["highest_ring_fill"] = summary["highest_fill"]
    caveats = []
    if summary["no_symbols"]:
        caveats.append(f"kernel functions have no names: {summary['no_symbols']}")
    if summary["escalated"]:
        caveats.append("the recorder left its idle priority because the ring was filling up")
    loss = Loss(*(int(str(summary[name])) for name in ("lost", "recursion_misses", "missing")))
    followed = [int(str(pid)) for pid in as_list(summary["pids"])]
    return replace(
        manifest,
        pids=(*manifest.pids, *(pid for pid in followed if pid not in manifest.pids)),
        symbols=_names(summary["symbols"]),
        devices=_names(summary["devices"]),
        cgroups=_names(summary["cgroups"]),
        cpu_seq={str(cpu): int(str(seq)) for cpu, seq in as_mapping(summary["cpu_seq"]).items()},
        oracles=oracles,
        health=replace(manifest.health, loss=loss, caveats=(*manifest.health.caveats, *caveats)),
    )


def as_list(value: object) -> list[object]:
    """A JSON array of a message."""
    assert isinstance(value, list)
    return value


def as_mapping(value: object) -> dict[str, object]:
    """A JSON object of a message."""
    assert isinstance(value, dict)
    return value


def _names(value: object) -> dict[str, str]:
    return {key: str(name) for key, name in as_mapping(value).items()}


def probe_status(value: object) -> ProbeStatus:
    """One probe's status from a message."""
    row = as_mapping(value)
    return ProbeStatus(str(row["name"]), str(row["state"]), str(row["reason"]))


def _quantiles(value: object) -> Quantiles:
    row = as_mapping(value)
    whole = {name: int(str(number)) for name, number in row.items() if name != "mean_ns"}
    return Quantiles(**whole, mean_ns=float(str(row["mean_ns"])))
