"""The only importer of bcc. It is the system's package (python3-bpfcc); what PyPI has under that name is unrelated."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from jitterprof.errors import ProbeUnavailable
from jitterprof.resources import probes_dir

_PLACES = (
    Path("/usr/lib/python3/dist-packages/bcc"),
    *(Path(f"/usr/lib/python3.{minor}/site-packages/bcc") for minor in range(9, 16)),
)
HOW_TO_INSTALL = (
    "install the system package: apt-get install python3-bpfcc (Debian, Ubuntu), dnf install python3-bcc (RHEL)"
)


def find() -> Path | None:
    """The folder of the system's bcc package, or None."""
    return next((place for place in _PLACES if (place / "libbcc.py").is_file()), None)


def load() -> ModuleType:
    """Import bcc by its path, so that nothing else of the system's site-packages becomes visible to us.

    Raises ProbeUnavailable when it is not installed or does not load.
    """
    # bcc compiles against this tree instead of kernel headers, which most servers do not have.
    os.environ["BCC_KERNEL_SOURCE"] = str(probes_dir() / "stub")
    if (loaded := sys.modules.get("bcc")) is not None:
        return loaded
    place = find()
    if place is None:
        raise ProbeUnavailable("bcc is not installed, so there are no eBPF probes", HOW_TO_INSTALL)
    spec = importlib.util.spec_from_file_location("bcc", place / "__init__.py", submodule_search_locations=[str(place)])
    if spec is None or spec.loader is None:
        raise ProbeUnavailable(f"{place} is not a Python package", HOW_TO_INSTALL)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        del sys.modules["bcc"]
        raise ProbeUnavailable(f"bcc does not load: {error}", HOW_TO_INSTALL) from error
    return module


def compile_program(text: str, flags: list[str]) -> Any:
    """A `bcc.BPF` of the text, nothing attached. Raises ProbeUnavailable with the first line of the reason."""
    bcc = load()
    try:
        return bcc.BPF(text=text.encode(), cflags=flags)
    except Exception as error:  # bcc raises bare Exception for every failure
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise ProbeUnavailable(
            f"the probes do not compile here: {reason}", "run `jitterprof doctor` to see what this kernel allows"
        ) from error


def load_perf_program(bpf: Any, name: str) -> int:
    """The descriptor of a function of `bpf`, loaded as a program for perf events. Raises ProbeUnavailable."""
    try:
        return int(bpf.load_func(name.encode(), load().BPF.PERF_EVENT).fd)
    except Exception as error:  # bcc raises bare Exception
        raise ProbeUnavailable(f"{name} does not load: {str(error).strip()}", "") from error
