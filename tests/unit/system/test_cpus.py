import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitterprof.errors import SpecError
from jitterprof.system.cpus import (
    format_cpu_list,
    housekeeping_cpus,
    parse_cpu_list,
    smt_siblings,
    validate_cpus,
)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3,8", (0, 1, 2, 3, 8)),
        ("", ()),
        ("5", (5,)),
        ("0-6:2", (0, 2, 4, 6)),
        ("3,1,1-2", (1, 2, 3)),
        (" 0 , 2 ", (0, 2)),
    ],
)
def test_parse(text, cpus):
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "0-4:0", "0x3", "1..3", "0-99999999999"])
def test_parse_refuses(text):
    with pytest.raises(SpecError) as caught:
        parse_cpu_list(text)
    assert caught.value.hint


@given(st.sets(st.integers(0, 4095)))
def test_round_trip(cpus):
    assert set(parse_cpu_list(format_cpu_list(cpus))) == cpus


def test_format_uses_ranges():
    assert format_cpu_list((8, 2, 0, 1)) == "0-2,8"


def test_validate_names_the_cpu_and_what_is_there(guest):
    assert validate_cpus(guest, (1, 0)) == (0, 1)
    with pytest.raises(SpecError, match="CPUs 2,7 are not online") as caught:
        validate_cpus(guest, (0, 2, 7))
    assert "0-1" in caught.value.hint


def test_validate_knows_the_cpuset(make_host):
    host = make_host(
        {"/sys/devices/system/cpu/online": "0-7", "/proc/self/status": "Name:\tx\nCpus_allowed_list:\t4-5\n"}
    )
    with pytest.raises(SpecError, match="may not run on CPU 3") as caught:
        validate_cpus(host, (3, 4))
    assert "4-5" in caught.value.hint
    with pytest.raises(SpecError, match="empty"):
        validate_cpus(host, ())


def test_siblings(make_host):
    base = "/sys/devices/system/cpu"
    host = make_host({f"{base}/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 2},{cpu % 2 + 2}" for cpu in range(4)})
    assert smt_siblings(host) == {0: (0, 2), 1: (1, 3), 2: (0, 2), 3: (1, 3)}


@pytest.mark.parametrize(
    ("workload", "expected"),
    [((0,), (1, 3)), ((0, 1), (2, 3)), ((0, 1, 2, 3), (0, 1, 2, 3)), ((), (0, 1, 2, 3))],
)
def test_housekeeping_avoids_the_workload_then_its_siblings(workload, expected):
    siblings = {0: (0, 2), 1: (1, 3), 2: (0, 2), 3: (1, 3)}
    assert housekeeping_cpus(range(4), workload, siblings) == expected
