"""The real command line as tests run it: in a process of its own, with nothing left behind to be checked for."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: A session that is as short as it can be.
QUICK = ("--duration", "1s", "--warmup", "200ms")
NOBODY = 65534
_MARK = "JITTERPROF_TEST_RUN"
_TIMEOUT_S = 120.0


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, with the package of this checkout first, and 100 columns."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "100", "PYTHONDONTWRITEBYTECODE": "1", **(extra or {})}


@dataclass
class Command:
    """One run of `jitterprof`. `wrap`: what is put before it (unshare, setpriv ...); see `in_private_mounts`."""

    arguments: Sequence[str]
    folder: Path
    wrap: Sequence[str] = ()
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self) -> "subprocess.Popen[str]":
        """In the background, with our own way to take Ctrl-C: a test run in a shell's background ignores it."""
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(
            [*self.wrap, sys.executable, "-m", "jitterprof", *map(str, self.arguments)],
            cwd=self.folder,
            env=clean_environment({_MARK: self.mark}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr.txt").open("w"),
            text=True,
        )

    @property
    def said(self) -> str:
        """What it has written to stderr so far."""
        return (self.folder / "stderr.txt").read_text()

    def processes(self) -> list[int]:
        """Those of its processes that are alive."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    alive = f"{_MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                if alive and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(entry.name))
        return found

    def child(self, module: str) -> int:
        """The pid of its child `module` (workload_process, recorder_process)."""
        for pid in self.processes():
            if f"jitterprof.experiment.{module}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
        raise AssertionError(f"no {module} among {self.processes()}: {self.said}")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    said: str

    @property
    def document(self) -> Any:
        """What it printed, which must be one JSON document and nothing else."""
        return json.loads(self.out)

    def refused(self, code: int, *words: str) -> None:
        """It ended with `code`, one line of what is wrong that holds the words, and one of what to do."""
        assert "Traceback" not in self.said, self.said
        assert self.code == code, f"exit code {self.code}\n{self.said}"
        lines = self.said.splitlines()
        wrong = [number for number, line in enumerate(lines) if line.startswith("jitterprof: ")]
        assert len(wrong) == 1, self.said
        assert lines[wrong[0] + 1 :] and all(line.startswith("  ") for line in lines[wrong[0] + 1 :]), self.said
        assert len(lines) == wrong[0] + 2, self.said
        for word in words:
            assert word in lines[wrong[0]] + lines[wrong[0] + 1], f"no '{word}' in:\n{self.said}"


def finish(command: Command, process: "subprocess.Popen[str]", timeout_s: float = _TIMEOUT_S) -> Ended:
    """Wait for its end; every process of it must be gone a moment later."""
    try:
        out, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        for pid in command.processes():
            os.kill(pid, signal.SIGKILL)
        process.communicate()
        raise
    wait_until(lambda: not command.processes(), 10, lambda: f"left behind: {command.processes()}")
    return Ended(process.returncode, out, command.said)


def jitterprof(*arguments: object, folder: Path, wrap: Sequence[str] = ()) -> Ended:
    """Run it to its end."""
    command = Command([str(argument) for argument in arguments], folder, wrap)
    return finish(command, command.start())


#: The command line's entry point, once per list of arguments.
_DRIVER = """
import contextlib, io, json, sys
from jitterprof.cli.app import main
answers = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["jitterprof", *arguments]
    out, said = io.StringIO(), io.StringIO()
    code = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            code = end.code
    answers.append([code, out.getvalue(), said.getvalue()])
json.dump(answers, sys.stdout)
"""


def one_after_another(lines: Sequence[Sequence[str]], folder: Path) -> list[Ended]:
    """Many command lines in one interpreter; for those that end before anything starts."""
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, json.dumps(lines)],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Ended(*answer) for answer in json.loads(done.stdout)]


def wait_until(done: Callable[[], object], timeout_s: float, why: Callable[[], str]) -> None:
    """Wait for a condition; the limit is only there so that a broken program ends as a failure."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, why()
        time.sleep(0.02)


def wait_for_phase(command: Command, process: "subprocess.Popen[str]", phase: str) -> None:
    """Until its progress says `phase`."""
    wait_until(
        lambda: phase in command.said.splitlines() or process.poll() is not None, _TIMEOUT_S, lambda: command.said
    )
    assert process.poll() is None, f"ended before '{phase}':\n{command.said}"


def in_private_mounts(*mounts: str) -> tuple[str, ...]:
    """Wraps a command: it sees these `mount` calls, and nobody else does."""
    return ("unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join((*mounts, 'exec "$@"')), "sh")


def as_nobody() -> tuple[str, ...]:
    """Wraps a command: without any right, in a view of the file system where our interpreter is readable for all."""
    needed = list(dict.fromkeys(map(str, (Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT))))
    closed = {top for path in needed if (top := _closed_above(Path(path))) is not None}
    mounts = []
    for number, top in enumerate(sorted(closed)):
        inside = [path for path in needed if Path(path).is_relative_to(top)]
        stash = f"/tmp/.jitterprof-test-{os.getpid()}-{number}"
        mounts += [f"mkdir -p {stash}", f"mount -t tmpfs -o mode=755 tmpfs {stash}"]
        mounts += [f"mkdir -p {stash}{path} && mount --bind {path} {stash}{path}" for path in inside]
        mounts += [f"mount --rbind {stash}{top} {top}", f"umount -l {stash} && rmdir {stash}"]
    drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all")
    return (*in_private_mounts(*mounts), *drop)


def _closed_above(path: Path) -> Path | None:
    """The first folder on the way to `path` that others may not enter."""
    return next((folder for folder in reversed((path, *path.parents)) if not folder.stat().st_mode & 0o001), None)
