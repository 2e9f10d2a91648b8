"""The part of the accuracy campaign that runs with every change: what takes more than one thread to explain."""

from pathlib import Path

import pytest
from campaign import record_case
from faults import cases
from scoring import Score, score_case

from jitterprof.store import open_run

#: A pulse that the machine itself disturbed says nothing: more are made than are needed, and more again if need be.
PULSES, NEEDED, RECORDINGS = 5, 6, 4
CASES = {case.name: case for case in cases()}


def scores_of(name: str, folder: Path) -> list[Score]:
    """The undisturbed pulses of a short recording, or of as many as it takes to have enough of them."""
    found: list[Score] = []
    for seed in range(RECORDINGS):
        here = folder / str(seed)
        here.mkdir()
        pulses = record_case(CASES[name], here, PULSES, seed=seed)
        scores = score_case(CASES[name], open_run(here / f"{name}.jprof"), pulses)
        found += [score for score in scores if score.clean and (score.visible or CASES[name].fault.control)]
        if len(found) >= NEEDED:
            break
    return found


@pytest.mark.parametrize(
    "name",
    [
        "straggler_fifo.ort-2",
        "straggler_hog.ort-2",
        "straggler_timer.ort-2",
        "held_lock.ort-1",
        "chain.ort-1",
    ],
)
def test_the_disturber_is_named_across_threads(name: str, tmp_path: Path) -> None:
    seen = scores_of(name, tmp_path)
    assert len(seen) >= NEEDED, "the machine is too busy to tell"
    wrong = [(score.dose, score.top_cause, score.top_culprit) for score in seen if not score.right]
    assert len(wrong) <= max(1, 0.1 * len(seen)), f"blamed: {wrong}"
    if CASES[name].fault.truth is not CASES["straggler_fifo.ort-2"].fault.truth:
        errors = sorted(abs(score.billed - score.true) - 0.05 * score.true for score in seen)
        assert errors[len(errors) // 2] <= 50_000


def test_a_quiet_run_names_nobody_in_a_pool(tmp_path: Path) -> None:
    scores = scores_of("quiet.ort-2", tmp_path)
    assert len(scores) >= NEEDED
    named = [(score.top_cause, score.top_culprit) for score in scores if score.named]
    assert len(named) <= 0.05 * len(scores), f"blamed without a fault: {named}"
