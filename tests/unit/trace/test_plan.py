"""What becomes of the probes on kernels that lack something, with a made-up kernel in place of BTF."""

from collections.abc import Iterable

import pytest

from jitterprof.errors import ProbeUnavailable
from jitterprof.model.run import ProbeStatus
from jitterprof.trace.btf import Member
from jitterprof.trace.catalog import CORE_NEEDS, PROBES, Probe
from jitterprof.trace.plan import Plan, make_plan

#: Members that kernels have instead of one another: a kernel never has both.
OLD_NAMES = ("kernfs_node.parent",)
#: Probe -> the one whose programs it is part of.
INSIDE = {probe.name: probe.inside for probe in PROBES}


class Kernel:
    """Has every member and tracepoint but the `without` ones. Offsets are all different; bit fields have bit 3."""

    def __init__(self, without: Iterable[str] = (), switch_arguments: int = 4) -> None:
        self.without = {*without}
        self.switch_arguments = switch_arguments
        self.offsets: dict[str, int] = {}

    def member(self, struct_name: str, path: str) -> Member | None:
        name = f"{struct_name}.{path}"
        if name in self.without:
            return None
        offset = self.offsets.setdefault(name, 8 * (len(self.offsets) + 1))
        return Member(offset, 3 if path == "in_iowait" else 0)

    def tracepoint_arguments(self, name: str) -> int | None:
        if name in self.without:
            return None
        return self.switch_arguments if name == "sched_switch" else 2


def plan_of(*without: str, machine: str = "x86_64", **options: object) -> Plan:
    return make_plan(Kernel(without), machine=machine, **options)  # type: ignore[arg-type]


def status(plan: Plan, name: str) -> ProbeStatus:
    return next(status for status in plan.statuses if status.name == name)


def attached(plan: Plan) -> set[str]:
    return {attachment.tracepoint for attachment in plan.attachments}


def test_a_kernel_with_everything_has_all_probes_on() -> None:
    plan = plan_of()
    assert [one.name for one in plan.statuses] == [probe.name for probe in PROBES]
    assert {one.state for one in plan.statuses} == {"on"}
    assert plan.sources == tuple(probe.source for probe in PROBES)
    assert len(plan.defines) == len(set(plan.defines))


@pytest.mark.parametrize(
    "probe",
    [p for p in PROBES if p.name != "sched" and any(a.required for a in p.attachments)],
    ids=lambda probe: probe.name,
)
def test_a_missing_required_tracepoint_takes_its_probe_and_says_which(probe: Probe) -> None:
    required = [a for a in probe.attachments if a.required]
    plan = plan_of(required[0].tracepoint)
    assert status(plan, probe.name).state == "missing"
    assert required[0].tracepoint in status(plan, probe.name).reason
    assert probe.source not in plan.sources
    assert not attached(plan) & {a.tracepoint for a in probe.attachments if a.required}
    assert {one.state for one in plan.statuses if probe.name not in (one.name, INSIDE[one.name])} == {"on"}


@pytest.mark.parametrize("tracepoint", ["nmi_handler", "task_rename", "page_fault_kernel", "ipi_send_cpu"])
def test_a_missing_optional_tracepoint_makes_it_partial_and_says_which(tracepoint: str) -> None:
    plan = plan_of(tracepoint)
    partial = [one for one in plan.statuses if one.state != "on"]
    assert [one.state for one in partial] == ["partial"]
    assert tracepoint in partial[0].reason
    assert tracepoint not in attached(plan)
    assert len(attached(plan)) == len(attached(plan_of())) - 1


def test_a_vector_that_was_not_built_in_is_no_lack() -> None:
    plan = plan_of("thermal_apic_entry", "thermal_apic_exit")
    assert status(plan, "irq") == ProbeStatus("irq", "on")
    assert "thermal_apic_entry" not in attached(plan)


def test_a_probe_of_which_nothing_is_there_is_missing() -> None:
    memory = next(probe for probe in PROBES if probe.name == "memory")
    plan = plan_of(*(attachment.tracepoint for attachment in memory.attachments))
    assert status(plan, "memory").state == "missing"
    assert "page_fault_user" in status(plan, "memory").reason
    assert "memory.bpf.c" not in plan.sources


def test_a_missing_member_that_is_needed_takes_the_probe() -> None:
    plan = plan_of("bio.bi_bdev")
    assert status(plan, "block") == ProbeStatus("block", "missing", "this kernel has no bio.bi_bdev")
    assert not any(define.startswith("-DOFF_BIO") for define in plan.defines)


def test_a_missing_member_that_is_used_makes_it_partial() -> None:
    plan = plan_of("task_struct.in_iowait")
    assert status(plan, "sched").state == "partial"
    assert "task_struct.in_iowait" in status(plan, "sched").reason
    assert not any("IOWAIT" in define for define in plan.defines)
    assert "sched.bpf.c" in plan.sources


