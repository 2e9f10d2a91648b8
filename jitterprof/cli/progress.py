"""The progress line of a long command, on stderr: a bar on a terminal, a line per phase elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from jitterprof.experiment.session import Listener


@contextmanager
def session_progress(quiet: bool) -> Iterator[Listener]:
    """Yields what `record_session` tells its progress to. `quiet`: nothing at all."""
    if quiet:
        yield lambda _phase, _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        last = ""

        def tell(phase: str, _done: float | None) -> None:
            nonlocal last
            head = phase.split(",")[0]
            if head != last:
                last = head
                with suppress(OSError):  # nobody listens any more: no reason to end a measurement
                    sys.stderr.write(f"{head}\n")
                    sys.stderr.flush()

        yield tell
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as bar:
        task = bar.add_task("starting", total=None)

        def show(phase: str, done: float | None) -> None:
            bar.update(task, description=phase, total=None if done is None else 1.0, completed=done or 0.0)

        yield show
