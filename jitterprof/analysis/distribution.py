"""What a set of latencies looks like, and rounding that keeps a sum."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jitterprof.model.run import Quantiles


def quantiles(ns: npt.NDArray[np.int64]) -> Quantiles:
    """Count, quantiles (linear between order statistics, as numpy, pandas and DuckDB do by default), maximum, mean."""
    if not len(ns):
        return Quantiles()
    p50, p90, p99, p99_9 = (round(float(value)) for value in np.quantile(ns, (0.5, 0.9, 0.99, 0.999)))
    return Quantiles(len(ns), p50, p90, p99, p99_9, int(ns.max()), float(ns.mean()))


def round_to_total(values: Sequence[float], quantum: int = 1) -> list[int]:
    """Round `values` to multiples of `quantum` so that they add up to their rounded sum (largest remainder)."""
    scaled = np.asarray(values, np.float64) / quantum
    rounded = np.floor(scaled)
    missing = round(float(scaled.sum())) - int(rounded.sum())
    order = np.argsort(rounded - scaled, kind="stable")
    rounded[order[:missing]] += 1
    return [int(value) * quantum for value in rounded]
