import pytest

from jitterprof.errors import UnsupportedError
from jitterprof.system.files import Host


def test_reading(make_host):
    host = make_host({"/proc/n": "42 rest\n", "/sys/c": "always [madvise] never\n", "/sys/w": "full (lazy)\n"})
    assert host.read_int("/proc/n") == 42
    assert host.read_text("/proc/n") == "42 rest"
    assert host.read_choice("/sys/c") == "madvise"
    assert host.read_choice("/sys/w") == "lazy"
    assert host.read_choice("/proc/n") == "42 rest"


def test_what_is_not_there_is_none_with_a_reason(make_host):
    host = make_host({"/proc/text": "words\n"})
    assert host.read_text("/proc/absent") is None
    assert host.read_int("/proc/absent") is None
    assert host.read_int("/proc/text") is None
    assert host.why_not("/proc/absent") == "/proc/absent does not exist"
    assert "directory" in host.why_not("/proc")
    assert host.why_not("/proc/text") == ""
    with pytest.raises(UnsupportedError, match="/proc/absent does not exist"):
        host.require_text("/proc/absent")


def test_names_and_globs_are_in_natural_order(make_host):
    host = make_host({f"/cpus/cpu{cpu}/online": "1" for cpu in (10, 2, 0)})
    assert host.names("/cpus") == ("cpu0", "cpu2", "cpu10")
    assert host.glob("/cpus/cpu[0-9]*/online") == tuple(f"/cpus/cpu{cpu}/online" for cpu in (0, 2, 10))
    assert host.names("/absent") == () == host.glob("/absent/*")


def test_only_the_real_root_is_live(tmp_path):
    assert Host().live
    assert not Host(tmp_path).live
