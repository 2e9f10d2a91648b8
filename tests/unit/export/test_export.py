"""What `explain` shows, compared with texts that a person has read. To accept a change: UPDATE_SNAPSHOTS=1 pytest."""

import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jitterprof.analysis.blame import BlameRow, BlameTable
from jitterprof.analysis.counterfactual import Counterfactual
from jitterprof.analysis.episodes import Episode
from jitterprof.analysis.explanation import Explanation, Part, Session, Spike
from jitterprof.analysis.health import HealthReport
from jitterprof.export.console import print_explanation
from jitterprof.export.json_document import explanation_json
from jitterprof.export.words import LOOKS, sentence, story
from jitterprof.model.cause import CAUSE_IDS
from jitterprof.model.run import ProbeStatus, Quantiles

MS = 1_000_000
SNAPSHOTS = Path(__file__).parent / "snapshots"


def _spike(seq: int, confidence: str, *parts: tuple[str, str, int]) -> Spike:
    ledger = tuple(
        Part(cause, culprit, 1, 4711, ns, ns // 2 if cause == "softirq" else 0) for cause, culprit, ns in parts
    )
    response, start = sum(part.ns for part in ledger), 1_000_000_000 + seq * MS
    top = max(parts, key=lambda part: part[2])
    return Spike(
        seq, start, start, start + response, response, 3 * MS, response - 3 * MS, top[0], top[1], confidence, ledger
    )


def _behind(spike: Spike, stall: int, slow: int) -> Spike:
    """What another request's stall, another's longer run and mere load add to a request."""
    queue = (
        Part("preempted", "stress-ng/4711", 1, 4711, 2_100_000, 0, 2_100_000, "measured", stall),
        Part("softirq", "NET_RX", 0, 4711, 400_000, 400_000, 400_000, "calibrated", stall),
        Part("queue", "longer run of earlier requests", 1, 4711, 300_000, 0, 300_000, "measured", slow),
        Part("queue", "", 1, 4711, 200_000, 0),
    )
    return replace(spike, ledger=(*spike.ledger, *queue), response_ns=spike.response_ns + 3_000_000)


FEW = "only 3 separate groups of requests above p99.9"
# fmt: off
BUSY = Explanation(
    Session("silero-vad", "onnxruntime", "cpu", "", "6.18.0", 250, 1_000_000_000, 30_000_000_000),
    Quantiles(14_998, 3_011_000, 3_322_000, 5_875_001, 9_120_000, 11_800_000, 3_151_234.5),
    5_875_001,
    None,
    150,
    BlameTable(
        (
            BlameRow("preempted", "stress-ng (4 tasks)", 2_610_000, 0.7123456789, 96, 0.041),
            BlameRow("softirq", "NET_RX", 700_000, 0.191, 61, 0.012),
            BlameRow("unknown", "lost", 190_000, 0.0519, 20, 0.03),
            BlameRow("queue", "", 100_000, 0.0273, 21, None),
            BlameRow("run", "", 50_000, 0.0137, 44, 0.9),
        ),
        3_664_000,
        14_000,
        0.0038,
    ),
    (
        _spike(
            4711,
            "high",
            ("preempted", "stress-ng/4711", 6_940_000),
            ("run", "", 3_080_000),
            ("softirq", "NET_RX", 1_190_000),
            ("wakeup", "idle exit", 390_000),
            ("unknown", "lost", 200_000),
        ),
        _spike(
            93,
            "medium",
            ("throttled", "/kubepods/burstable/pod1234/model", 4_000_000),
            ("run", "", 3_000_000),
            ("block_io", "nvme0n1", 880_000),
            ("timer", "tick", 4_000),
        ),
        _spike(12_000, "low", ("run", "", 5_940_000), ("timer", "tick_nohz_handler", 31_000)),
        _behind(_spike(4713, "high", ("run", "", 3_010_000), ("softirq", "NET_RX", 1_000_000)), 4711, 4712),
    ),
    HealthReport(
        "bpf",
        (ProbeStatus("sched", "on"), ProbeStatus("block", "missing", "no tracepoint block_rq_issue")),
        12,
        0.0061,
        0.0004,
        Quantiles(2000, 900, 1100, 2100, 14_000, 20_000, 950.0),
        Quantiles(14_998, 300, 500, 2_300, 8_000, 9_000, 330.0),
        ("12 kernel events were lost; the time they covered is unknown",),
        (
            "12 kernel events were lost; the time they covered is unknown",
            "probe block is missing (no tracepoint block_rq_issue); not seen, and so unknown: block_io",
        ),
    ),
    (
        Counterfactual(
            "preempted", "", "p50", 3_011_000, 3_008_000, 3_007_000, 3_010_000, 3_000, 2_900, 2_950, ""
        ),
        Counterfactual(
            "preempted", "", "p99", 5_875_001, 4_120_300, 3_980_000, 4_300_000, 1_754_701, 1_600_000, 1_650_000, ""
        ),
        Counterfactual(
            "preempted", "", "p99.9", 9_120_000, 5_500_000, None, None, 3_620_000, 3_100_000, 3_300_000, FEW
        ),
        Counterfactual("softirq", "NET_RX", "p50", 3_011_000, 3_011_000, 3_010_000, 3_012_000, 0, 0, 0, ""),
        Counterfactual(
            "softirq", "NET_RX", "p99", 5_875_001, 5_610_000, 5_400_000, 5_900_000, 265_001, 200_000, 230_000, ""
        ),
        Counterfactual(
            "softirq", "NET_RX", "p99.9", 9_120_000, 9_040_000, None, None, 80_000, 60_000, 70_000, FEW
        ),
    ),
    (
        Episode(
            "preempted", "stress-ng/4711", 12_310_000_000, 13_310_000_000, 13_316_940_000, 6_940_000, 1, 1, 23, 4711,
            4733, 61_000_000,
        ),
        Episode(
            "softirq", "NET_RX", 3_200_000_000, 4_200_000_000, 4_231_000_000, 14_200_000, 211, 0, 9, 812, 829,
            11_000_000,
        ),
        Episode(
            "queue", "longer run of earlier requests", 20_100_000_000, 21_100_000_000, 21_109_000_000, 9_000_000, 1, 1,
            3, 9000, 9002, 6_000_000,
        ),
    ),
    0.4567891,
)
# fmt: on
QUIET = replace(
    BUSY,
    latency=Quantiles(14_998, 3_011_000, 3_052_000, 3_141_000, 3_207_000, 3_350_000, 3_015_234.5),
    threshold_ns=3_141_000,
    blame=BlameTable((BlameRow("run", "", 150_000, 0.96, 141, 0.99),), 156_250, 6_250, 0.04),
    spikes=(_spike(7, "high", ("run", "", 3_340_000), ("timer", "tick", 10_000)),),
    health=HealthReport("bpf", (), 0, 0.0002, 0.0004, Quantiles(), Quantiles(), (), ()),
    counterfactuals=(),
    episodes=(),
)
LOADED = replace(
    QUIET,
    blame=BlameTable(
        (BlameRow("queue", "", 600_000, 0.93, 141, None), BlameRow("run", "", 45_000, 0.07, 30, 0.9)), 645_000, 0, 0.0
    ),
)
NO_SPIKE = replace(
    QUIET, slo_ns=10 * MS, threshold_ns=10 * MS, spike_count=0, blame=BlameTable((), 0, 0, 0.0), spikes=()
)
EMPTY = replace(
    NO_SPIKE, latency=Quantiles(), slo_ns=None, health=replace(QUIET.health, caveats=("nothing was completed",))
)


def _rendered(explanation: Explanation, width: int, colour: bool = False) -> str:
    stream = io.StringIO()
    system = "truecolor" if colour else None
    print_explanation(
        explanation, Console(file=stream, width=width, color_system=system, force_terminal=colour, highlight=False)
    )
    return "\n".join(line.rstrip() for line in stream.getvalue().split("\n"))


def _matches(name: str, text: str) -> None:
    file = SNAPSHOTS / name
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize(
    ("name", "explanation", "width", "colour"),
    [
        ("busy_80.txt", BUSY, 80, False),
        ("busy_120.txt", BUSY, 120, False),
        ("busy_100_colour.txt", BUSY, 100, True),
        ("quiet_80.txt", QUIET, 80, False),
        ("loaded_80.txt", LOADED, 80, False),
        ("no_spike_80.txt", NO_SPIKE, 80, False),
        ("empty_80.txt", EMPTY, 80, False),
    ],
)
def test_console(name: str, explanation: Explanation, width: int, colour: bool) -> None:
    text = _rendered(explanation, width, colour)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.split("\n"))) <= width
    _matches(name, text)


