"""Which tests need the kernel, what happens where it is not there, and the promise that CI did not skip them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parent
#: Everything in these folders carries the marker of the same name.
_GUARDED = ("kernel", "truth")
_REQUIRED = os.environ.get("JITTERPROF_REQUIRE_KERNEL") == "1"
_BCC = ("/usr/lib/python3/dist-packages/bcc", "/usr/lib/python3*/site-packages/bcc")
#: CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF (include/uapi/linux/capability.h)
_SYS_ADMIN, _PERFMON, _BPF = 21, 38, 39


def _why_no_kernel() -> str:
    """Why BPF tests cannot run here; "" when they can."""
    status = Path("/proc/self/status").read_text()
    effective = int(next(line for line in status.splitlines() if line.startswith("CapEff")).split()[1], 16)
    if not effective >> _SYS_ADMIN & 1 and not (effective >> _PERFMON & 1 and effective >> _BPF & 1):
        return "needs CAP_BPF and CAP_PERFMON: run as root"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "this kernel has no BTF (/sys/kernel/btf/vmlinux)"
    if not any(list(Path("/").glob(pattern[1:])) for pattern in _BCC):
        return "bcc is not installed: apt-get install python3-bpfcc"
    return ""


def _guarded(path: Path) -> str | None:
    for name in _GUARDED:
        if path.is_relative_to(_TESTS / name):
            return name
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = _guarded(item.path)
        if name is not None:
            item.add_marker(name)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if any(item.get_closest_marker(name) for name in _GUARDED):
        reason = _why_no_kernel()
        if reason:
            pytest.skip(reason)


# With JITTERPROF_REQUIRE_KERNEL=1 silence is failure: a kernel or truth test that did not run says so in red.

_MISSING = "JITTERPROF_REQUIRE_KERNEL=1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:  # the wrapper protocol: yields once, returns the report
    report: pytest.TestReport = yield
    if _REQUIRED and report.skipped and any(item.get_closest_marker(name) for name in _GUARDED):
        # An expected failure counts too: the blame it stands for was not shown to be right.
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.__dict__.pop("wasxfail", None)
        report.longrepr = f"{_MISSING} and this test did not run: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report: pytest.CollectReport = yield
    if _REQUIRED and report.outcome == "skipped" and _guarded(collector.path):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{_MISSING} and this file was skipped: {reason}"
    return report


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    lost = [item.nodeid for item in items if any(item.get_closest_marker(name) for name in _GUARDED)]
    if _REQUIRED and lost:
        raise pytest.UsageError(f"{_MISSING} and {len(lost)} kernel or truth tests were deselected, {lost[0]} first")


def pytest_collection_finish(session: pytest.Session) -> None:
    if not _REQUIRED:
        return
    for name in _GUARDED:
        if not any(item.get_closest_marker(name) for item in session.items):
            raise pytest.UsageError(f"{_MISSING} and no {name} test was collected")
