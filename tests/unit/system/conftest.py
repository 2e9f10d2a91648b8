import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from jitterprof.system.files import Host

RECORDED = Path(__file__).parents[2] / "data" / "sysfs"


@pytest.fixture
def guest() -> Host:
    """A recorded two-CPU KVM guest with cgroup v1."""
    return Host(RECORDED / "guest-v1")


@pytest.fixture
def make_host(tmp_path: Path) -> Callable[[Mapping[str, str | bytes]], Host]:
    """A host made of the given files: path -> content."""

    def make(files: Mapping[str, str | bytes]) -> Host:
        for name, content in files.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Host(tmp_path)

    return make


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="drops privileges, so it needs them first")
