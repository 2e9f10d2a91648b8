"""Call-function interrupts to the victim's CPU, sent by `jp-ipi` on another."""

import argparse

from program import begin, native


def _extra(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--how", choices=("perf", "membarrier"), default="perf")
    parser.add_argument("--every-us", type=float, default=20.0)


if __name__ == "__main__":
    plan = begin("ipi_storm", extra=_extra)
    native(plan, "ipi_storm", plan.arguments.how, round(plan.arguments.every_us * 1e3))
