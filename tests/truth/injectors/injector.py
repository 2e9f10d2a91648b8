"""`Injector(kind, cpu=..., ...)`: runs one injector program beside a test and hands back its exact pulses."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_HERE = Path(__file__).resolve().parent
#: Names of programs, and of actions of victim_side.
PROGRAMS = (
    "fifo_burner",
    "hog",
    "net_rx",
    "timer_storm",
    "irq_storm",
    "ipi_storm",
    "quota",
    "sigstop",
    "held_lock",
    "sham",
)
VICTIM_ACTIONS = ("madvise", "cold_file", "lock", "work", "gc", "sleep", "chain")
KINDS = PROGRAMS + VICTIM_ACTIONS


class Injector:
    """A context manager. Entering starts the program; leaving waits for its last pulse and fills `pulses` and `rows`.

    `options` become its arguments: pulses=20, pulse_ms=5 or "0.5,2,8", gap_ms=100, seed=1, delay_ms=0, pid=...,
    control=PATH, other=CPU, and what the kind adds (hogs, every_us, how, depth, quota_ms, period_ms, stay_ms). With
    `control` the program waits for the victim's first request. `pulses`: [(t0_ns, t1_ns)]; `rows`: the log lines with
    all they hold.
    Leaving by an exception ends the program at once; it undoes what it did in either case.
    Raises RuntimeError when the program failed, with what it said.
    """

    def __init__(self, kind: str, cpu: int, **options: Any) -> None:
        if kind not in KINDS:
            raise ValueError(f"no injector '{kind}'; known: {', '.join(KINDS)}")
        self.kind, self.cpu, self.options = kind, cpu, options
        self.pulses: list[tuple[int, int]] = []
        self.rows: list[dict[str, Any]] = []
        self._process: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="jp-injector-")
        program = "victim_side" if self.kind in VICTIM_ACTIONS else self.kind
        options = self.options | ({"action": self.kind} if program == "victim_side" else {})
        command = [sys.executable, str(_HERE / f"{program}.py"), "--cpu", str(self.cpu), "--log", str(self._log)]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None and self._folder is not None
        try:
            if error is not None:
                self._process.terminate()
            _, said = self._process.communicate(timeout=300)
            if error is None and self._process.returncode:
                raise RuntimeError(f"injector {self.kind}: {said.strip() or self._process.returncode}")
            if self._log.exists():
                self.rows += [json.loads(line) for line in self._log.read_text().splitlines()]
                self.pulses += [(row["t0_ns"], row["t1_ns"]) for row in self.rows]
        finally:
            if self._process.poll() is None:
                self._process.terminate()
                self._process.communicate()
            self._folder.cleanup()

    @property
    def running(self) -> bool:
        """False once the last pulse is over."""
        return self._process is not None and self._process.poll() is None

    @property
    def _log(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / "pulses.jsonl"
