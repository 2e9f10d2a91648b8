import os

import pytest

from jitterprof.system import kernel_calls
from jitterprof.system.files import Host
from jitterprof.system.rights import (
    check_rights,
    effective_capabilities,
    in_initial_user_namespace,
    kernel_symbols_visible,
    lockdown_mode,
    may_use_real_time,
)

from .conftest import needs_root


def by_name(host):
    return {right.name: right for right in check_rights(host)}


def test_capabilities_decide_on_a_recorded_host(make_host):
    host = make_host(
        {
            "/proc/self/status": f"Name:\tx\nCapEff:\t{1 << 39 | 1 << 38:016x}\n",
            "/proc/self/uid_map": "0 0 4294967295\n",
            "/proc/kallsyms": "0000000000000000 T _text\n",
        }
    )
    assert effective_capabilities(host) == {"CAP_BPF", "CAP_PERFMON"}
    rights = by_name(host)
    assert rights["load BPF"].granted and rights["trace the kernel"].granted
    assert not rights["real-time policy"].granted
    assert "SYS_NICE" in rights["real-time policy"].fix
    assert not rights["kernel symbols"].granted
    for right in rights.values():
        assert right.granted == (right.reason == "") == (right.fix == "")


def test_rootless_container_is_recognised(make_host):
    host = make_host(
        {
            "/proc/self/status": "CapEff:\t000001ffffffffff\n",
            "/proc/self/uid_map": "         0       1000          1\n",
        }
    )
    assert not in_initial_user_namespace(host)
    assert "user namespace" in by_name(host)["host settings"].reason


@pytest.mark.parametrize("mode", ["none", "integrity", "confidentiality"])
def test_lockdown(make_host, mode):
    text = " ".join(f"[{name}]" if name == mode else name for name in ("none", "integrity", "confidentiality"))
    assert lockdown_mode(make_host({"/sys/kernel/security/lockdown": text}))[0] == mode


def test_lockdown_unknown_says_how_to_know(guest):
    mode, why = lockdown_mode(guest)
    assert mode is None and "securityfs" in why


def test_symbols(make_host):
    assert kernel_symbols_visible(make_host({"/proc/kallsyms": "ffffffff81000000 T _text\n"}))


def test_trying_real_time_leaves_no_trace():
    before = kernel_calls.get_scheduling()
    may_use_real_time()
    assert kernel_calls.get_scheduling() == before


@needs_root
def test_without_privileges_the_trials_fail():
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        rights = by_name(Host())
        refused = [rights[name].granted for name in ("trace the kernel", "host settings", "others' processes")]
        os._exit(1 if any(refused) else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
