"""A lock's holder loses its CPU to a SCHED_FIFO loop, `jp-fifo`, while the victim waits for the lock."""

import sys

from program import begin, native

if __name__ == "__main__":
    plan = begin("held_lock")
    if plan.control is None:
        sys.exit("held_lock needs --control")
    # The holder runs where the victim does not, and it is the holder whose CPU is taken.
    native(plan, "held_lock", plan.arguments.control)
