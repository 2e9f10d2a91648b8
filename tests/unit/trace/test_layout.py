"""probes/include/jitterprof.h and jitterprof/model/event.py say the same: sizes, offsets, numbers."""

import ctypes
import re
from functools import cache

import numpy as np
import pytest

from jitterprof.model import event as model
from jitterprof.model.event import EVENT_DTYPE, Context, CountersFlag, EventKind, Neighbour, OutFlag
from jitterprof.resources import probes_dir

_TYPES = {"u8": ctypes.c_uint8, "u16": ctypes.c_uint16, "u32": ctypes.c_uint32, "u64": ctypes.c_uint64}


@cache
def header() -> str:
    """The header without comments."""
    text = (probes_dir() / "include" / "jitterprof.h").read_text()
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def enum(name: str) -> dict[str, int]:
    """Names and numbers of an enum in the header."""
    found = re.search(rf"enum {name} \{{(.*?)\}};", header(), re.DOTALL)
    assert found, f"no enum {name}"
    numbers: dict[str, int] = {}
    value = -1
    for entry in filter(None, (part.strip() for part in found[1].split(","))):
        label, _, given = (part.strip() for part in entry.partition("="))
        value = int(given, 0) if given else value + 1
        numbers[label] = value
    return numbers


def define(name: str) -> int:
    found = re.search(rf"#define {name} (\d+)", header())
    assert found, f"no {name}"
    return int(found[1])


def layout(name: str) -> type[ctypes.Structure]:
    """A struct of the header as a ctypes structure, which lays it out as C does."""
    found = re.search(rf"struct {name} \{{(.*?)\n\}};", header(), re.DOTALL)
    assert found, f"no struct {name}"
    constants = {key: value for block in ("jp_context", "jp_class") for key, value in enum(block).items()}
    fields: list[tuple[str, object]] = []
    for kind, member, count in re.findall(r"(u\d+) (\w+)(?:\[(\w+)\])?;", found[1]):
        c_type = _TYPES[kind]
        fields.append((member, c_type * (int(count) if count.isdigit() else constants[count]) if count else c_type))
    assert len(fields) == found[1].count(";"), f"struct {name} has a member that this test does not understand"
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def test_the_record() -> None:
    record = layout("jp_event")
    assert ctypes.sizeof(record) == EVENT_DTYPE.itemsize == 40
    assert EVENT_DTYPE.names == tuple(name for name, _ in record._fields_)
    for name in EVENT_DTYPE.names:
        dtype, offset = EVENT_DTYPE.fields[name][:2]
        field = getattr(record, name)
        assert (field.offset, field.size) == (offset, dtype.itemsize), name
        assert dtype.kind == "u"


def test_the_kinds() -> None:
    assert enum("jp_kind") == {kind.name: kind.value for kind in EventKind}


def test_the_flags_of_a_switch() -> None:
    assert enum("jp_out_flag") == {f"OUT_{flag.name}": flag.value for flag in OutFlag}


def test_the_flags_of_counters_and_neighbours() -> None:
    assert enum("jp_counters_flag") == {f"COUNTERS_{flag.name}": flag.value for flag in CountersFlag}
    assert enum("jp_neighbour") == {f"NEIGHBOUR_{kind.name}": kind.value for kind in Neighbour}


def test_the_marks_of_processes() -> None:
    from jitterprof.trace import processes

    marks = {name: value for name, value in vars(processes).items() if name.startswith("MARK_")}
    assert enum("jp_mark") == marks
    assert define("PID_LIMIT") == processes.PID_LIMIT
    assert processes.PID_LIMIT % define("PIDS_PER_ROW") == 0


def test_the_list_of_neighbours() -> None:
    from jitterprof.trace.machine import MOST_NEIGHBOURS

    found = re.search(r"#define NEIGHBOURS (\d+)", (probes_dir() / "neighbour.bpf.c").read_text())
    assert found and int(found[1]) == MOST_NEIGHBOURS


def test_what_other_cpus_write_has_lines_of_its_own() -> None:
    """See the comment of the struct: the map is page-aligned, so offsets decide."""
    cpu = layout("jp_cpu")
    assert ctypes.sizeof(cpu) % 64 == 0
    lines = {name: getattr(cpu, name).offset // 64 for name, _ in cpu._fields_}
    alone = [name for name, line in lines.items() if line < lines["current_task"]]
    assert {"start", "child", "seq", "written", "count"} <= {*alone}
    assert len({lines["current_task"], lines["watch"], lines["ipi_from"]}) == 3
    assert lines["ipi_from"] == lines["ipi_function"]


def test_the_contexts() -> None:
    known = enum("jp_context")
    assert known.pop("CONTEXTS") == len(Context)
    assert known == {f"IN_{context.name}": context.value for context in Context}


def test_the_clock() -> None:
    clock = layout("jp_clock")
    assert ctypes.sizeof(clock) == model.CLOCK_WORDS * 8
    for name, word in (
        ("version", model.CLOCK_VERSION),
        ("since", model.CLOCK_SINCE),
        ("state", model.CLOCK_STATE),
        ("tid", model.CLOCK_TID),
        ("ns", model.CLOCK_NS),
        ("count", model.CLOCK_COUNT),
    ):
        assert getattr(clock, name).offset == 8 * word, name
    assert clock.ns.size == 8 * len(model.CLOCK_CLASSES)
    assert clock.count.size == 8 * len(model.CLOCK_COUNTERS)
    assert define("CLOCK_SLOTS") == model.CLOCK_SLOTS


def test_the_clock_classes() -> None:
    """A state from S_PREEMPTED on counts on class state - 2; the other classes have numbers of their own."""
    states = enum("jp_state")
    assert (states["S_UNKNOWN"], states["S_RUNNING"]) == (0, 1)
    classes = enum("jp_class")
    assert classes.pop("CLASSES") == len(model.CLOCK_CLASSES)
    numbered = {name.removeprefix("S_").lower(): value - 2 for name, value in states.items() if value >= 2}
    numbered |= {name.removeprefix("C_").lower(): value for name, value in classes.items()}
    numbered["page_fault"] = numbered.pop("fault")
    named = {name: number for number, name in enumerate(model.CLOCK_CLASSES) if not name.startswith("reserved")}
    assert numbered == named


def test_the_counters_per_cpu() -> None:
    from jitterprof.trace.session import CPU_COUNTERS

    assert len(CPU_COUNTERS) <= layout("jp_cpu").count.size // 8


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
def test_the_vectors(number: int) -> None:
    """The source gives each vector's pair of tracepoints its number in Vector."""
    source = (probes_dir() / "irq.bpf.c").read_text()
    numbers = {name: int(value) for name, value in re.findall(r"^IPI\((\w+), (\d+)\)", source, re.MULTILINE)}
    found = re.search(r"int on_local_timer_entry\(.*?enter_vector\((\d+)\)", source, re.DOTALL)
    assert found
    numbers["local_timer"] = int(found[1])
    name = model.Vector(number).name.lower()
    aliases = {"platform_ipi": "x86_platform_ipi"} | {
        one: f"{one}_apic" for one in ("thermal", "threshold", "deferred_error", "error", "spurious")
    }
    assert numbers[aliases.get(name, name)] == number


def test_numpy_reads_what_c_writes() -> None:
    record = layout("jp_event")(1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert np.frombuffer(bytes(record), EVENT_DTYPE)[0].item() == (1, 2, 3, 4, 5, 6, 7, 8, 9)
