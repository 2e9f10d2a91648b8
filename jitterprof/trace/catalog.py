"""The probe catalogue: one entry per file in probes/, in the order in which they are compiled and attached."""

from dataclasses import dataclass

from jitterprof.model.cause import Cause


@dataclass(frozen=True, slots=True)
class Attachment:
    """A raw tracepoint and the BPF function for it. `arch`: only there ("" = everywhere). `required`: the probe is
    useless without it; otherwise the probe is partial, unless `built_out`: a kernel without it does not have the thing
    itself (an interrupt vector that was not configured)."""

    tracepoint: str
    function: str
    required: bool = True
    arch: str = ""
    built_out: bool = False


@dataclass(frozen=True, slots=True)
class Offset:
    """A member whose offset the C source gets as -D`macro`; of names with | between them the first that the kernel has.
    `bit`: also a MASK_ for a bit field."""

    macro: str
    struct: str
    member: str
    bit: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """One concern. `causes`: what becomes unknown without it. `needs` any of these offsets missing: probe missing;
    `uses` missing: the C source leaves that part out; `together`: of use only when all are there.
    `names_only`: it writes no record of its own. `inside`: it is part of the programs of this probe."""

    name: str
    title: str
    attachments: tuple[Attachment, ...]
    causes: tuple[Cause, ...]
    needs: tuple[Offset, ...] = ()
    uses: tuple[Offset, ...] = ()
    together: tuple[Offset, ...] = ()
    names_only: bool = False
    inside: str = ""

    @property
    def source(self) -> str:
        """File name in probes/."""
        return f"{self.name}.bpf.c"


def _pair(name: str, arch: str = "x86_64", built_out: bool = False) -> tuple[Attachment, Attachment]:
    return (
        Attachment(f"{name}_entry", f"on_{name}_entry", False, arch, built_out),
        Attachment(f"{name}_exit", f"on_{name}_exit", False, arch, built_out),
    )


#: What every probe needs. `cpu` moved into thread_info with THREAD_INFO_IN_TASK; bcf9033e5449 (5.16) on arm64.
CORE_NEEDS = (
    Offset("OFF_TASK_PID", "task_struct", "pid"),
    Offset("OFF_TASK_COMM", "task_struct", "comm"),
    Offset("OFF_TASK_CPU", "task_struct", "thread_info.cpu"),
)
CORE_USES = (
    Offset("OFF_TASK_FLAGS", "task_struct", "flags"),
    Offset("OFF_TASK_GROUP", "task_struct", "sched_task_group"),
    Offset("OFF_GROUP_CGROUP", "task_group", "css.cgroup"),
    Offset("OFF_CGROUP_KN", "cgroup", "kn"),
    Offset("OFF_KN_ID", "kernfs_node", "id"),
    Offset("OFF_KN_NAME", "kernfs_node", "name"),
    # Renamed by 633488947ef6 (6.15).
    Offset("OFF_KN_PARENT", "kernfs_node", "__parent|parent"),
)

STEAL_USES = (
    Offset("OFF_TASK_CFS_RQ", "task_struct", "se.cfs_rq"),
    Offset("OFF_CFS_RQ_RQ", "cfs_rq", "rq"),
    Offset("OFF_RQ_STEAL", "rq", "prev_steal_time_rq"),
)

