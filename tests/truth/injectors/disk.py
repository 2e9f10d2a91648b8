"""Which interrupts a disk raises, and where they go."""

import os
from pathlib import Path

ON_DISK = Path("/var/tmp")


def request_irqs(path: Path = ON_DISK) -> list[Path]:
    """/proc/irq/N of the disk that holds `path`: its request queues (virtio) or its queues (NVMe)."""
    device = path.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    names = {part.name for part in (block, *block.parents)}
    found = []
    for irq in Path("/proc/irq").glob("[0-9]*"):
        for action in (entry.name for entry in irq.iterdir() if entry.is_dir()):
            owner, _, queue = action.partition("-")
            nvme = owner.startswith("nvme") and any(name.startswith(owner.split("q")[0]) for name in names)
            if nvme or (owner in names and queue.startswith("req")):
                found.append(irq)
    return sorted(found)


def interrupted_cpus(path: Path = ON_DISK) -> set[int]:
    """The CPUs that take those interrupts now, as far as each goes to a single one."""
    texts = [(irq / "effective_affinity_list").read_text().strip() for irq in request_irqs(path)]
    return {int(text) for text in texts if text.isdigit()}
