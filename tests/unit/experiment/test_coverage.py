import pytest

from jitterprof.experiment.coverage import KERNEL_CAUSES, cause_coverage
from jitterprof.model.cause import Cause
from jitterprof.model.run import ProbeStatus
from jitterprof.trace.catalog import PROBES


def cover(**states):
    statuses = [ProbeStatus(probe.name, *states.get(probe.name, ("on",))) for probe in PROBES]
    return {row.cause: row for row in cause_coverage(statuses)}


def test_every_cause_has_a_row_but_unknown():
    assert set(cover()) == set(Cause) - {Cause.UNKNOWN}


def test_all_probes_on_show_every_kernel_cause():
    rows = cover()
    assert all(rows[cause].state == "visible" for cause in KERNEL_CAUSES)
    assert rows[Cause.GPU].state == "missing" and rows[Cause.GPU].reason


@pytest.mark.parametrize("probe", [probe for probe in PROBES if probe.causes], ids=lambda probe: probe.name)
def test_a_missing_probe_takes_its_causes_and_no_others(probe):
    rows = cover(**{probe.name: ("missing", "no such tracepoint")})
    for cause in KERNEL_CAUSES:
        assert (rows[cause].state == "visible") == (cause not in probe.causes)
        if cause in probe.causes:
            assert rows[cause].reason == "no such tracepoint"


def test_a_partial_probe_takes_only_what_it_lacks():
    rows = cover(irq=("partial", "without nmi_handler, threshold_apic_entry"))
    assert rows[Cause.NMI].state == "partly" and "nmi_handler" in rows[Cause.NMI].reason
    assert rows[Cause.HARDIRQ].state == rows[Cause.TIMER].state == "visible"
    rows = cover(memory=("partial", "without page_fault_user"))
    assert (rows[Cause.PAGE_FAULT].state, rows[Cause.RECLAIM].state) == ("partly", "visible")


def test_without_bpf_proc_shows_some_of_it_roughly():
    rows = cover(**{probe.name: ("missing", "no root") for probe in PROBES})
    assert rows[Cause.PREEMPTED].state == rows[Cause.THROTTLED].state == "partly"
    assert rows[Cause.LOCK].state == rows[Cause.BLOCK_IO].state == "missing"
    assert rows[Cause.RUN].state == rows[Cause.QUEUE].state == "visible"
    assert not any(rows[cause].state == "visible" for cause in KERNEL_CAUSES)
