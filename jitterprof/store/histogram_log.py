"""latency.hlog: an HdrHistogram V2 interval log, in ns. The only importer of hdrh."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitterprof.units import NS_PER_S

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

LOWEST_NS = 1
HIGHEST_NS = 3_600 * NS_PER_S
SIGNIFICANT_DIGITS = 3
INTERVAL_NS = NS_PER_S
#: Interval_Max is printed in ms, the convention of the other implementations.
MAX_UNIT_NS = 1e6

#: Values up to here have a bucket each; above, buckets double in width every half of it.
_SUB_BUCKETS = 2048


def write_histogram_log(
    path: Path,
    series: Mapping[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
    origin_ns: int,
    origin_epoch_s: float,
) -> None:
    """Write one tagged histogram per second and series. `series`: tag -> (time of each value, value), in ns.

    `origin_ns` (CLOCK_MONOTONIC) and `origin_epoch_s` (wall clock) are the same moment; time stamps count from it.
    Nothing is corrected for coordinated omission: response times already count from the intended start.
    Raises OSError.
    """
    lines = [
        "#[jitterprof: values are nanoseconds; tags response, service, dispatch_lag, floor, token]",
        "#[Histogram log format version 1.3]",
        f"#[StartTime: {origin_epoch_s:.3f} (seconds since epoch)]",
        f"#[BaseTime: {origin_epoch_s:.3f} (seconds since epoch)]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    entries: list[tuple[int, str, str]] = []
    for tag, (times, values) in series.items():
        if not len(times):
            continue
        intervals = (times - origin_ns) // INTERVAL_NS
        order = np.argsort(intervals, kind="stable")
        starts = np.flatnonzero(np.diff(intervals[order], prepend=np.iinfo(np.int64).min))
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            number = int(intervals[order[start]])
            histogram = fill_histogram(values[order[start:end]])
            offset = number * INTERVAL_NS / NS_PER_S
            text = (
                f"Tag={tag},{offset:.3f},{INTERVAL_NS / NS_PER_S:.3f},"
                f"{histogram.get_max_value() / MAX_UNIT_NS:.3f},{histogram.encode().decode('ascii')}"
            )
            entries.append((number, tag, text))
    lines += [text for _, _, text in sorted(entries, key=lambda entry: entry[:2])]
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text("\n".join(lines) + "\n", encoding="ascii")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_histogram_log(path: Path) -> dict[str, HdrHistogram]:
    """All intervals of each tag added up. Raises OSError, and ValueError where a line is not an interval."""
    from hdrh.histogram import HdrHistogram

    totals: dict[str, HdrHistogram] = {}
    for line in path.read_text(encoding="ascii").splitlines():
        if not line.startswith("Tag="):
            continue
        tag, _, _, _, payload = line.removeprefix("Tag=").split(",", 4)
        part = HdrHistogram.decode(payload)
        if tag in totals:
            totals[tag].add(part)
        else:
            totals[tag] = part
    return totals


def fill_histogram(values: npt.NDArray[np.int64]) -> HdrHistogram:
    """A histogram of `values`; what is above the range counts as its end."""
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)
    inside = np.clip(values, 0, HIGHEST_NS)
    # One call per bucket instead of one per value: round down to the bucket and count.
    widths = np.frexp(np.maximum(inside, 1).astype(np.float64))[1] - (_SUB_BUCKETS.bit_length() - 1)
    shift = np.maximum(widths, 0)
    buckets, counts = np.unique(inside >> shift << shift, return_counts=True)
    for value, count in zip(buckets.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return histogram
