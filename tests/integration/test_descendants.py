"""What a workload starts does not outlive its session."""

from pathlib import Path

from command import QUICK, jitterprof

FORKS = """
import multiprocessing

def child(end):
    while True:
        end.send(end.recv())

def build():
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    multiprocessing.get_context("fork").Process(target=child, args=(theirs,)).start()
    def request():
        ours.send(1)
        ours.recv()
    return request
"""


def test_a_forked_child_is_ended_with_the_session(tmp_path: Path) -> None:
    (tmp_path / "forks.py").write_text(FORKS)
    # `jitterprof` itself asserts that no process of the run is left.
    ended = jitterprof("run", "forks.py:build", *QUICK, "--probes", "none", "--out", "a.jprof", folder=tmp_path)
    assert ended.code == 0, ended.said
