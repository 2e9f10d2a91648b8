"""The catalogue and the sources in probes/ say the same."""

import re

import pytest

from jitterprof.resources import probes_dir
from jitterprof.trace.catalog import CORE_NEEDS, CORE_USES, PROBES, STEAL_USES, Probe

FUNCTION = re.compile(r"^int (on_\w+)\(struct (\w+) \*ctx\)", re.MULTILINE)
#: Not attached by the catalogue but to perf events, in trace/faults.py.
ON_PERF_EVENTS = {"on_minor_fault", "on_major_fault"}


def source(probe: Probe) -> str:
    return (probes_dir() / probe.source).read_text()


def functions(text: str) -> dict[str, str]:
    """Program name -> type of its context, with what the IPI macro makes."""
    found = dict(FUNCTION.findall(text))
    for name in re.findall(r"^IPI\((\w+), \d+\)", text, re.MULTILINE):
        found |= {f"on_{name}_{edge}": "bpf_raw_tracepoint_args" for edge in ("entry", "exit")}
    return found


def test_one_entry_per_file() -> None:
    assert sorted(probe.source for probe in PROBES) == sorted(path.name for path in probes_dir().glob("*.bpf.c"))
    assert len({probe.name for probe in PROBES}) == len(PROBES)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_every_function_is_in_its_source_and_every_program_is_attached(probe: Probe) -> None:
    there = functions(source(probe))
    named = {attachment.function for attachment in probe.attachments}
    assert named == {name for name in there if name not in ON_PERF_EVENTS}
    assert {there[name] for name in named} <= {"bpf_raw_tracepoint_args"}
    # What has no program of its own is part of those of a probe that is planned before it.
    before = [one.name for one in PROBES[: PROBES.index(probe)]]
    assert named or probe.inside in before
    assert ON_PERF_EVENTS & there.keys() == (ON_PERF_EVENTS if probe.name == "memory" else set())


def test_a_tracepoint_is_attached_once() -> None:
    named = [attachment.tracepoint for probe in PROBES for attachment in probe.attachments]
    assert len(named) == len(set(named))


def test_a_function_belongs_to_one_probe() -> None:
    owners = {(attachment.function, probe.name) for probe in PROBES for attachment in probe.attachments}
    assert len(owners) == len({function for function, _ in owners})


def test_every_offset_is_given_and_used() -> None:
    """A macro that nobody defines would silently leave a part out; one that nobody reads is dead."""
    text = "\n".join(path.read_text() for path in probes_dir().rglob("*.[ch]"))
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    read = set(re.findall(r"\bOFF_[A-Z_0-9]+\b", code))
    offsets = [*CORE_NEEDS, *CORE_USES, *STEAL_USES]
    offsets += [offset for probe in PROBES for offset in (*probe.needs, *probe.uses, *probe.together)]
    given = {offset.macro for offset in offsets} | {"OFF_REGS_SYSCALL", "OFF_REGS_ARG0"}
    assert read == given
    members: dict[str, set[tuple[str, str]]] = {}
    for offset in offsets:
        members.setdefault(offset.macro, set()).add((offset.struct, offset.member))
    assert all(len(known) == 1 for known in members.values()), "a macro with two meanings"


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_every_probe_has_its_row_in_the_reference_with_its_causes(probe: Probe) -> None:
    page = (probes_dir().parent / "docs" / "reference" / "probes.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith(f"| `{probe.name}` |")]
    assert len(rows) == 1
    assert set(re.findall(r"`(\w+)`", rows[0].split("|")[3])) - {"wakeup"} == {c.id for c in probe.causes} - {"wakeup"}
