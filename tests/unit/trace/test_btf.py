"""The BTF reader against blobs made by hand, where every offset is known, and against this kernel."""

import ctypes
import struct
from pathlib import Path

import pytest
from unit.trace.btf_blob import (
    ARRAY,
    CONST,
    DATASEC,
    DECL_TAG,
    ENUM,
    ENUM64,
    FLOAT,
    FUNC,
    FWD,
    PTR,
    RESTRICT,
    STRUCT,
    TYPE_TAG,
    TYPEDEF,
    UNION,
    VAR,
    VOLATILE,
    Blob,
)

from jitterprof.errors import ProbeUnavailable
from jitterprof.trace.btf import VMLINUX, Btf, Member


def every_kind_first(blob: Blob) -> int:
    """One type of each kind, so that an index that skips the wrong number of bytes goes astray. Returns an int type."""
    integer = blob.integer()
    blob.add(PTR, "", integer)
    blob.add(ARRAY, "", 0, tail=struct.pack("<III", integer, integer, 4))
    blob.add(ENUM, "colour", 4, 2, struct.pack("<IIII", 0, 0, 0, 1))
    blob.add(ENUM64, "wide", 8, 1, struct.pack("<III", 0, 0, 1))
    blob.add(FWD, "ahead")
    for kind in (VOLATILE, CONST, RESTRICT, TYPE_TAG):
        blob.add(kind, "", integer)
    blob.add(FUNC, "function", blob.prototype([integer, integer]))
    blob.add(VAR, "variable", integer, tail=struct.pack("<I", 0))
    blob.add(DATASEC, ".data", 4, 1, struct.pack("<III", integer, 0, 4))
    blob.add(FLOAT, "double", 8)
    blob.add(DECL_TAG, "tag", integer, tail=struct.pack("<i", -1))
    return integer


def parsed(blob: Blob, folder: Path) -> Btf:
    path = folder / "btf"
    path.write_bytes(blob.encode())
    return Btf(path)


def test_members_of_a_plain_struct(tmp_path: Path) -> None:
    blob = Blob()
    integer = every_kind_first(blob)
    blob.composite(STRUCT, "task", 24, [("state", integer, 0), ("pid", integer, 64), ("tgid", integer, 96)])
    btf = parsed(blob, tmp_path)
    assert btf.member("task", "state") == Member(0, 0)
    assert btf.member("task", "pid") == Member(8, 0)
    assert btf.member("task", "tgid") == Member(12, 0)


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    blob = Blob()
    integer = every_kind_first(blob)
    inner = blob.composite(STRUCT, "inner", 4, [("cpu", integer, 0)])
    blob.composite(STRUCT, "task", 8, [("pid", integer, 0), ("info", inner, 32)])
    btf = parsed(blob, tmp_path)
    assert btf.member("task", "pi") is None  # a prefix of a member is another name
    assert btf.member("task", "info.flags") is None
    assert btf.member("task", "nowhere.cpu") is None
    assert btf.member("no_such_struct", "pid") is None
    assert btf.member("tas", "pid") is None
    assert btf.member("variable", "pid") is None  # a name, but not of a struct


def test_paths_go_through_embedded_structs(tmp_path: Path) -> None:
    blob = Blob()
    integer = every_kind_first(blob)
    innermost = blob.composite(STRUCT, "innermost", 12, [("pad", integer, 0), ("x", integer, 64)])
    inner = blob.composite(STRUCT, "inner", 20, [("pad", integer, 0), ("deep", innermost, 64)])
    blob.composite(STRUCT, "outer", 64, [("pad", integer, 0), ("mid", inner, 128)])
    assert parsed(blob, tmp_path).member("outer", "mid.deep.x") == Member(16 + 8 + 8, 0)


def test_anonymous_members_are_looked_into_at_their_own_offset(tmp_path: Path) -> None:
    blob = Blob()
    integer = every_kind_first(blob)
    union = blob.composite(UNION, "", 8, [("first", integer, 0), ("second", integer, 0)])
    nested = blob.composite(STRUCT, "", 16, [("lead", integer, 0), ("", union, 64)])
    blob.composite(STRUCT, "bio", 40, [("next", integer, 0), ("", nested, 128), ("after", integer, 256)])
    btf = parsed(blob, tmp_path)
    assert btf.member("bio", "lead") == Member(16, 0)
    assert btf.member("bio", "second") == Member(24, 0)
    assert btf.member("bio", "after") == Member(32, 0)


