"""SIGSTOP to the victim's process, and SIGCONT at the end of the pulse."""

from control import TID
from program import begin, native

if __name__ == "__main__":
    plan = begin("sigstop")
    pid = plan.victim_pid
    native(plan, "sigstop", pid, plan.control.words[TID] if plan.control is not None else pid)