def test_json() -> None:
    _matches("busy.json", explanation_json(BUSY) + "\n")


def test_json_has_the_documented_keys_and_integer_times() -> None:
    document = json.loads(explanation_json(BUSY))
    assert list(document) == [
        "schema", "session", "latency", "causes", "spikes", "health", "episodes", "counterfactual", "utilisation",
        "inflation",
    ]  # fmt: skip
    assert set(document["spikes"][0]) == {
        "seq", "intended_start_ns", "start_ns", "end_ns", "response_ns", "baseline_ns", "excess_ns", "top_cause",
        "top_culprit", "confidence", "ledger",
    }  # fmt: skip

    def check(value: object, name: str = "") -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                check(inner, key)
        elif isinstance(value, list):
            for inner in value:
                check(inner, name)
        elif (name.endswith("_ns") or name == "ns") and not (name in ("low_ns", "high_ns") and value is None):
            assert isinstance(value, int), name

    check(document)


def test_every_cause_has_a_look_and_a_letter_of_its_own() -> None:
    assert set(LOOKS) == set(CAUSE_IDS)
    assert len({look.letter for look in LOOKS.values()}) == len(LOOKS)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (
            [("preempted", "stress-ng/4711", 6_940_000), ("run", "", 3_140_000), ("softirq", "NET_RX", 1_240_000),
             ("wakeup", "idle exit", 350_000), ("unknown", "", 150_000)],
            "11.8 ms = 3.1 run + 6.9 preempted by stress-ng/4711 + 1.2 softirq NET_RX + 0.4 idle exit + 0.2 unknown",
        ),
        ([("run", "", 999)], "999 ns = 999 run"),
        ([("run", "", 1_000)], "1.00 us = 1.00 run"),
        ([("run", "", 333_333), ("gc", "", 333_333), ("net", "", 333_334)], "1.00 ms = 0.34 net + 0.33 run + 0.33 gc"),
        ([("run", "", 9_996_000)], "10.00 ms = 10.00 run"),
        ([("run", "", 120 * MS), ("timer", "", 100)], "120 ms = 120 run"),
        ([], "0 ns = 0"),
    ],
)  # fmt: skip
def test_sentence(parts: list[tuple[str, str, int]], text: str) -> None:
    spike = _spike(1, "high", ("run", "", 1))
    ledger = tuple(Part(cause, culprit, 0, 0, ns, 0) for cause, culprit, ns in parts)
    spoken = sentence(replace(spike, ledger=ledger, response_ns=sum(part.ns for part in ledger)))
    assert sorted(re.split(r" [=+] ", spoken)) == sorted(re.split(r" [=+] ", text))
    total, *terms = (float(number) for number in re.findall(r"(?:^|[=+] )([\d.]+)", spoken))
    assert sum(terms) == pytest.approx(total)


