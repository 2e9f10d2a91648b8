import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel.lab import Lab, build, open_lab


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("victim"))


@pytest.fixture(scope="module")
def lab(program: Path) -> Iterator[Lab]:
    """One victim and one session for a whole file: loading the probes takes a second."""
    with open_lab(program, ring_bytes=1 << 23) as lab:
        lab.victim.do(f"clocks {os.getpid()} {lab.session.clock_fd}")
        yield lab
        assert lab.lost() == 0
