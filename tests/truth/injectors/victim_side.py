"""Faults that the victim commits itself, one request per pulse: it is asked through its control file and answers there.

t0 and t1 are the victim's own clock readings around the action. --pulse-ms bounds nothing here: how long an action
takes is fixed in tests/truth/victims.py.
"""

import sys
import time

from control import SLOTS, Action
from program import begin, pulses

_ANSWER_S = 5.0

if __name__ == "__main__":
    names = [action.name.lower() for action in Action if action is not Action.NONE]
    plan = begin("victim_side", extra=lambda parser: parser.add_argument("--action", choices=names, required=True))
    control = plan.control
    if control is None or plan.pulses > SLOTS:
        sys.exit(f"victim_side needs --control, and at most {SLOTS} pulses")
    action = Action[plan.arguments.action.upper()]

    def pulse(number: int, stop_ns: int) -> dict[str, int]:
        control.ask(action, number)
        deadline = time.monotonic() + _ANSWER_S
        while not control.answered(number)[1]:
            if time.monotonic() > deadline:
                control.ask(Action.NONE, number)
                sys.exit(f"victim_side: the victim did not answer pulse {number}")
            time.sleep(0.001)
        t0_ns, t1_ns = control.answered(number)
        return {"t0_ns": t0_ns, "t1_ns": t1_ns}

    pulses(plan, pulse)