@pytest.mark.parametrize(
    ("ns", "pieces", "cpu", "text"),
    [
        (8 * MS, 1, 1, "one 8.00 ms stop by kill/7 at +12.3 s on CPU 1 made 23 requests slow (#1290-#1312)"),
        (7_600_000, 9, 1, "one 7.60 ms stop by kill/7 at +12.3 s on CPU 1 made 23 requests slow (#1290-#1312)"),
        (2 * MS, 9, -1, "2.00 ms of stop by kill/7 at +12.3 s within 8.00 ms made 23 requests slow (#1290-#1312)"),
        (
            14 * MS,
            2,
            0,
            "14.0 ms of stop by kill/7 at +12.3 s within 8.00 ms on CPU 0 made 23 requests slow (#1290-#1312)",
        ),
    ],
)
def test_story(ns: int, pieces: int, cpu: int, text: str) -> None:
    at = 12_310 * MS
    assert story(Episode("stopped", "kill/7", at, at, at + 8 * MS, ns, pieces, cpu, 23, 1290, 1312, MS)) == text


def test_what_was_inherited_in_small_parts_is_added_up() -> None:
    spike = _spike(9, "high", ("run", "", 2 * MS))
    small = [Part("timer", "tick", 0, 1, 30_000, 0, 30_000, "measured", seq) for seq in (5, 6, 7)]
    large = Part("softirq", "NET_RX", 0, 1, 2 * MS, 0, 2 * MS, "measured", 5)
    ledger = (*spike.ledger, large, *small)
    spoken = sentence(replace(spike, ledger=ledger, response_ns=sum(part.ns for part in ledger)))
    expected = "2.00 run + 2.00 queued behind #5's softirq NET_RX + 0.09 queued behind smaller delays"
    assert spoken == f"4.09 ms = {expected}"


def test_many_small_parts_are_added_up() -> None:
    parts = [("preempted", f"task/{number}", MS) for number in range(20)]
    spoken = sentence(_spike(1, "high", ("run", "", 2 * MS), *parts))
    assert spoken.count("+") == 6
    assert spoken.endswith("15.0 15 others")
