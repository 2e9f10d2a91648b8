"""`doctor --calibrate` where it cannot work: one clear line, before anything is started."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from command import NOBODY, as_nobody, jitterprof, one_after_another
from fakes import request_table, run_of

from jitterprof.cli.selfcheck import calibrate
from jitterprof.errors import ProbeUnavailable
from jitterprof.experiment import selfcheck
from jitterprof.experiment.session import Listener, Recording
from jitterprof.inject.faults import FAULTS
from jitterprof.model.pulse import PULSE_DTYPE, PulseLog
from jitterprof.system.files import Host
from jitterprof.trace import bcc_module


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that nobody may write; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="jitterprof-test-"))
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="drops privileges, so it needs them first")
def test_without_privileges_it_says_what_is_missing(open_folder: Path) -> None:
    ended = jitterprof("doctor", "--calibrate", folder=open_folder, wrap=as_nobody())
    ended.refused(3, "the self-check records with eBPF", "root")
    assert not ended.out
    ended = jitterprof("doctor", "--calibrate", "--json", folder=open_folder, wrap=as_nobody())
    ended.refused(3, "the self-check records with eBPF")
    assert ended.document["error"]["exit_code"] == 3
    assert [path.name for path in open_folder.iterdir()] == ["stderr.txt"]


def test_without_bcc_it_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcc_module, "find", lambda: None)
    monkeypatch.setattr(selfcheck, "check_rights", lambda host: ())
    with pytest.raises(ProbeUnavailable, match="bcc is not installed") as caught:
        selfcheck.require_probes(Host())
    assert "bpfcc" in caught.value.hint


def test_too_few_pulses_are_refused(tmp_path: Path) -> None:
    (ended,) = one_after_another([("doctor", "--calibrate", "--pulses", "1")], tmp_path)
    ended.refused(2, "--pulses", "doctor --help")


def test_help_shows_how(tmp_path: Path) -> None:
    (ended,) = one_after_another([("doctor", "--help")], tmp_path)
    assert "jitterprof doctor --calibrate" in ended.out


def test_the_document_is_all_that_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = request_table([2_000_000] * 50)
    log = PulseLog(tuple(fault.kind for fault in FAULTS), np.empty(0, PULSE_DTYPE), (("ipis", "needs a second CPU"),))

    @contextmanager
    def recorded(pulses: int, listen: Listener) -> Iterator[selfcheck.SelfCheckRecording]:
        assert pulses == 5
        yield selfcheck.SelfCheckRecording(Recording(Path("none.jprof"), run_of(requests)), log)

    monkeypatch.setattr(selfcheck, "recorded_faults", recorded)
    calibrate(5, json_output=True)
    document = json.loads(capsys.readouterr().out)
    assert document["absent"] == ["ipis"]
    calibrate(5, json_output=False)
    assert "ipis: needs a second CPU" in capsys.readouterr().out
