"""Holes in sequence numbers: where, how many, and what is not a hole."""

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.evidence import FOREVER, evidence_of, find_gaps
from jitterprof.model.event import EVENT_DTYPE, EventKind
from jitterprof.model.run import Health
from tests.fakes import START_NS, manifest

MAX = 2**32 - 1


def stream(*rows: tuple[int, int, int]) -> npt.NDArray[np.void]:
    """Events from (ts, cpu, seq)."""
    events = np.zeros(len(rows), EVENT_DTYPE)
    for name, column in zip(("ts", "cpu", "seq"), zip(*rows, strict=True), strict=True):
        events[name] = column
    return events


def gaps(
    *rows: tuple[int, int, int], last: dict[int, int] | None = None, first: int | None = 0
) -> list[tuple[int, ...]]:
    return find_gaps(stream(*rows), last or {}, first).tolist()


def test_a_whole_stream_has_no_gap() -> None:
    assert gaps((10, 0, 0), (11, 1, 0), (12, 0, 1), (13, 1, 1), last={0: 1, 1: 1}) == []


def test_a_hole_lies_between_its_neighbours_on_that_cpu() -> None:
    assert gaps((10, 0, 0), (11, 1, 0), (12, 1, 1), (20, 0, 4)) == [(0, 10, 20, 3)]


def test_numbers_wrap() -> None:
    assert gaps((10, 0, MAX - 1), (11, 0, MAX), (12, 0, 0), (13, 0, 1), last={0: 1}, first=MAX - 1) == []
    assert gaps((10, 0, MAX), (12, 0, 1), last={0: 3}, first=MAX) == [(0, 10, 12, 1), (0, 12, FOREVER, 2)]


def test_a_loss_at_the_end_never_ends() -> None:
    assert gaps((10, 0, 0), last={0: 7}) == [(0, 10, FOREVER, 7)]


def test_a_loss_at_the_beginning_has_always_been() -> None:
    assert gaps((10, 0, 3), last={0: 3}) == [(0, 0, 10, 3)]
    assert gaps((10, 0, 3), last={0: 3}, first=None) == []


def test_a_cpu_of_which_nothing_arrived() -> None:
    assert gaps((10, 0, 0), last={0: 0, 5: 2}) == [(5, 0, FOREVER, 3)]
    assert gaps((10, 0, 0), last={0: 0, 5: -1}) == []


def test_a_number_that_was_given_twice_is_no_hole() -> None:
    # An interrupt between load and store: the outer record and those of the interrupt share numbers.
    assert gaps((10, 0, 0), (11, 0, 1), (12, 0, 1), (13, 0, 2), (14, 0, 2), (15, 0, 3)) == []


def test_neighbours_in_the_wrong_order_are_no_hole() -> None:
    # The time was taken before an interrupt, the number after it.
    assert gaps((10, 0, 0), (11, 0, 2), (12, 0, 1), (13, 0, 3)) == []


def test_no_events_at_all() -> None:
    assert find_gaps(np.empty(0, EVENT_DTYPE), {}).tolist() == []
    assert find_gaps(np.empty(0, EVENT_DTYPE), {2: 4}).tolist() == [(2, 0, FOREVER, 5)]


def _session(**changes: object) -> npt.NDArray[np.void]:
    events = stream((START_NS - 500, 0, 0), (START_NS + 500, 0, 1))
    events["kind"] = EventKind.SWITCH_IN
    return events


def test_the_recording_reaches_from_its_first_record_to_its_end() -> None:
    described = manifest(window_ns=(START_NS, START_NS + 9000), cpu_seq={"0": 1})
    found = evidence_of(described, _session())
    assert found.window == (START_NS - 500, START_NS + 9000)
    assert not len(found.gaps)


def test_of_a_recording_that_was_cut_the_end_is_its_last_record() -> None:
    described = manifest(window_ns=(START_NS, START_NS + 9000), health=Health(cut=True))
    assert evidence_of(described, _session()).window == (START_NS - 500, START_NS + 500)
