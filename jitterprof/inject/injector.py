"""One injector: `python -m jitterprof.inject.injector NAME TIMETABLE SITE PARENT`, asleep but in its own pulses.

It ends with its parent, and undoes what it did whenever it ends; what a killed one cannot undo, its guard does.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from jitterprof.inject.faults import FAULTS, fault_named
from jitterprof.inject.linux import die_with_parent, set_name, set_timer_slack
from jitterprof.inject.site import Site
from jitterprof.inject.timetable import EPOCH, LATE_NS, PID, Timetable, sleep_until


def inject(name: str, timetable: Timetable, site: Site) -> None:
    """Every pulse of this fault that is still due. Raises OSError where the host does not allow it."""
    fault = fault_named(name)
    assert fault.enter is not None
    mine = [due for due in timetable.due() if FAULTS[due.fault] is fault]
    with fault.enter(site, timetable.wait_for(PID)) as pulse:
        epoch = timetable.wait_for(EPOCH)
        now = time.monotonic_ns
        for due in mine:
            start = epoch + due.start_ns
            sleep_until(start)
            t0 = now()
            if t0 - start > LATE_NS:
                continue
            taken = pulse(t0 + due.length_ns)
            timetable.log(due.number, t0, now(), taken)


def main() -> None:
    """Entry point of `python -m`."""
    name, path, site, parent = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not die_with_parent(int(parent), signal.SIGTERM):
            return
        set_name(f"jp-{name}")
        set_timer_slack(1)
        place = Site(**json.loads(site))
        if place.other >= 0:
            os.sched_setaffinity(0, {place.other})
        inject(name, Timetable(Path(path)), place)
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
