"""The end of a page fault: the software perf events that mm_account_fault() raises, with our program on them.

Opened per CPU: an event of a thread would be switched in and out with it, which costs that thread 0.6 us a switch here,
and would have to be opened anew for every thread and process that the target starts. The price is that the program is
run, for nothing, when others fault (some 0.1 us of the 1 to 2 us that a fault takes).
"""

import errno
import fcntl
import os

from jitterprof.errors import ProbeUnavailable
from jitterprof.trace.perf_events import SW_PAGE_FAULTS_MAJ, SW_PAGE_FAULTS_MIN, TYPE_SOFTWARE, open_perf_event

_IOC_SET_BPF = 0x40042408


def attach_fault_ends(cpus: int, minor_program_fd: int, major_program_fd: int) -> list[int]:
    """Put the programs on the fault events of CPUs 0 .. cpus - 1; returns the fds that keep them. A CPU that is not
    online is passed over. Raises ProbeUnavailable when the kernel or our rights do not allow it."""
    fds: list[int] = []
    for cpu in range(cpus):
        for config, program in ((SW_PAGE_FAULTS_MIN, minor_program_fd), (SW_PAGE_FAULTS_MAJ, major_program_fd)):
            try:
                fds.append(open_perf_event(TYPE_SOFTWARE, config, cpu, period=1))
                fcntl.ioctl(fds[-1], _IOC_SET_BPF, program)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    continue
                for fd in fds:
                    os.close(fd)
                raise ProbeUnavailable(
                    f"the end of page faults cannot be seen: perf events of CPU {cpu}: {error.strerror}", ""
                ) from error
    return fds
