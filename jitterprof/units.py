"""Durations and rates as people type and read them. Inside the program time is integer nanoseconds."""

import re

from jitterprof.errors import SpecError

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

_UNIT_NS = {"ns": 1, "us": NS_PER_US, "ms": NS_PER_MS, "s": NS_PER_S, "m": 60 * NS_PER_S, "h": 3600 * NS_PER_S}
_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ns|us|ms|s|m|h)?\s*")


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of "30s", "1.5ms", "200us", "2m"; a bare number is seconds. Raises SpecError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise SpecError(f"'{text}' is not a duration", "write a number with ns, us, ms, s, m or h: 30s, 1.5ms, 2m")
    return round(float(match[1]) * _UNIT_NS[match[2] or "s"])


def format_ns(ns: float) -> str:
    """Three significant digits with the unit people expect: 812 ns, 4.31 us, 12.0 ms, 3.20 s."""
    magnitude = abs(ns)
    for unit, size in (("s", NS_PER_S), ("ms", NS_PER_MS), ("us", NS_PER_US)):
        if magnitude >= size:
            value = ns / size
            digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
            return f"{value:.{digits}f} {unit}"
    return f"{ns:.0f} ns"
