"""High-resolution timers that fire on the victim's CPU."""

from program import begin, native

if __name__ == "__main__":
    plan = begin("timer_storm", extra=lambda parser: parser.add_argument("--every-us", type=float, default=20.0))
    native(plan, "timer_storm", round(plan.arguments.every_us * 1e3))
