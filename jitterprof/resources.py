"""The one module that knows where shipped files lie: in the installed package, else in the checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _shipped(packaged: str, checkout: str) -> Path:
    # The package first: a folder named `probes` beside site-packages/jitterprof could be anybody's.
    inside = _PACKAGE / packaged
    return inside if inside.is_dir() else _PACKAGE.parent / checkout


def probes_dir() -> Path:
    """The BPF C sources."""
    return _shipped("_probes", "probes")


def workloads_dir() -> Path:
    """The reference models, one Python file each."""
    return _shipped("_workloads", "workloads")