def test_bit_fields_have_a_byte_and_a_bit(tmp_path: Path) -> None:
    blob = Blob()
    integer = every_kind_first(blob)
    members = [("pid", integer, 0), ("flag0", integer, 32), ("flag3", integer, 35), ("flag11", integer, 43)]
    blob.composite(STRUCT, "task", 8, members, bit_sizes=[0, 1, 1, 2])
    btf = parsed(blob, tmp_path)
    assert btf.member("task", "pid") == Member(0, 0)
    assert btf.member("task", "flag0") == Member(4, 0)
    assert btf.member("task", "flag3") == Member(4, 3)
    assert btf.member("task", "flag11") == Member(5, 3)


def test_a_second_struct_of_the_name_is_tried_too(tmp_path: Path) -> None:
    """The kernel has several structs of one name where drivers define their own."""
    blob = Blob()
    integer = every_kind_first(blob)
    blob.composite(STRUCT, "rq", 4, [("other", integer, 0)])
    blob.composite(UNION, "rq", 4, [("steal", integer, 0)])
    blob.composite(STRUCT, "rq", 16, [("steal", integer, 64)])
    assert parsed(blob, tmp_path).member("rq", "steal") == Member(8, 0)


def test_tracepoints_and_their_arguments(tmp_path: Path) -> None:
    blob = Blob()
    integer = every_kind_first(blob)
    blob.tracepoint("sched_switch", 4)
    blob.tracepoint("no_arguments", 0)
    blob.add(TYPEDEF, "btf_trace_odd", blob.add(PTR, "", integer))
    btf = parsed(blob, tmp_path)
    assert btf.tracepoint_arguments("sched_switch") == 4
    assert btf.tracepoint_arguments("no_arguments") == 0
    assert btf.tracepoint_arguments("odd") is None
    assert btf.tracepoint_arguments("sched") is None
    assert btf.missing_tracepoints(["sched_switch", "gone", "no_arguments"]) == ("gone",)


def test_a_longer_header_is_skipped(tmp_path: Path) -> None:
    """`hdr_len` exists so that a later kernel may add to the header."""
    blob = Blob(header_size=32)
    blob.composite(STRUCT, "task", 8, [("pid", blob.integer(), 32)])
    assert parsed(blob, tmp_path).member("task", "pid") == Member(4, 0)


@pytest.mark.parametrize("content", [b"", b"\x9f\xeb", b"no BTF, but enough for a header", Blob().encode(0x9FEB)])
def test_a_file_that_is_not_btf_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "btf"
    path.write_bytes(content)
    with pytest.raises(ProbeUnavailable) as caught:
        Btf(path)
    assert str(path) in caught.value.message


def test_a_truncated_file_is_one_clear_error(tmp_path: Path) -> None:
    blob = Blob()
    every_kind_first(blob)
    path = tmp_path / "btf"
    path.write_bytes(blob.encode()[:-40])
    with pytest.raises(ProbeUnavailable) as caught:
        Btf(path)
    assert str(path) in caught.value.message


def test_a_kind_of_type_from_the_future_is_one_clear_error(tmp_path: Path) -> None:
    """Its length is not known, so whatever follows it would be misread."""
    blob = Blob()
    blob.add(20, "newer", 4)
    with pytest.raises(ProbeUnavailable, match="20"):
        parsed(blob, tmp_path)


def test_no_file_says_what_the_kernel_needs(tmp_path: Path) -> None:
    with pytest.raises(ProbeUnavailable) as caught:
        Btf(tmp_path / "none")
    assert "CONFIG_DEBUG_INFO_BTF" in caught.value.hint


# This kernel.

on_this_kernel = pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF")


@pytest.fixture(scope="module")
def vmlinux() -> Btf:
    return Btf()


@on_this_kernel
def test_layouts_that_are_also_in_user_space(vmlinux: Btf) -> None:
    """Structs of the user ABI are in the kernel's BTF with the layout that any compiler gives them."""

    class Timespec(ctypes.Structure):
        _fields_ = (("tv_sec", ctypes.c_longlong), ("tv_nsec", ctypes.c_longlong))

    class PollFd(ctypes.Structure):
        _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))

    for name, layout in (("__kernel_timespec", Timespec), ("pollfd", PollFd)):
        for member, *_ in layout._fields_:
            assert vmlinux.member(name, member) == Member(getattr(layout, member).offset, 0), f"{name}.{member}"


@on_this_kernel
def test_pid_and_tgid_are_neighbours(vmlinux: Btf) -> None:
    """probes/include/jitterprof.h reads both with one load."""
    pid, tgid = vmlinux.member("task_struct", "pid"), vmlinux.member("task_struct", "tgid")
    assert pid is not None and tgid is not None
    assert tgid.offset == pid.offset + 4


@on_this_kernel
def test_sched_switch_is_there_with_its_arguments(vmlinux: Btf) -> None:
    assert vmlinux.tracepoint_arguments("sched_switch") in (3, 4)
    assert vmlinux.missing_tracepoints(("sched_waking", "no_such_tracepoint")) == ("no_such_tracepoint",)
