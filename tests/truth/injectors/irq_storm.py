"""O_DIRECT reads by `jp-reads` on another CPU whose completions interrupt the victim's CPU.

The disk must interrupt there already, or let itself be told to: its irq's affinity is moved for the run and put back.
Where the kernel manages it (most multi-queue disks), the program says so and stops: use a CPU of
`disk.interrupted_cpus()`.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from disk import ON_DISK, request_irqs
from program import begin, native

_SIZE = 32 << 20


def _extra(parser: argparse.ArgumentParser) -> None:
    # One or two in flight give an interrupt per read; more share one.
    parser.add_argument("--depth", type=int, default=2, help="reads in flight")
    parser.add_argument("--dir", type=Path, default=ON_DISK, help="a folder on the disk that interrupts")


if __name__ == "__main__":
    plan = begin("irq_storm", extra=_extra)
    moved: dict[Path, str] = {}
    with tempfile.NamedTemporaryFile(dir=plan.arguments.dir) as file:
        for _ in range(_SIZE >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        irqs = request_irqs(Path(file.name))
        if not irqs:
            sys.exit(f"irq_storm: no interrupt belongs to the disk under {plan.arguments.dir}")
        try:
            for irq in irqs:
                affinity = irq / "smp_affinity_list"
                if (irq / "effective_affinity_list").read_text().strip() == str(plan.cpu):
                    continue
                before = affinity.read_text()
                try:
                    affinity.write_text(str(plan.cpu))
                except OSError as error:
                    sys.exit(f"irq_storm: {irq} cannot be moved to CPU {plan.cpu}: {error.strerror}")
                moved[affinity] = before
            native(plan, "irq_storm", file.name, plan.arguments.depth)
        finally:
            for affinity, text in moved.items():
                affinity.write_text(text)