@pytest.mark.parametrize("absent", ["task_struct.throttled", "cfs_rq.throttle_count"])
def test_one_way_to_see_throttling_is_enough(absent: str) -> None:
    assert status(plan_of(absent), "sched").state == "on"


def test_without_any_way_to_see_throttling_the_probe_says_so() -> None:
    found = status(plan_of("task_struct.throttled", "cfs_rq.throttle_count"), "sched")
    assert found.state == "partial" and "throttle" in found.reason


def test_members_that_are_of_use_only_together_come_together() -> None:
    assert any(define.startswith("-DOFF_RQ_STEAL=") for define in plan_of().defines)
    plan = plan_of("cfs_rq.rq")
    assert not any("OFF_RQ_STEAL" in define or "OFF_CFS_RQ_RQ" in define for define in plan.defines)


def test_steal_that_cannot_be_seen_is_said() -> None:
    """Time that the hypervisor takes would silently be `run`."""
    found = status(plan_of("rq.prev_steal_time_rq"), "sched")
    assert found.state == "partial" and "prev_steal_time_rq" in found.reason


@pytest.mark.parametrize("needed", [f"{offset.struct}.{offset.member}" for offset in CORE_NEEDS])
def test_what_nothing_works_without_is_an_error_that_names_it(needed: str) -> None:
    with pytest.raises(ProbeUnavailable, match=needed):
        plan_of(needed)


def test_without_the_scheduler_nothing_can_be_explained() -> None:
    with pytest.raises(ProbeUnavailable, match="sched_waking"):
        plan_of("sched_waking")


def test_only_the_probes_asked_for_are_planned() -> None:
    plan = plan_of(wanted=("sched", "irq"))
    assert plan.sources == ("sched.bpf.c", "irq.bpf.c")
    assert status(plan, "memory") == ProbeStatus("memory", "off", "not asked for")


def test_what_the_machine_lacks_is_left_out_with_its_reason() -> None:
    limit = ProbeStatus("frequency", "missing", "no cpufreq")
    plan = plan_of(limits=(limit,))
    assert status(plan, "frequency") == limit
    assert "frequency.bpf.c" not in plan.sources
    assert "cpu_frequency" not in attached(plan)
    assert "-DWITH_FREQUENCY" not in plan.defines and "-DWITH_NEIGHBOUR" in plan.defines


def test_what_the_machine_has_in_part_is_there() -> None:
    limit = ProbeStatus("neighbour", "partial", "CPUs 2-7 have no regular ticks")
    plan = plan_of(limits=(limit,))
    assert status(plan, "neighbour") == limit
    assert "neighbour.bpf.c" in plan.sources


def test_a_limit_does_not_hide_what_the_kernel_lacks() -> None:
    plan = plan_of("cpu_frequency", limits=(ProbeStatus("frequency", "partial", "slow"),))
    assert status(plan, "frequency") == ProbeStatus(
        "frequency", "missing", "this kernel has no tracepoint cpu_frequency"
    )


def test_a_probe_goes_with_the_one_that_it_is_part_of() -> None:
    plan = plan_of("irq_handler_entry")
    assert status(plan, "neighbour").state == "missing" and "irq" in status(plan, "neighbour").reason
    assert status(plan, "pmu").state == "on"


def test_bit_fields_get_a_mask() -> None:
    assert "-DMASK_TASK_IOWAIT=8" in plan_of().defines


def test_an_old_name_of_a_member_serves() -> None:
    new, old = Kernel(OLD_NAMES), Kernel(("kernfs_node.__parent",))
    for kernel, name in ((new, "kernfs_node.__parent"), (old, "kernfs_node.parent")):
        plan = make_plan(kernel, machine="x86_64")  # type: ignore[arg-type]
        assert f"-DOFF_KN_PARENT={kernel.offsets[name]}" in plan.defines


@pytest.mark.parametrize(("arguments", "define"), [(4, "-DSWITCH_ARGS=4"), (3, "-DSWITCH_ARGS=3")])
def test_the_switch_arguments_are_counted(arguments: int, define: str) -> None:
    plan = make_plan(Kernel(switch_arguments=arguments), machine="x86_64")  # type: ignore[arg-type]
    assert define in plan.defines


def test_arm64_has_its_own_registers_and_interrupts() -> None:
    kernel = Kernel()
    plan = make_plan(kernel, machine="aarch64")  # type: ignore[arg-type]
    assert f"-DOFF_REGS_SYSCALL={kernel.offsets['pt_regs.syscallno']}" in plan.defines
    assert f"-DOFF_REGS_ARG0={kernel.offsets['pt_regs.regs']}" in plan.defines
    assert {"ipi_entry", "ipi_exit"} <= attached(plan)
    assert not {"local_timer_entry", "reschedule_entry", "nmi_handler"} & attached(plan)
    assert {one.state for one in plan.statuses} == {"on"}


def test_another_machine_is_refused() -> None:
    with pytest.raises(ProbeUnavailable, match="riscv64"):
        plan_of(machine="riscv64")
