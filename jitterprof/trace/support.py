"""Which probes this host can run, found out by trying, without a target."""

import os

from jitterprof.errors import ProbeUnavailable
from jitterprof.model.run import ProbeStatus
from jitterprof.trace import bcc_module
from jitterprof.trace.btf import Btf
from jitterprof.trace.catalog import PROBES
from jitterprof.trace.machine import machine_limits
from jitterprof.trace.plan import make_plan
from jitterprof.trace.session import TraceSession, possible_cpus

_SMALL_RING = 1 << 16


def check_probes(attach: bool = True) -> tuple[ProbeStatus, ...]:
    """One status per probe of the catalogue. `attach`: load them for real, on ourselves, for a moment (about a second);
    otherwise only look at what the kernel and the installation offer. Never raises ProbeUnavailable."""
    try:
        if attach:
            session = TraceSession(os.getpid(), ring_bytes=_SMALL_RING)
            try:
                return session.statuses
            finally:
                session.close()
        bcc_module.load()
        return make_plan(Btf(), limits=machine_limits(possible_cpus())).statuses
    except ProbeUnavailable as error:
        reason = f"{error.message}. {error.hint}".strip()
        return tuple(ProbeStatus(probe.name, "missing", reason) for probe in PROBES)
