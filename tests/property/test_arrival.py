"""Arrival processes, over whole ranges of rates, durations and seeds."""

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitterprof.errors import SpecError
from jitterprof.load.arrival import Constant, Poisson, parse_arrival, read_replay, schedule, warmup_schedule
from jitterprof.units import NS_PER_S

RATES = st.floats(1.0, 5000.0)
SEEDS = st.integers(0, 2**32)
SECONDS = st.floats(1.0, 20.0)


@given(RATES, SECONDS)
def test_constant_never_bursts_and_keeps_its_rate(rate: float, seconds: float) -> None:
    duration = int(seconds * NS_PER_S)
    offsets = schedule(Constant(rate), duration, None)
    period = NS_PER_S / rate
    assert offsets[0] == 0
    assert offsets[-1] < duration
    assert abs(len(offsets) - duration / period) <= 1
    if len(offsets) > 1:
        gaps = np.diff(offsets)
        assert gaps.min() >= period - 1
        assert gaps.max() <= period + 1


@given(RATES, SECONDS, SEEDS)
def test_poisson_is_sorted_inside_the_window_and_has_its_rate(rate: float, seconds: float, seed: int) -> None:
    duration = int(seconds * NS_PER_S)
    expected = rate * seconds
    try:
        offsets = schedule(Poisson(rate), duration, None, seed)
    except SpecError:
        assert expected < 40  # e^-40: emptiness is believable only where few were due
        return
    assert (np.diff(offsets) >= 0).all()
    assert offsets[0] >= 0
    assert offsets[-1] < duration
    assert abs(len(offsets) - expected) <= 7 * expected**0.5 + 7


@given(st.sampled_from([Constant(250.0), Poisson(250.0)]), st.integers(1, 3000), SEEDS)
def test_a_count_is_exact_whatever_the_duration(arrival: Constant | Poisson, count: int, seed: int) -> None:
    offsets = schedule(arrival, 1, count, seed)
    assert len(offsets) == count
    assert (np.diff(offsets) >= 0).all()
    if count > 1000:
        assert offsets[-1] == pytest.approx(count / 250 * NS_PER_S, rel=0.25)


@given(SEEDS)
def test_poisson_gaps_are_exponential(seed: int) -> None:
    """Kolmogorov-Smirnov against the law itself, at a distance that chance exceeds once in 1e8."""
    gaps = np.sort(np.diff(schedule(Poisson(1000.0), 0, 5001, seed)) / 1e6)
    law = 1 - np.exp(-gaps)
    n = len(gaps)
    distance = max((np.arange(1, n + 1) / n - law).max(), (law - np.arange(n) / n).max())
    assert distance < (np.log(2e8) / (2 * n)) ** 0.5


@given(RATES, SEEDS)
@settings(max_examples=30)
def test_the_seed_decides_and_nothing_else(rate: float, seed: int) -> None:
    first = schedule(Poisson(rate), 0, 50, seed)
    assert (first == schedule(Poisson(rate), 0, 50, seed)).all()
    assert (first != schedule(Poisson(rate), 0, 50, seed + 1)).any()


@given(RATES, st.floats(0.1, 5.0))
def test_a_constant_warm_up_runs_into_the_measurement_without_a_gap(rate: float, seconds: float) -> None:
    warm, seam = warmup_schedule(Constant(rate), int(seconds * NS_PER_S))
    joined = np.concatenate([warm, schedule(Constant(rate), 0, 20) + seam])
    assert np.abs(np.diff(joined) - NS_PER_S / rate).max() <= 1


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=200),
    st.integers(0, 2 * 10**18),
    st.sampled_from([("s", 9), ("ms", 6), ("us", 3), ("ns", 0)]),
)
def test_replay_round_trips_to_the_nanosecond(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[int], first: int, unit: tuple[str, int]
) -> None:
    times = np.cumsum(gaps, dtype=np.int64)
    name, digits = unit
    lines = [f"{Decimal(first + int(time)).scaleb(-digits):f}" for time in times]
    path = tmp_path_factory.mktemp("replay") / "times.txt"
    path.write_text(f"# recorded by nobody\n# unit: {name}\n\n" + "\n".join(lines) + "\n")
    assert (read_replay(path) == times - times[0]).all()


def test_replay_in_seconds_needs_no_header(tmp_path: Path) -> None:
    path = tmp_path / "times.txt"
    path.write_text("1700000000.000000001  # the epoch does not fit a float\n1700000000.000000003\n1700000000.5\n")
    arrival = parse_arrival(f"replay:{path}")
    assert schedule(arrival, NS_PER_S, None).tolist() == [0, 2, 499_999_999]
    assert schedule(arrival, 400_000_000, None).tolist() == [0, 2]
    assert schedule(arrival, 1, 2).tolist() == [0, 2]


def test_a_replay_warms_up_on_its_own_beginning(tmp_path: Path) -> None:
    path = tmp_path / "times.txt"
    path.write_text("0\n0.1\n0.3\n")
    warm, seam = warmup_schedule(parse_arrival(f"replay:{path}"), NS_PER_S)
    lap = 450_000_000  # 300 ms and one mean gap
    assert warm.tolist() == [0, 100_000_000, 300_000_000, lap, lap + 100_000_000, lap + 300_000_000, 2 * lap]
    assert seam == NS_PER_S


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown arrival"),
        ("uniform:5", "unknown arrival"),
        ("poisson", "not a number"),
        ("poisson:", "not a number"),
        ("poisson:fast", "not a number"),
        ("poisson:0", "out of range"),
        ("poisson:-5", "out of range"),
        ("constant:1e9", "out of range"),
        ("constant:nan", "out of range"),
        ("constant:inf", "out of range"),
        ("closed:4", "takes no value"),
        ("replay:", "needs a file"),
        ("replay:/nowhere/at/all", "no such replay file"),
        ("replay:/", "cannot read"),
    ],
)
def test_nonsense_is_one_clear_line(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as caught:
        parse_arrival(text)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no timestamp"),
        (b"# nothing\n\n", "no timestamp"),
        (b"1\n2\n1.5\n", ":3: goes back in time"),
        (b"1\ntwo\n", ":2: 'two' is not"),
        (b"1\nnan\n", ":2: 'nan' is not"),
        (b"1\ninf\n", ":2: 'inf' is not"),
        (b"# unit: weeks\n1\n", "unknown unit 'weeks'"),
        (b"1700000000000000000\n1700000100000000000\n", "days"),
        (b"\x7fELF\xff\xfe", "not a text file"),
    ],
)
def test_a_bad_replay_file_is_named_with_its_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "times.txt"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=says):
        parse_arrival(f"replay:{path}")


def test_too_much_too_little_and_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="makes 3,600,000,000 requests"):
        schedule(Poisson(1e6), 3600 * NS_PER_S, None)
    with pytest.raises(SpecError, match="no request falls into"):
        schedule(Poisson(0.001), 1_000_000, None, 1)
    with pytest.raises(SpecError, match="0 requests is not"):
        schedule(Poisson(10), 1, 0)
    with pytest.raises(SpecError, match="longer than zero"):
        schedule(Poisson(10), 0, None)
    path = tmp_path / "times.txt"
    path.write_text("0\n1\n")
    with pytest.raises(SpecError, match="holds 2 timestamps, 3 requests"):
        schedule(parse_arrival(f"replay:{path}"), 1, 3)
