"""Faults that the victim commits itself, one request per pulse: it is asked through its control file and answers there.

t0 and t1 are the victim's own clock readings around the action, victim_cpu_ns its CPU time between them. Without
--pulse-ms an action takes as long as tests/truth/victim_actions.py says.
"""

import sys
import time

from control import SLOTS, Action
from program import begin, pulses

_ANSWER_S = 5.0
#: The first look at the answer: not before it is due, so that looking disturbs nobody.
_LOOK_S = 0.02

if __name__ == "__main__":
    names = [action.name.lower() for action in Action if action is not Action.NONE]
    plan = begin("victim_side", extra=lambda parser: parser.add_argument("--action", choices=names, required=True))
    control = plan.control
    if control is None or plan.pulses > SLOTS:
        sys.exit(f"victim_side needs --control, and at most {SLOTS} pulses")
    action = Action[plan.arguments.action.upper()]
    asked_for_a_dose = any(argument.startswith("--pulse-ms") for argument in sys.argv)

    def pulse(number: int, stop_ns: int) -> dict[str, int]:
        dose_ns = plan.dose_ns(number) if asked_for_a_dose else 0
        control.ask(action, number, dose_ns)
        deadline = time.monotonic() + _ANSWER_S
        time.sleep(_LOOK_S + 2 * dose_ns / 1e9)
        while not control.answered(number)[1]:
            if time.monotonic() > deadline:
                control.ask(Action.NONE, number)
                sys.exit(f"victim_side: the victim did not answer pulse {number}")
            time.sleep(0.001)
        t0_ns, t1_ns, cpu_ns = control.answered(number)
        return {"t0_ns": t0_ns, "t1_ns": t1_ns, "victim_cpu_ns": cpu_ns, "dose_ns": dose_ns}

    pulses(plan, pulse)
