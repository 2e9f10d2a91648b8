"""Arrival processes: when requests are wanted. Pure: text and a seed in, offsets in nanoseconds out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jitterprof.errors import SpecError
from jitterprof.units import NS_PER_S, format_ns

#: A Python generator tops out near here; anything above is a typing error.
RATE_MAX = 1_000_000.0
RATE_MIN = 0.001
#: Rows of 64 bytes: about 3 GB of schedule and results.
REQUESTS_MAX = 50_000_000
_REPLAY_SPAN_MAX_NS = 30 * 24 * 3600 * NS_PER_S
_REPLAY_UNITS = {"s": NS_PER_S, "ms": 1_000_000, "us": 1_000, "ns": 1}

_FORMS = "closed, constant:RATE, poisson:RATE or replay:FILE, with RATE in requests per second"

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Closed:
    """Every worker issues its next request as soon as the last one ended."""


@dataclass(frozen=True, slots=True)
class Constant:
    """One request every 1 / `rate` seconds."""

    rate: float


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent exponential gaps with mean 1 / `rate` seconds."""

    rate: float


@dataclass(frozen=True, slots=True)
class Replay:
    """Recorded arrivals. `offsets`: int64 ns, ascending, the first is 0."""

    path: Path
    offsets: Offsets = field(compare=False, repr=False)

    @property
    def rate(self) -> float:
        """Mean requests per second of the file."""
        span = int(self.offsets[-1])
        return (len(self.offsets) - 1) * NS_PER_S / span if span else 0.0


Arrival = Closed | Constant | Poisson | Replay


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        raise SpecError(f"arrival rate '{text}' is not a number", f"write {_FORMS}") from None
    if not RATE_MIN <= rate <= RATE_MAX:
        raise SpecError(
            f"arrival rate {text}/s is out of range", f"use a rate between {RATE_MIN:g} and {RATE_MAX:,.0f} per second"
        )
    return rate


def _closed(text: str) -> Arrival:
    if text:
        raise SpecError(f"closed arrival takes no value, got '{text}'", f"write {_FORMS}")
    return Closed()


def _replay(text: str) -> Arrival:
    if not text:
        raise SpecError("replay needs a file", "write replay:FILE, one timestamp per line")
    return Replay(Path(text), read_replay(Path(text)))


_PARSERS: dict[str, Callable[[str], Arrival]] = {
    "closed": _closed,
    "constant": lambda text: Constant(_rate(text)),
    "poisson": lambda text: Poisson(_rate(text)),
    "replay": _replay,
}


def parse_arrival(text: str) -> Arrival:
    """The arrival process named by `closed`, `constant:RATE`, `poisson:RATE` or `replay:FILE`. Raises SpecError."""
    name, _, value = text.strip().partition(":")
    if name not in _PARSERS:
        raise SpecError(f"unknown arrival '{text}'", f"write {_FORMS}")
    return _PARSERS[name](value.strip())


