"""SCHED_OTHER loops on the victim's CPU: the victim takes turns with `jp-hog`."""

from program import begin, native

if __name__ == "__main__":
    plan = begin("hog", extra=lambda parser: parser.add_argument("--hogs", type=int, default=1))
    native(plan, "hog", plan.arguments.hogs)
