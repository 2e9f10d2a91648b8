import struct

import pytest

from jitterprof.system.files import Host
from jitterprof.system.kernel_config import boot_option, command_line, feature_bit, kernel_facts

SCHED = "/sys/kernel/debug/sched"


def test_recorded_guest(guest):
    facts = kernel_facts(guest)
    assert facts.release.startswith("6.18")
    assert (facts.hz.value, facts.hz.how) == (250, "/proc/config.gz")
    assert facts.preempt.value == "none"
    assert facts.hrtick.value is None and "debugfs is not mounted" in facts.hrtick.how
    assert facts.base_slice_ns.value is None


def test_command_line_ends_at_the_double_dash(guest):
    assert "quiet" in command_line(guest)
    assert boot_option(guest, "preempt") is None
    assert boot_option(guest, "mitigations") == "auto"


def test_boot_option_beats_the_default(make_host):
    host = make_host(
        {
            "/proc/cmdline": "preempt=lazy\n",
            "/proc/sys/kernel/osrelease": "6.12.1\n",
            "/proc/sys/kernel/version": "#1 SMP PREEMPT_DYNAMIC\n",
            "/boot/config-6.12.1": "CONFIG_HZ=1000\nCONFIG_PREEMPT_VOLUNTARY=y\nCONFIG_PREEMPT_DYNAMIC=y\n",
        }
    )
    facts = kernel_facts(host)
    assert facts.preempt.value == "lazy"
    assert (facts.hz.value, facts.hz.how) == (1000, "/boot/config-6.12.1")
    assert facts.hrtick.value == "off" and "CONFIG_SCHED_HRTICK" in facts.hrtick.how


def test_real_time_kernel(make_host):
    host = make_host({"/proc/sys/kernel/version": "#1 SMP PREEMPT_RT\n"})
    assert kernel_facts(host).preempt.value == "rt"


def test_debugfs_says_it_all(make_host):
    host = make_host(
        {
            f"{SCHED}/features": "PLACE_LAG NO_HRTICK RUN_TO_PARITY\n",
            f"{SCHED}/preempt": "none (voluntary) full\n",
            f"{SCHED}/debug": "  .sysctl_sched_base_slice                 : 2.800000\n",
        }
    )
    facts = kernel_facts(host)
    assert (facts.hrtick.value, facts.preempt.value, facts.base_slice_ns.value) == ("off", "voluntary", 2_800_000)
    assert facts.hz.value is None


def make_btf(names):
    """A BTF file with one anonymous enum of the given members, numbered from 0."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    members = b"".join(
        struct.pack("<II", strings.index(b"\0" + name.encode() + b"\0") + 1, value) for value, name in enumerate(names)
    )
    types = struct.pack("<III", 0, 6 << 24 | len(names), 4) + members
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


@pytest.mark.parametrize(("mask", "state"), [(0b1000, "on"), (0b0111, "off")])
def test_feature_mask_is_decoded_by_the_running_kernels_own_enum(make_host, mask, state):
    names = ["__SCHED_FEAT_PLACE_LAG", "__SCHED_FEAT_X", "__SCHED_FEAT_RUN_TO_PARITY", "__SCHED_FEAT_HRTICK"]
    btf = make_btf([*names, "__SCHED_FEAT_NR"])
    assert feature_bit(btf, "HRTICK") == 3
    assert feature_bit(btf, "NO_SUCH") is None
    host = make_host({f"{SCHED}/debug": f"  .sysctl_sched_features   : {mask}\n", "/sys/kernel/btf/vmlinux": btf})
    assert kernel_facts(host).hrtick.value == state


def test_mask_without_btf_stays_unknown(make_host):
    host = make_host({f"{SCHED}/debug": "  .sysctl_sched_features   : 15\n"})
    assert kernel_facts(host).hrtick.value is None


@pytest.mark.parametrize("content", [b"", b"\x9f\xeb\x01", b"nonsense" * 8])
def test_feature_bit_of_rubbish(content):
    assert feature_bit(content, "HRTICK") is None


def test_live_host_agrees_with_itself():
    facts = kernel_facts(Host())
    assert facts.release
    assert facts.hz.value in (100, 250, 300, 1000) or facts.hz.value is None
