"""`doctor` on this machine, on hosts that lack things, and without privileges."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from jitterprof.cli.doctor import show
from jitterprof.experiment.diagnosis import diagnose
from jitterprof.model.cause import CAUSE_IDS
from jitterprof.system.files import Host
from jitterprof.system.knobs import KNOBS
from jitterprof.trace import bcc_module

GUEST = Path(__file__).parents[1] / "data" / "sysfs" / "guest-v1"
SECTIONS = ("Host", "Rights", "Probes", "Causes", "Knobs", "Backends", "Workloads")
CODE = "from jitterprof.cli.doctor import doctor; doctor(json_output={json})"


def text_of(diagnosis, width=80):
    output = io.StringIO()
    show(diagnosis, Console(file=output, width=width))
    return output.getvalue()


@pytest.fixture(scope="module")
def recorded():
    return diagnose(Host(GUEST))


def test_recorded_host_without_btf(recorded):
    assert recorded.causes_visible == 0
    assert "0 of" in recorded.verdict
    assert "CONFIG_DEBUG_INFO_BTF" in recorded.fix
    assert all(row.state == "no" for row in recorded.probes if row.name in ("sched", "irq", "memory"))


def test_sections_verdict_first_and_80_columns(recorded):
    lines = text_of(recorded).splitlines()
    assert lines[0].startswith("This host can record 0 of")
    assert lines[2].startswith("Fix first:") or lines[1].startswith("Fix first:")
    assert [line for line in lines if line in SECTIONS] == list(SECTIONS)
    assert max(len(line.rstrip()) for line in lines) <= 80


def test_everything_that_does_not_work_says_why(recorded):
    rows = (*recorded.rights, *recorded.probes, *recorded.causes, *recorded.knobs, *recorded.backends)
    for row in (*rows, *recorded.workloads):
        if row.state in ("no", "partly"):
            assert row.detail, row
        assert "\n" not in row.detail + row.fix, row


def test_rows_cover_every_cause_knob_and_workload(recorded):
    assert [row.name for row in recorded.causes] == [cause for cause in CAUSE_IDS if cause != "unknown"]
    assert [row.name for row in recorded.knobs] == [knob.id for knob in KNOBS]
    assert {"mlp", "silero-vad"} <= {row.name for row in recorded.workloads}
    assert all(row.detail for row in recorded.workloads)


def test_container_without_anything(tmp_path):
    diagnosis = diagnose(Host(tmp_path))
    assert diagnosis.causes_visible == 0
    assert {row.name for row in diagnosis.host} >= {"kernel", "HZ", "preempt", "base slice", "lockdown"}
    text_of(diagnosis)


def test_without_bcc_it_names_the_package(monkeypatch):
    monkeypatch.setattr(bcc_module, "find", lambda: None)
    diagnosis = diagnose()
    assert diagnosis.causes_visible == 0
    assert any("python3-bpfcc" in row.fix for row in diagnosis.probes if row.name == "bcc")


def test_confidentiality_lockdown_is_a_blocker(tmp_path):
    for name, content in (
        ("/sys/kernel/security/lockdown", "none integrity [confidentiality]"),
        ("/sys/kernel/btf/vmlinux", "x"),
    ):
        path = tmp_path / name.lstrip("/")
        path.parent.mkdir(parents=True)
        path.write_text(content)
    row = next(row for row in diagnose(Host(tmp_path)).probes if row.name == "lockdown")
    assert row.state == "no" and "integrity" in row.fix


def test_missing_weights_name_the_extra(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "silero_vad" else real(name))
    rows = {row.name: row for row in diagnose(Host(GUEST)).workloads}
    assert rows["silero-vad"].state == "no" and "jitterprof[models]" in rows["silero-vad"].fix
    assert rows["mlp"].state == "ok"


def test_json_is_one_document_and_text_the_same_facts():
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(json=True)], capture_output=True, text=True, check=True, timeout=120
    )
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    assert document["causes_visible"] <= document["causes_total"]
    assert set(document) >= {"verdict", "fix", "host", "rights", "probes", "causes", "knobs", "backends", "workloads"}
    assert document["environment"]["kernel"]["release"] == os.uname().release


@pytest.mark.skipif(os.geteuid() != 0, reason="drops privileges, so it needs them first")
def test_without_privileges_it_still_answers():
    # Imported first: the interpreter may lie where nobody else can read.
    code = (
        "import os, jitterprof.cli.doctor, jitterprof.experiment.diagnosis, jitterprof.backends.catalog, rich.console\n"
        "import rich.text, rich.table, rich.padding\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "jitterprof.cli.doctor.doctor(json_output=False)\n"
    )
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "0 of" in done.stdout.splitlines()[0]
    assert "run as root" in done.stdout
