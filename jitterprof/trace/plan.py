"""What of the catalogue this kernel can run: which functions to attach, with which offsets, and what is missing why."""

import platform
from dataclasses import dataclass

from jitterprof.errors import ProbeUnavailable
from jitterprof.model.run import ProbeStatus
from jitterprof.trace.btf import Btf
from jitterprof.trace.catalog import CORE_NEEDS, CORE_USES, PROBES, Attachment, Offset, Probe

# Where `current`'s saved registers hold the system call and its first argument, by machine.
_REGISTERS = {
    "x86_64": (("pt_regs", "orig_ax"), ("pt_regs", "di")),
    "aarch64": (("pt_regs", "syscallno"), ("pt_regs", "regs")),
}
_THROTTLING = {"task_struct.throttled", "cfs_rq.throttle_count"}


@dataclass(frozen=True, slots=True)
class Plan:
    """`defines`: -D flags. `attachments` in order. `statuses`: one per probe of the catalogue."""

    defines: tuple[str, ...]
    sources: tuple[str, ...]
    attachments: tuple[Attachment, ...]
    statuses: tuple[ProbeStatus, ...]


def _define(btf: Btf, offset: Offset) -> tuple[str, ...]:
    found = (btf.member(offset.struct, name) for name in offset.member.split("|"))
    member = next((member for member in found if member is not None), None)
    if member is None:
        return ()
    defines: tuple[str, ...] = (f"-D{offset.macro}={member.offset}",)
    if offset.bit:
        defines += (f"-D{offset.macro.replace('OFF_', 'MASK_')}={1 << member.bit}",)
    return defines


def _define_together(btf: Btf, group: tuple[Offset, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The defines of members that are of use only together, and what is missing of them."""
    found = [_define(btf, offset) for offset in group]
    absent = tuple(f"{o.struct}.{o.member}" for o, defines in zip(group, found, strict=True) if not defines)
    return () if absent else tuple(define for defines in found for define in defines), absent


def _here(attachment: Attachment, machine: str) -> bool:
    return attachment.arch in ("", machine)


def _plan_probe(btf: Btf, probe: Probe, machine: str) -> tuple[ProbeStatus, tuple[Attachment, ...], tuple[str, ...]]:
    defines: tuple[str, ...] = ()
    for offset in probe.needs:
        if not (found := _define(btf, offset)):
            return ProbeStatus(probe.name, "missing", f"this kernel has no {offset.struct}.{offset.member}"), (), ()
        defines += found
    absent_members = []
    for offset in probe.uses:
        found = _define(btf, offset)
        defines += found
        if not found:
            absent_members.append(f"{offset.struct}.{offset.member}")
    found_together, absent_together = _define_together(btf, probe.together)
    defines += found_together
    absent_members += [name for name in absent_together if name not in absent_members]
    attachments, absent = [], []
    for attachment in probe.attachments:
        if not _here(attachment, machine):
            continue
        if btf.tracepoint_arguments(attachment.tracepoint) is not None:
            attachments.append(attachment)
        elif attachment.required:
            return ProbeStatus(probe.name, "missing", f"this kernel has no tracepoint {attachment.tracepoint}"), (), ()
        elif not attachment.built_out:
            absent.append(attachment.tracepoint)
    if not attachments and not probe.inside:
        return ProbeStatus(probe.name, "missing", f"this kernel has none of {', '.join(absent)}"), (), ()
    # A kernel has one of the two ways to see throttling, so one absent member is not a lack.
    if len(_THROTTLING & {*absent_members}) == 1:
        absent_members = [name for name in absent_members if name not in _THROTTLING]
    lacks = absent + absent_members
    status = (
        ProbeStatus(probe.name, "partial", f"without {', '.join(lacks)}") if lacks else ProbeStatus(probe.name, "on")
    )
    return status, tuple(attachments), defines


def make_plan(
    btf: Btf, wanted: tuple[str, ...] | None = None, machine: str = "", limits: tuple[ProbeStatus, ...] = ()
) -> Plan:
    """Match the catalogue (or the probes named in `wanted`) against a kernel, and against the `limits` of the machine:
    probes that it leaves missing or partial, whatever the kernel has. Raises ProbeUnavailable without `sched`'s basics,
    since nothing can be explained then."""
    machine = machine or platform.machine()
    registers = _REGISTERS.get(machine)
    if registers is None:
        raise ProbeUnavailable(f"the probes do not know the machine type {machine}", "x86_64 and aarch64 are supported")
    defines: list[str] = []
    for offset in (
        *CORE_NEEDS,
        Offset("OFF_REGS_SYSCALL", *registers[0]),
        Offset("OFF_REGS_ARG0", *registers[1]),
    ):
        found = _define(btf, offset)
        if not found:
            raise ProbeUnavailable(f"this kernel's BTF has no {offset.struct}.{offset.member}", "")
        defines += found
    defines += _define_together(btf, CORE_USES)[0]
    defines.append(f"-DSWITCH_ARGS={btf.tracepoint_arguments('sched_switch') or 0}")
    statuses: list[ProbeStatus] = []
    attachments: list[Attachment] = []
    sources: list[str] = []
    for probe in PROBES:
        if wanted is not None and probe.name not in wanted:
            statuses.append(ProbeStatus(probe.name, "off", "not asked for"))
            continue
        status, found_attachments, found_defines = _plan_probe(btf, probe, machine)
        limit = next((one for one in limits if one.name == probe.name), None)
        if limit is not None and status.state == "on":
            status = limit
        if probe.inside and f"{probe.inside}.bpf.c" not in sources:
            status = ProbeStatus(probe.name, "missing", f"it is part of the probe {probe.inside}, which is not there")
        statuses.append(status)
        if status.state in ("on", "partial"):
            attachments += found_attachments
            defines += (*found_defines, f"-DWITH_{probe.name.upper()}")
            sources.append(probe.source)
    if "sched.bpf.c" not in sources and (wanted is None or "sched" in wanted):
        reason = next(status.reason for status in statuses if status.name == "sched")
        raise ProbeUnavailable(f"the scheduler probe cannot run: {reason}", "")
    return Plan(tuple(dict.fromkeys(defines)), tuple(sources), tuple(attachments), tuple(statuses))
