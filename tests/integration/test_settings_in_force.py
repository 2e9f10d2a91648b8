"""`run --set`: a value is in force on the threads that serve, recorded as the kernel reports it, and gone later."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command import Command, finish, wait_for_phase

from jitterprof.system.files import Host
from jitterprof.system.kernel_calls import get_scheduling
from jitterprof.system.knobs import KNOBS

LONG = ("--duration", "2m", "--warmup", "200ms", "--probes", "none", "--out", "a.jprof")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="real-time policies need CAP_SYS_NICE")
#: sched(7): fair slices of one's own are there from Linux 6.12 on; before that the attribute reads 0.
has_slices = pytest.mark.skipif(get_scheduling().runtime_ns == 0, reason="this kernel has no custom slices")


def _facts(tid: int) -> dict[str, Any]:
    """What the kernel says of a thread, in the spelling of the settings."""
    attributes = get_scheduling(tid)
    names = {os.SCHED_OTHER: "OTHER", os.SCHED_BATCH: "BATCH", os.SCHED_FIFO: "FIFO", os.SCHED_RR: "RR"}
    name = names[attributes.policy & ~os.SCHED_RESET_ON_FORK]
    return {
        "policy": f"{name}:{attributes.priority}" if name in ("FIFO", "RR") else name,
        "nice": str(os.getpriority(os.PRIO_PROCESS, tid)),
        "slice": f"{attributes.runtime_ns}ns",
        "timerslack": f"{Path(f'/proc/{tid}/timerslack_ns').read_text().strip()}ns",
        "affinity": ",".join(map(str, sorted(os.sched_getaffinity(tid)))),
    }


def _host() -> dict[str, str | None]:
    host = Host()
    return {knob.id: knob.read(host) for knob in KNOBS}


def _run(folder: Path, settings: Sequence[str], *more: str) -> tuple[dict[int, dict[str, Any]], list[int], Any]:
    """Facts by thread of the workload while it measures, the serving threads, and the manifest."""
    arguments = [part for setting in settings for part in ("--set", setting)]
    command = Command(("run", "mlp", *LONG, *more, *arguments), folder)
    process = command.start()
    wait_for_phase(command, process, "measuring")
    pid = command.child("workload_process")
    facts = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        facts[int(task.name)] = _facts(int(task.name))
    process.send_signal(signal.SIGINT)
    assert finish(command, process).code == 130
    manifest = json.loads((folder / "a.jprof" / "manifest.json").read_text())
    return facts, manifest["worker_tids"], manifest


@pytest.mark.parametrize(
    ("settings", "in_force"),
    [
        pytest.param(("nice=5", "timerslack=100us"), {"nice": "5", "timerslack": "100000ns"}, id="nice, slack"),
        pytest.param(("policy=FIFO:1",), {"policy": "FIFO:1"}, id="fifo", marks=needs_root),
        pytest.param(
            ("policy=BATCH", "nice=3", "slice=2ms", "timerslack=1us", f"affinity={max(os.sched_getaffinity(0))}"),
            {"policy": "BATCH", "nice": "3", "slice": "2000000ns", "timerslack": "1000ns",
             "affinity": str(max(os.sched_getaffinity(0)))},
            id="all", marks=has_slices,
        ),
    ],
)  # fmt: skip
def test_a_setting_arrives_at_the_threads_that_serve(
    tmp_path: Path, settings: Sequence[str], in_force: dict[str, str]
) -> None:
    before_host, before_us = _host(), _facts(os.getpid())
    facts, workers, manifest = _run(tmp_path, settings, "--workers", "2")
    assert len(workers) == 2
    for tid in workers:
        assert {knob: facts[tid][knob] for knob in in_force} == in_force
    assert dict(manifest["environment"]["settings"]) == in_force
    assert {knob for knob, _ in manifest["spec"]["settings"]} == set(in_force)
    if "timerslack" in in_force:
        assert manifest["environment"]["hygiene"]["timer_slack_ns"] == int(in_force["timerslack"][:-2])
    assert _host() == before_host
    assert _facts(os.getpid()) == before_us


def test_without_settings_the_generator_waits_precisely(tmp_path: Path) -> None:
    facts, workers, manifest = _run(tmp_path, ())
    assert [facts[tid]["timerslack"] for tid in workers] == ["1ns"]
    assert manifest["environment"]["hygiene"]["timer_slack_ns"] == 1
    assert "settings" not in manifest["environment"]


def test_every_thread_of_the_runtime_has_it_too(tmp_path: Path) -> None:
    facts, workers, manifest = _run(
        tmp_path, ("nice=4", "runtime.spinning=off"), "--threads", "2", "--backend", "onnxruntime"
    )
    assert len(facts) > len(workers) + len(manifest["pids"]), "onnxruntime made no thread of its own"
    assert {thread["nice"] for thread in facts.values()} == {"4"}
    assert ["runtime.spinning", "off"] in manifest["spec"]["settings"]
    assert manifest["environment"]["runtime"]["spinning"] == "off"
