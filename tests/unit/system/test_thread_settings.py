"""Real settings on threads of this process; what needs privileges is tried without them in a child."""

import os
import subprocess
import sys
import threading

import pytest

from jitterprof.errors import SpecError, UnsupportedError
from jitterprof.system import kernel_calls
from jitterprof.system.rights import may_use_real_time
from jitterprof.system.thread_settings import (
    SETTING_IDS,
    apply_to_thread,
    parse_settings,
    runtime_environment,
    runtime_settings,
)

from .conftest import needs_root

has_slice = kernel_calls.get_scheduling().runtime_ns > 0


@pytest.fixture
def parked():
    """The tid of a thread that waits until the test is over."""
    ready, leave = threading.Event(), threading.Event()

    def wait():
        ready.set()
        leave.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    yield thread.native_id
    leave.set()
    thread.join()


def test_parse_spells_canonically_and_orders():
    texts = ["slice=3ms", "nice=+5", "policy=sched_batch", "timerslack=1us", "runtime.gc=ON"]
    assert parse_settings(texts) == (
        ("policy", "BATCH"),
        ("nice", "5"),
        ("slice", "3000000ns"),
        ("timerslack", "1000ns"),
        ("runtime.gc", "on"),
    )
    assert parse_settings(["policy=fifo"]) == (("policy", "FIFO:1"),)
    assert parse_settings(["policy=RR:40"]) == (("policy", "RR:40"),)


def test_parsing_what_was_parsed_changes_nothing():
    once = parse_settings(["policy=FIFO:7", "affinity=0", "mlock=on", "nice=-3"])
    assert parse_settings(f"{knob}={value}" for knob, value in once) == once


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nice", "KNOB=VALUE"),
        ("=3", "KNOB=VALUE"),
        ("nice=", "KNOB=VALUE"),
        ("nice=20", "-20 to 19"),
        ("nice=fast", "-20 to 19"),
        ("policy=TURBO", "no such scheduling policy"),
        ("policy=FIFO:100", "1 to 99"),
        ("policy=BATCH:3", "no priority"),
        ("affinity=4000", "not online"),
        ("affinity=a", "not a CPU"),
        ("slice=50us", "0.1 ms to 100 ms"),
        ("slice=1s", "0.1 ms to 100 ms"),
        ("timerslack=0", "1 ns or more"),
        ("mlock=maybe", "not a value"),
        ("runtime.threads=0", "1 to 4096"),
        ("runtime.spinning=yes", "not a value"),
        ("colour=red", "no setting is called"),
    ],
)
def test_bad_values_are_answered_in_one_line(text, complaint):
    with pytest.raises(SpecError, match=complaint) as caught:
        parse_settings([text])
    assert caught.value.hint and "\n" not in caught.value.message + caught.value.hint


def test_unknown_ids_list_the_known_ones():
    with pytest.raises(SpecError) as caught:
        parse_settings(["niec=3"])
    assert all(knob in caught.value.hint for knob in SETTING_IDS)


@pytest.mark.parametrize(
    "text", ["vm.swappiness=5", "cpu.max=10000", "irq.affinity:virtio1-req.0=0", "thp.enabled=never", "kernel=/boot/x"]
)
def test_host_knobs_are_not_for_run(text):
    with pytest.raises(UnsupportedError, match="changes the host") as caught:
        parse_settings([text])
    assert "ab" in caught.value.hint


def test_contradictions():
    with pytest.raises(SpecError, match="twice"):
        parse_settings(["nice=1", "nice=2"])
    with pytest.raises(SpecError, match="slice has no effect"):
        parse_settings(["slice=3ms", "policy=FIFO"])
    with pytest.raises(SpecError, match="timerslack has no effect under policy=RR:2"):
        parse_settings(["timerslack=1us", "policy=RR:2"])
    parse_settings(["timerslack=1us", "policy=BATCH"])


def test_runtime_part():
    settings = parse_settings(["nice=1", "runtime.threads=2", "runtime.omp_wait_policy=passive"])
    assert runtime_settings(settings) == (("runtime.threads", "2"), ("runtime.omp_wait_policy", "passive"))
    assert runtime_environment(settings) == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert runtime_environment(()) == {}


def test_apply_and_read_back(parked):
    cpu = min(os.sched_getaffinity(0))
    settings = parse_settings(["policy=BATCH", "nice=3", f"affinity={cpu}"])
    assert apply_to_thread(parked, settings) == settings
    assert os.sched_getscheduler(parked) == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, parked) == 3
    assert os.sched_getaffinity(parked) == {cpu}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "only that thread changes"


def test_timer_slack_of_own_thread():
    seen = []

    def work():
        seen.append(apply_to_thread(0, parse_settings(["timerslack=1us"])))
        seen.append(kernel_calls.timer_slack_ns())

    before = kernel_calls.timer_slack_ns()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(("timerslack", "1000ns"),), 1000]
    assert kernel_calls.timer_slack_ns() == before


@pytest.mark.skipif(not has_slice, reason="custom slices need Linux 6.12")
def test_slice_survives_policy_and_nice(parked):
    settings = parse_settings(["slice=5ms", "policy=BATCH", "nice=1"])
    assert apply_to_thread(parked, settings) == settings
    assert kernel_calls.get_scheduling(parked).runtime_ns == 5_000_000


@pytest.mark.skipif(not may_use_real_time(), reason="needs CAP_SYS_NICE")
def test_real_time(parked):
    assert apply_to_thread(parked, (("policy", "FIFO:5"),)) == (("policy", "FIFO:5"),)
    assert kernel_calls.get_scheduling(parked).priority == 5


def test_a_thread_that_has_ended():
    tid = os.fork()
    if tid == 0:
        os._exit(0)
    os.waitpid(tid, 0)
    with pytest.raises(UnsupportedError, match="No such process") as caught:
        apply_to_thread(tid, (("nice", "1"),))
    assert "ended" in caught.value.hint


def test_a_setting_that_does_not_take_is_refused(parked, monkeypatch):
    """The kernel clamps in silence; the read-back must notice."""
    monkeypatch.setattr(os, "setpriority", lambda *_: None)
    with pytest.raises(UnsupportedError, match="did not take: the kernel reports 0"):
        apply_to_thread(parked, (("nice", "7"),))


@needs_root
@pytest.mark.parametrize(
    ("setting", "named"), [("policy=FIFO", "CAP_SYS_NICE"), ("nice=-5", "CAP_SYS_NICE"), ("mlock=on", "CAP_IPC_LOCK")]
)
def test_refusal_names_the_capability(setting, named):
    code = (
        "import os, resource\n"
        "from jitterprof.system.thread_settings import *\n"
        "from jitterprof.errors import UnsupportedError\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))\n"
        "resource.setrlimit(resource.RLIMIT_NICE, (0, 0)); resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))\n"
        f"settings = parse_settings([{setting!r}])\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "try: apply_to_thread(0, settings)\n"
        "except UnsupportedError as error: print(error.message, '|', error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert named in done.stdout, done.stdout + done.stderr
