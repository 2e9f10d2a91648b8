"""SIGSTOP to the victim's process, and SIGCONT at the end of the pulse."""

import os
import signal

from program import begin, pulses, sleep_until

if __name__ == "__main__":
    plan = begin("sigstop")
    pid = plan.victim_pid

    def pulse(number: int, stop_ns: int) -> None:
        try:
            os.kill(pid, signal.SIGSTOP)
            sleep_until(stop_ns)
        finally:
            os.kill(pid, signal.SIGCONT)

    pulses(plan, pulse)
