"""Why slow requests ran longer than usual: their `run` excess, split as far as the evidence goes.

The ledger keeps `run`; this says beside it what that time was. With counters the split is that of the logarithmic mean
Divisia index (LMDI-I, Ang 2005, doi:10.1016/j.enpol.2003.10.010): the time is instructions x cycles per instruction /
frequency, and against a base t0 each factor x gets L(t, t0) ln(x / x0), L being the logarithmic mean
(t - t0) / ln(t / t0). The three sum exactly to t - t0, in whatever order one takes them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.distribution import round_to_total
from jitterprof.analysis.neighbours import Beside, neighbours
from jitterprof.analysis.running_time import Counted, Floats, count_work, mean_khz, ran_ns, running_time
from jitterprof.analysis.silent_gaps import silent_gaps
from jitterprof.analysis.spikes import Population
from jitterprof.model.event import Neighbour
from jitterprof.model.ledger import Ledger
from jitterprof.model.run import Manifest
from jitterprof.store import Run
from jitterprof.units import format_ns

#: A `run` excess below this part of the whole excess needs no explanation.
MATERIAL = 0.10
#: Shares of time below these are not worth a line.
SILENT_LOUD = 0.001
STEAL_LOUD = 0.005
#: So many slow and so many ordinary requests are looked at in detail, evenly chosen.
SAMPLE = 20_000
RESAMPLES = 400
#: The interval is [LEVEL, 1 - LEVEL] of the bootstrap over slow requests.
LEVEL = 0.025


@dataclass(frozen=True, slots=True)
class InflationRow:
    """One part: mean ns per slow request, between `low_ns` and `high_ns` (95 %), and on what that rests.

    `name`: work, cycles per instruction, frequency, work and cycles per instruction, or not explained.
    """

    name: str
    ns: int
    low_ns: int
    high_ns: int
    basis: str


@dataclass(frozen=True, slots=True)
class Inflation:
    """`excess_ns`: mean running time of the slow requests beyond their shape's median. `rows` sum exactly to it; none
    where it is not material. `neighbours`: beside whom requests ran longer; that time is part of the rows, and not on
    top of them. `caveats`: the same in words."""

    excess_ns: int = 0
    rows: tuple[InflationRow, ...] = ()
    neighbours: tuple[Beside, ...] = ()
    caveats: tuple[str, ...] = ()


def split(run: Run, ledger: Ledger, population: Population) -> Inflation:
    """Split the `run` excess of the slow requests of `population`."""
    tail = population.tail
    if not tail.any() or run.manifest.probe_mode != "bpf":
        return Inflation()
    running = ran_ns(ledger, population.rows, len(run.requests))
    usual = np.array([_median(running[np.isin(population.rows, body)]) for body in population.body], np.int64)
    excess = running - usual[population.baseline]
    mean = float(excess[tail].mean())
    whole = float((population.response_ns - population.baseline_ns[population.baseline])[tail].mean())
    if mean < MATERIAL * whole or mean <= 0:
        return Inflation(round(mean))
    rows = _rows(run, ledger, population, running, usual, excess)
    beside = neighbours(run.requests[population.rows], excess, tail, float(np.median(usual)), run.events)
    lines = [_sentence(rows, mean, run.manifest)]
    lines += [_beside(one) for one in beside]
    lines += _unseen(run, float(np.median(usual)))
    return Inflation(round(mean), rows, beside, tuple(lines))


def _median(values: npt.NDArray[np.int64]) -> int:
    return round(float(np.median(values))) if len(values) else 0


def _sample(places: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    if len(places) <= SAMPLE:
        return places
    chosen: npt.NDArray[np.intp] = places[np.linspace(0, len(places) - 1, SAMPLE).astype(np.intp)]
    return chosen


def _rows(
    run: Run,
    ledger: Ledger,
    population: Population,
    running: npt.NDArray[np.int64],
    usual: npt.NDArray[np.int64],
    excess: npt.NDArray[np.int64],
) -> tuple[InflationRow, ...]:
    slow = _sample(np.flatnonzero(population.tail))
    in_body = np.isin(population.rows, np.concatenate(population.body))
    ordinary = _sample(np.flatnonzero(in_body & ~population.tail))
    chosen = np.concatenate([slow, ordinary])
    time = running_time(ledger, population.rows[chosen], len(run.requests))
    is_slow = np.arange(len(chosen)) < len(slow)
    shape, ns = population.baseline[chosen], running[chosen]
    counted = count_work(time, run.events)
    if counted is not None:
        names, factors = _counted_factors(counted, ns)
        basis = "counters"
    else:
        khz = mean_khz(time, run.events)
        names, factors = ("frequency", "work and cycles per instruction"), _khz_factors(khz, ns)
        basis = "frequency changes"
    terms = _lmdi(factors, ns, shape, is_slow, usual) if len(factors) else np.full((0, len(slow)), np.nan)
    known = np.isfinite(terms).all(axis=0) if len(terms) else np.zeros(len(slow), bool)
    parts = [np.where(known, term, 0.0) for term in terms] if known.any() else []
    rest = np.where(known, 0.0, excess[slow])
    labels = [(name, basis) for name in names] if parts else []
    if (~known).any():
        parts, labels = [*parts, rest], [*labels, ("not explained", "what the rest leaves")]
    return _with_intervals(labels, np.array(parts), float(excess[population.tail].mean()))


def _counted_factors(counted: Counted, ns: npt.NDArray[np.int64]) -> tuple[tuple[str, ...], Floats]:
    """Factors of the running time: instructions, cycles per instruction, ns per cycle."""
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.stack([counted.instructions, counted.cycles / counted.instructions, ns / counted.cycles])
    return ("work", "cycles per instruction", "frequency"), factors


def _khz_factors(khz: Floats | None, ns: npt.NDArray[np.int64]) -> Floats:
    """Factors of the running time: ns per cycle, and cycles; none where no frequency is known."""
    if khz is None:
        return np.empty((0, len(ns)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([1e6 / khz, ns * khz / 1e6])


def _lmdi(
    factors: Floats,
    ns: npt.NDArray[np.int64],
    shape: npt.NDArray[np.intp],
    slow: npt.NDArray[np.bool_],
    usual: npt.NDArray[np.int64],
) -> Floats:
    """float64[factors, slow requests]: what each factor adds to t - t0; NaN where a factor is not known.

    t0 is the `usual` time of the shape. The base of each factor is its median over ordinary requests; the last takes up
    what the product of these medians misses t0 by, so that the base too is a product.
    """
    base = np.full((len(factors), len(usual)), np.nan)
    for number in range(len(usual)):
        ordinary = factors[:, ~slow & (shape == number)]
        if np.isfinite(ordinary).all(axis=0).any():
            base[:, number] = np.nanmedian(ordinary, axis=1)
    base[-1] = usual / np.prod(base[:-1], axis=0)
    then, now = usual[shape[slow]].astype(np.float64), ns[slow].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(now / then)
        weight = np.where(np.abs(ratio) > 1e-12, (now - then) / ratio, then)
        terms: Floats = weight * np.log(factors[:, slow] / base[:, shape[slow]])
    return terms


def _with_intervals(labels: list[tuple[str, str]], parts: Floats, mean: float) -> tuple[InflationRow, ...]:
    """Mean and interval of each part (float64[parts, slow requests]); the means are made to sum to `mean`, rounded."""
    count = parts.shape[1]
    draws = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    rows = []
    means = parts.mean(axis=1)
    # Where only a sample was looked at, its mean differs from that of all.
    means = means * (mean / means.sum()) if means.sum() > 0 else means
    rounded = round_to_total([*means.tolist()])
    for (name, basis), part, ns in zip(labels, parts, rounded, strict=True):
        low, high = np.quantile(part[draws].mean(axis=1), (LEVEL, 1 - LEVEL))
        rows.append(InflationRow(name, ns, round(float(low)), round(float(high)), basis))
    return tuple(rows)


def _sentence(rows: tuple[InflationRow, ...], mean: float, manifest: Manifest) -> str:
    longer = f"slow requests ran {format_ns(mean)} longer than usual"
    explained = [row for row in rows if row.name != "not explained"]
    if not explained:
        pmu = next((probe for probe in manifest.probes if probe.name == "pmu"), None)
        why = f"no counters ({pmu.reason or pmu.state})" if pmu is not None and pmu.state != "on" else "no counters"
        return f"{longer}: on the CPU, not explained further: {why}"
    parts = [f"{format_ns(row.ns)} {row.name} ({format_ns(row.low_ns)} to {format_ns(row.high_ns)})" for row in rows]
    return f"{longer}, by {rows[0].basis}: {', '.join(parts)}"


def _beside(one: Beside) -> str:
    where = "on the same core" if one.kind == Neighbour.SMT else "on a CPU with the same cache"
    return (
        f"requests ran {format_ns(one.ns)} ({format_ns(one.low_ns)} to {format_ns(one.high_ns)}) longer while "
        f"{one.name} ran {where}: so did {one.tail_share:.0%} of the slow ones and {one.body_share:.0%} of the others"
    )


def _unseen(run: Run, usual: float) -> list[str]:
    """Time on the CPU that was not there: what the hypervisor takes, told or not."""
    lines = []
    gaps = silent_gaps(run.canary, run.events)
    if gaps is not None and gaps.share >= SILENT_LOUD:
        lines.append(
            f"a spinning thread lost {gaps.share:.1%} of its time before the session, {gaps.per_second:.0f} times a "
            f"second and up to {format_ns(gaps.longest_ns)}, with no kernel event to show for it (hypervisor or "
            f"firmware): {format_ns(gaps.share * usual)} of a usual request's running time may be that"
        )
    kernel = run.manifest.oracles.get("kernel")
    if isinstance(kernel, dict) and kernel.get("steal_ns") and kernel.get("elapsed_ns"):
        share = sum(kernel["steal_ns"]) / (len(kernel["steal_ns"]) * kernel["elapsed_ns"])
        if share >= STEAL_LOUD:
            lines.append(f"the hypervisor says that it took {share:.1%} of this machine's time (/proc/stat)")
    return lines