def read_replay(path: Path) -> Offsets:
    """Offsets in ns, relative to the first, of a file with one timestamp per line.

    Timestamps are seconds with any number of decimals; a line `# unit: ns` (or us, ms, s) before the first one says
    otherwise. Other `#` comments and empty lines are skipped. Raises SpecError for a file that cannot be read, holds
    no timestamp, or goes back in time.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise SpecError(f"no such replay file: {path}", "write replay:FILE, one timestamp per line") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not a text file", "a replay file holds one timestamp per line") from None
    except OSError as error:
        raise SpecError(f"cannot read replay file {path}: {error.strerror}") from None
    scale = Decimal(NS_PER_S)
    values: list[int] = []
    for number, line in enumerate(lines, 1):
        text, _, comment = line.partition("#")
        name, _, unit = comment.partition(":")
        if not values and name.strip() == "unit":
            if unit.strip() not in _REPLAY_UNITS:
                raise SpecError(f"{path}:{number}: unknown unit '{unit.strip()}'", "known: s, ms, us, ns")
            scale = Decimal(_REPLAY_UNITS[unit.strip()])
        if not text.strip():
            continue
        try:
            # Exact: seconds since 1970 do not fit a float to the nanosecond.
            value = int((Decimal(text.strip()) * scale).to_integral_value())
        except (InvalidOperation, ValueError, OverflowError):
            raise SpecError(
                f"{path}:{number}: '{text.strip()[:40]}' is not a timestamp", "one number per line"
            ) from None
        if values and value < values[-1]:
            raise SpecError(f"{path}:{number}: goes back in time", "timestamps must ascend: sort the file first")
        values.append(value)
    if not values:
        raise SpecError(f"{path} holds no timestamp", "a replay file holds one timestamp per line")
    if len(values) > REQUESTS_MAX:
        raise SpecError(f"{path} holds more than {REQUESTS_MAX:,} timestamps", "split the file")
    if values[-1] - values[0] > _REPLAY_SPAN_MAX_NS:
        raise SpecError(
            f"{path} spans {(values[-1] - values[0]) // NS_PER_S // 86400:,} days when read as it says",
            "if these are not seconds, put a first line such as '# unit: ns'",
        )
    # Relative before int64: a timestamp may be anything, a span of 30 days always fits.
    return np.array([value - values[0] for value in values], dtype=np.int64)


def _check_count(count: float, why: str) -> None:
    if count > REQUESTS_MAX:
        raise SpecError(
            f"{why} makes {count:,.0f} requests", f"at most {REQUESTS_MAX:,}: lower the rate or the duration"
        )


def _constant(rate: float, duration_ns: int, requests: int | None) -> Offsets:
    period = NS_PER_S / rate
    count = requests if requests is not None else int(np.ceil(duration_ns / period))
    _check_count(count, f"{rate:g}/s")
    offsets: Offsets = np.rint(np.arange(count) * period).astype(np.int64)
    return offsets if requests is not None else offsets[: int(np.searchsorted(offsets, duration_ns))]


def _poisson(rate: float, duration_ns: int, requests: int | None, rng: np.random.Generator) -> Offsets:
    mean = NS_PER_S / rate
    expected = requests if requests is not None else duration_ns / mean
    _check_count(expected, f"{rate:g}/s")
    if requests is not None:
        return np.cumsum(rng.exponential(mean, requests)).astype(np.int64)
    chunk = int(expected + 6 * expected**0.5) + 16
    total = np.cumsum(rng.exponential(mean, chunk))
    while total[-1] < duration_ns:
        total = np.concatenate([total, total[-1] + np.cumsum(rng.exponential(mean, chunk))])
    offsets: Offsets = total.astype(np.int64)
    return offsets[: int(np.searchsorted(offsets, duration_ns))]


def _recorded(replay: Replay, duration_ns: int, requests: int | None) -> Offsets:
    if requests is None:
        within: Offsets = replay.offsets[: int(np.searchsorted(replay.offsets, duration_ns))]
        return within
    if requests > len(replay.offsets):
        raise SpecError(
            f"{replay.path} holds {len(replay.offsets):,} timestamps, {requests:,} requests were asked for",
            "lower --requests or use a longer file",
        )
    return replay.offsets[:requests]


def schedule(
    arrival: Arrival, duration_ns: int, requests: int | None, seed: int | np.random.SeedSequence = 0
) -> Offsets:
    """Intended starts as int64 ns from the start of the window, ascending.

    All of them lie in [0, `duration_ns`), or there are exactly `requests` where that is given. Equal arguments give
    equal schedules. Raises SpecError when nothing or too much would be asked for; a closed arrival has no schedule.
    """
    if requests is not None and requests < 1:
        raise SpecError(f"{requests} requests is not a measurement", "ask for at least 1")
    if requests is None and duration_ns <= 0:
        raise SpecError("the duration must be longer than zero")
    match arrival:
        case Closed():
            raise ValueError("a closed arrival has no schedule")
        case Constant(rate):
            offsets = _constant(rate, duration_ns, requests)
        case Poisson(rate):
            offsets = _poisson(rate, duration_ns, requests, np.random.default_rng(seed))
        case Replay():
            offsets = _recorded(arrival, duration_ns, requests)
    if not len(offsets):
        raise SpecError(
            f"no request falls into {format_ns(duration_ns)} at this rate", "raise the rate or the duration"
        )
    return offsets


def warmup_schedule(arrival: Arrival, warmup_ns: int, seed: int | np.random.SeedSequence = 0) -> tuple[Offsets, int]:
    """Warm-up offsets by the same process, and the offset at which the measured schedule carries on with no gap.

    A constant process keeps its period across the seam, a replay warms up on its own beginning, repeated as needed.
    """
    if warmup_ns <= 0:
        return np.empty(0, dtype=np.int64), 0
    match arrival:
        case Closed():
            raise ValueError("a closed arrival has no schedule")
        case Constant(rate):
            count = max(1, round(warmup_ns * rate / NS_PER_S))
            return schedule(arrival, 0, count), round(count * NS_PER_S / rate)
        case Poisson(rate):
            return _poisson(rate, warmup_ns, None, np.random.default_rng(seed)), warmup_ns
        case Replay(offsets=offsets):
            mean_gap = round(NS_PER_S / arrival.rate) if arrival.rate else warmup_ns
            lap = int(offsets[-1]) + max(mean_gap, 1)
            laps = -(-warmup_ns // lap)
            _check_count(laps * len(offsets), "the warm-up")
            rows = (np.arange(laps, dtype=np.int64)[:, None] * lap + offsets[None, :]).ravel()
            return rows[rows < warmup_ns], warmup_ns
