"""The accuracy campaign (tests/truth/campaign.py) in a short form: all faults and workloads, few pulses, 6 minutes.

The figures in docs/explanation/accuracy.md come from the long form, which can be stopped and started again.
"""

from pathlib import Path

import pytest
from campaign import record, score
from tables import report

PULSES = 4


@pytest.mark.bench
def test_accuracy(tmp_path: Path) -> None:
    record(tmp_path, "", PULSES, float("inf"), seed=1)
    text, missed = report(score(tmp_path, ""))
    print(f"\n{text}", *(f"MISSED: {line}" for line in missed), sep="\n")
