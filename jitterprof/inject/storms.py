"""Storms of interrupts on the victim's CPU: packets, timers, calls from another CPU."""

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jitterprof.inject.fault import Pulse
from jitterprof.inject.linux import barriers_supported, interrupt_registered, perf_event, private_network
from jitterprof.inject.site import Site, needs_two_cpus
from jitterprof.inject.timetable import sleep_until
from jitterprof.units import NS_PER_US

EVERY_NS = 20 * NS_PER_US
_PAYLOAD = bytes(512)
_RPS = Path("/sys/class/net/lo/queues/rx-0/rps_cpus")
# include/uapi/linux: sockios.h, if.h, perf_event.h
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41
_PERF_TYPE_SOFTWARE, _PERF_COUNT_SW_CPU_CLOCK = 1, 0
_IOC_ENABLE, _IOC_DISABLE = 0x2400, 0x2401


def _again_and_again(act: Callable[[], object], stop_ns: int) -> int:
    now = time.monotonic_ns
    due = at = now()
    while at < stop_ns:
        if at >= due:
            due = at + EVERY_NS
            act()
        at = now()
    return 0


def cpu_mask(cpu: int) -> str:
    """One CPU as sysfs takes it: hexadecimal, comma between groups of 32 bits."""
    groups = ["00000000"] * (cpu // 32)
    return ",".join([f"{1 << cpu % 32:x}", *groups])


@contextmanager
def packets(site: Site, _pid: int) -> Iterator[Pulse]:
    """UDP over the loopback of a network of our own, received in NET_RX on the victim's CPU: the host's own `lo` keeps
    its settings, and the network goes with this process."""
    private_network()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        fcntl.ioctl(sender, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP_RUNNING))
        _RPS.write_text(cpu_mask(site.cpu))
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        sender.connect(receiver.getsockname())

        def pulse(stop_ns: int) -> int:
            taken = _again_and_again(lambda: sender.send(_PAYLOAD), stop_ns)
            with suppress(BlockingIOError):
                while receiver.recv(len(_PAYLOAD)):
                    pass
            return taken

        yield pulse


@contextmanager
def timers(site: Site, _pid: int) -> Iterator[Pulse]:
    """A perf cpu-clock event that nobody reads: an hrtimer that restarts itself in its interrupt. (A timerfd fires once
    per read, so it would need a thread that keeps waking there.)"""
    descriptor = perf_event(_PERF_TYPE_SOFTWARE, _PERF_COUNT_SW_CPU_CLOCK, EVERY_NS, site.cpu)

    def pulse(stop_ns: int) -> int:
        fcntl.ioctl(descriptor, _IOC_ENABLE, 0)
        try:
            sleep_until(stop_ns)
        finally:
            fcntl.ioctl(descriptor, _IOC_DISABLE, 0)
        return 0

    try:
        yield pulse
    finally:
        os.close(descriptor)


@contextmanager
def calls(_site: Site, _pid: int) -> Iterator[Pulse]:
    """Call-function interrupts from another CPU, by membarrier: they reach the victim, which registered for them."""
    yield lambda stop_ns: _again_and_again(interrupt_registered, stop_ns)


def packets_allowed(site: Site) -> str:
    """Why packets cannot be aimed at a CPU here; "" when they can."""
    return needs_two_cpus(site) or ("" if _RPS.exists() else f"{_RPS} does not exist (CONFIG_RPS)")


def calls_allowed(site: Site) -> str:
    """Why no interrupt can be sent to the victim here; "" when it can."""
    return needs_two_cpus(site) or ("" if barriers_supported() else "this kernel has no expedited membarrier")