PROBES: tuple[Probe, ...] = (
    Probe(
        "sched",
        "on and off the CPU: preemption, wake-ups, migrations, blocking, throttling, steal",
        (
            Attachment("sched_switch", "on_sched_switch"),
            Attachment("sched_waking", "on_sched_waking"),
            Attachment("sched_wakeup", "on_sched_wakeup"),
            Attachment("sched_wakeup_new", "on_sched_wakeup"),
            Attachment("sched_migrate_task", "on_sched_migrate_task"),
        ),
        (
            Cause.PREEMPTED,
            Cause.WAKEUP,
            Cause.THROTTLED,
            Cause.STOPPED,
            Cause.LOCK,
            Cause.SLEEP,
            Cause.NET,
            Cause.STEAL,
        ),
        uses=(
            Offset("OFF_TASK_STATE", "task_struct", "__state"),
            Offset("OFF_TASK_THROTTLED", "task_struct", "throttled"),
            Offset("OFF_CFS_RQ_THROTTLE", "cfs_rq", "throttle_count"),
            Offset("OFF_TASK_IOWAIT", "task_struct", "in_iowait", bit=True),
            Offset("OFF_TASK_CFS_RQ", "task_struct", "se.cfs_rq"),
        ),
        together=STEAL_USES,
    ),
    Probe(
        "lifecycle",
        "threads and processes that come, go, are renamed or signalled",
        (
            Attachment("sched_process_fork", "on_sched_process_fork"),
            Attachment("sched_process_exit", "on_sched_process_exit"),
            Attachment("sched_process_exec", "on_sched_process_exec", required=False),
            Attachment("task_rename", "on_task_rename", required=False),
            Attachment("signal_generate", "on_signal_generate", required=False),
        ),
        (),
    ),
    Probe(
        "irq",
        "device interrupts, softirqs, local timer, inter-processor interrupts, NMIs",
        (
            Attachment("irq_handler_entry", "on_irq_handler_entry"),
            Attachment("irq_handler_exit", "on_irq_handler_exit"),
            Attachment("softirq_entry", "on_softirq_entry"),
            Attachment("softirq_exit", "on_softirq_exit"),
            *_pair("local_timer"),
            *_pair("reschedule"),
            *_pair("call_function"),
            *_pair("call_function_single"),
            *_pair("irq_work", built_out=True),
            *_pair("x86_platform_ipi", built_out=True),
            *_pair("thermal_apic", built_out=True),
            *_pair("threshold_apic", built_out=True),
            *_pair("deferred_error_apic", built_out=True),
            *_pair("error_apic", built_out=True),
            *_pair("spurious_apic", built_out=True),
            *_pair("ipi", arch="aarch64"),
            Attachment("nmi_handler", "on_nmi_handler", required=False, arch="x86_64"),
        ),
        (Cause.HARDIRQ, Cause.SOFTIRQ, Cause.TIMER, Cause.IPI, Cause.NMI),
    ),
    Probe(
        "irq_origin",
        "the timer or call function behind an interrupt, and who sent the IPI",
        (
            Attachment("hrtimer_expire_entry", "on_hrtimer_expire_entry", required=False),
            Attachment("csd_queue_cpu", "on_csd_queue_cpu", required=False),
            Attachment("ipi_send_cpu", "on_ipi_send_cpu", required=False),
            Attachment("ipi_send_cpumask", "on_ipi_send_cpumask", required=False),
        ),
        (),
        uses=(Offset("OFF_HRTIMER_FUNCTION", "hrtimer", "function"),),
        names_only=True,
    ),
    Probe(
        "memory",
        "page faults, direct reclaim, compaction",
        (
            Attachment("page_fault_user", "on_page_fault_user", required=False),
            Attachment("page_fault_kernel", "on_page_fault_kernel", required=False),
            Attachment("mm_vmscan_direct_reclaim_begin", "on_reclaim_begin", required=False),
            Attachment("mm_vmscan_direct_reclaim_end", "on_direct_reclaim_end", required=False),
            Attachment("mm_vmscan_memcg_reclaim_begin", "on_reclaim_begin", required=False),
            Attachment("mm_vmscan_memcg_reclaim_end", "on_memcg_reclaim_end", required=False),
            Attachment("mm_compaction_begin", "on_reclaim_begin", required=False),
            Attachment("mm_compaction_end", "on_compaction_end", required=False),
        ),
        (Cause.PAGE_FAULT, Cause.RECLAIM),
    ),
    Probe(
        "block",
        "block requests of the target, by device",
        (Attachment("block_bio_queue", "on_block_bio_queue"),),
        (Cause.BLOCK_IO,),
        needs=(
            Offset("OFF_BIO_BDEV", "bio", "bi_bdev"),
            Offset("OFF_BDEV_DEV", "block_device", "bd_dev"),
            Offset("OFF_BIO_SECTOR", "bio", "bi_iter.bi_sector"),
            Offset("OFF_BIO_SIZE", "bio", "bi_iter.bi_size"),
        ),
    ),
    Probe(
        "work",
        "functions that kworkers run",
        (
            Attachment("workqueue_execute_start", "on_workqueue_execute_start"),
            Attachment("workqueue_execute_end", "on_workqueue_execute_end"),
        ),
        (),
        needs=(Offset("OFF_WORK_FUNC", "work_struct", "func"),),
    ),
    Probe(
        "idle",
        "idle exits of a CPU that a request waits for",
        (Attachment("cpu_idle", "on_cpu_idle"),),
        (),
    ),
    Probe(
        "pmu",
        "cycles, instructions and cache misses of the target's threads",
        (),
        (),
        inside="sched",
    ),
    Probe(
        "frequency",
        "changes of the frequency of a CPU that the target runs on",
        (Attachment("cpu_frequency", "on_cpu_frequency"),),
        (),
    ),
    Probe(
        "neighbour",
        "who runs beside the target's threads: on the same core, or with the same last-level cache",
        (),
        (),
        inside="irq",
    ),
)
