import re
from pathlib import Path

from jitterprof.system.knobs import KNOBS
from jitterprof.system.thread_settings import SETTING_IDS

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "knobs.md"


def test_every_knob_has_its_row_with_its_lifetime():
    rows = dict(re.findall(r"^\| `([^`]+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE))
    assert {knob.id: str(knob.lifetime) for knob in KNOBS}.items() <= rows.items()


def test_every_setting_of_run_is_listed():
    part = PAGE.read_text().partition("## `run --set`")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", part, re.MULTILINE)) == set(SETTING_IDS)
