"""Turns scored pulses into the tables of docs/explanation/accuracy.md."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scoring import Score

#: The issue's targets.
RIGHT_MIN, NAMED_MAX, UNKNOWN_MAX, SLOPE = 0.97, 0.01, 0.03, (0.95, 1.05)
ERROR_SHARE, ERROR_NS = 0.05, 20_000
_Z95 = 1.959964
_RESAMPLES = 2000


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    if not trials:
        return 0.0, 1.0
    share, z2 = hits / trials, _Z95**2 / trials
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z95 / (1 + z2) * (share * (1 - share) / trials + z2 / trials / 4) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Slope:
    """Least squares of billed on true time, and a 95 % bootstrap interval."""

    slope: float
    low: float
    high: float


def dose_response(true: Sequence[int], billed: Sequence[int], seed: int = 0) -> Slope | None:
    """None where the true times do not spread enough for a line."""
    x, y = np.array(true, float), np.array(billed, float)
    if len(x) < 8 or np.ptp(x) <= 0:
        return None
    rng = np.random.default_rng(seed)
    slopes = []
    for draw in rng.integers(0, len(x), (_RESAMPLES, len(x))):
        spread = np.var(x[draw])
        if spread > 0:
            slopes.append(float(np.mean((x[draw] - x[draw].mean()) * (y[draw] - y[draw].mean())) / spread))
    low, high = np.quantile(slopes, (0.025, 0.975))
    return Slope(float(np.cov(x, y, bias=True)[0, 1] / np.var(x)), float(low), float(high))


@dataclass(frozen=True)
class Figures:
    """What one group of pulses comes to. `visible`: those that are scored for the cause."""

    pulses: int
    clean: int
    visible: int
    right: int
    named: int
    excess_us: float
    error_us: float
    error_share: float
    slope: Slope | None
    unknown: float
    thresholds_right: int
    outlier_right: int

    @property
    def error_kept(self) -> bool:
        return self.error_share <= ERROR_SHARE or self.error_us <= ERROR_NS / 1000


def figures(scores: Iterable[Score]) -> Figures:
    rows = list(scores)
    clean = [row for row in rows if row.clean]
    seen = [row for row in clean if row.visible]
    timed = [row for row in seen if row.true > 0]
    errors = np.array([abs(row.billed - row.true) for row in timed], float)
    true = np.array([row.true for row in timed], float)
    return Figures(
        len(rows),
        len(clean),
        len(seen),
        sum(row.right for row in seen),
        sum(row.named for row in clean),
        float(np.median([row.excess for row in seen])) / 1000 if seen else 0.0,
        float(np.median(errors)) / 1000 if len(errors) else 0.0,
        float(np.median(errors / true)) if len(errors) else 0.0,
        dose_response([row.true for row in timed], [row.billed for row in timed]),
        float(np.median([row.unknown / row.excess for row in seen])) if seen else 0.0,
        sum(row.thresholds_right for row in (seen if rows and not rows[0].control else clean)),
        sum(row.outlier_right for row in (seen if rows and not rows[0].control else clean)),
    )


def report(scores: Sequence[Score]) -> tuple[str, list[str]]:
    """The tables in markdown, and the targets that were missed."""
    faults, controls = [s for s in scores if not s.control], [s for s in scores if s.control]
    lines = [
        "| fault | workload | pulses | visible | excess us | right | error us | error | slope | unknown"
        " | thresholds | outlier |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, group in _grouped(faults, lambda row: (row.fault, row.workload)):
        lines.append(_fault_row(name, figures(group)))
    for name, group in _grouped(faults, lambda row: ("all", row.workload)):
        lines.append(_fault_row(name, figures(group)))
    for name, group in _grouped(faults, lambda row: ("all", f"{row.dose / 1e6:g} ms")):
        # One dose makes no line.
        lines.append(_fault_row(name, replace(figures(group), slope=None)))
    total = figures(faults)
    lines.append(_fault_row(("all", "all"), total))
    lines += [
        "",
        "| control | workload | pulses | clean | slow request | a fault is named | thresholds name one"
        " | outlier names one |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, group in (
        *_grouped(controls, lambda row: (row.fault, row.workload)),
        *_grouped(controls, lambda row: ("all", "all")),
    ):
        found = figures(group)
        others = (found.clean - found.thresholds_right, found.clean - found.outlier_right)
        parts = (f"{found.pulses}", f"{found.clean}", f"{found.visible}", _share(found.named, found.clean))
        lines.append(_row(*name, *parts, *(_share(hits, found.clean) for hits in others)))
    return "\n".join(lines) + "\n", missed(total, figures(controls))


def missed(total: Figures, control: Figures) -> list[str]:
    """Targets of the issue that the pooled figures do not keep."""
    found = []
    if not total.visible or total.right / total.visible < RIGHT_MIN:
        found.append(f"right: {_share(total.right, total.visible)}, target {RIGHT_MIN:.0%}")
    if not control.clean or control.named / control.clean > NAMED_MAX:
        found.append(f"named in controls: {_share(control.named, control.clean)}, target {NAMED_MAX:.0%}")
    if not total.error_kept:
        found.append(f"time error: {total.error_us:.0f} us, {total.error_share:.1%}")
    if total.slope is None or not SLOPE[0] <= total.slope.slope <= SLOPE[1]:
        found.append(f"slope: {_slope(total.slope)}")
    if total.unknown > UNKNOWN_MAX:
        found.append(f"unknown: {total.unknown:.1%} of the excess")
    return found


def _grouped(
    scores: Sequence[Score], key: Callable[[Score], tuple[str, str]]
) -> list[tuple[tuple[str, str], list[Score]]]:
    """In order of first appearance."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return list(groups.items())


def _fault_row(name: tuple[str, str], found: Figures) -> str:
    timed = found.slope is not None or found.error_us > 0
    return _row(
        *name,
        f"{found.clean} of {found.pulses}",
        f"{found.visible}",
        f"{found.excess_us:.0f}",
        _share(found.right, found.visible),
        f"{found.error_us:.0f}" if timed else "",
        f"{found.error_share:.1%}" if timed else "",
        _slope(found.slope),
        f"{found.unknown:.1%}",
        _share(found.thresholds_right, found.visible, False),
        _share(found.outlier_right, found.visible, False),
    )


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _share(hits: int, trials: int, interval: bool = True) -> str:
    if not trials:
        return ""
    low, high = wilson(hits, trials)
    bounds = f" ({low:.1%} - {high:.1%})" if interval else ""
    return f"{hits} of {trials}, {hits / trials:.1%}{bounds}"


def _slope(slope: Slope | None) -> str:
    return "" if slope is None else f"{slope.slope:.3f} ({slope.low:.3f} - {slope.high:.3f})"
