"""What the command line says to input that makes no sense: what is wrong, what to do, and a fixed exit code."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from command import QUICK, Ended, jitterprof, one_after_another

#: Arguments of `run` after the workload, exit code, words of the answer.
NONSENSE: tuple[tuple[Sequence[str], int, Sequence[str]], ...] = (
    (("--backend", "tensorrt"), 2, ("tensorrt", "onnxruntime")),
    (("--device", "tpu"), 2, ("tpu", "cuda")),
    (("--probes", "dtrace"), 2, ("dtrace", "procfs")),
    (("--gc", "off"), 2, ("off", "frozen")),
    (("--cpus", "9999"), 2, ("CPU 9999", "online CPUs are")),
    (("--cpus", "3-1"), 2, ("3-1", "smaller CPU first")),
    (("--cpus", "two"), 2, ("'two'", "0-3")),
    (("--arrival", "burst:3"), 2, ("burst:3", "poisson:RATE")),
    (("--arrival", "poisson:1e12"), 2, ("1e12", "1,000,000")),
    (("--arrival", "poisson:-3"), 2, ("-3", "between")),
    (("--arrival", "constant:nan"), 2, ("nan", "between")),
    (("--arrival", "constant:fast"), 2, ("fast", "requests per second")),
    (("--arrival", "replay:missing.txt"), 2, ("missing.txt", "one timestamp per line")),
    (("--arrival", "poisson:1000000", "--duration", "10h"), 2, ("at most 50,000,000",)),
    (("--seed", "-1"), 2, ("--seed", "jitterprof run --help")),
    (("--keep", "some"), 2, ("--keep", "all, tail")),
    (("--keep", "tail", "--probes", "clocks"), 2, ("--keep tail", "no events")),
    (("--duration", "0s"), 2, ("--duration 0s",)),
    (("--duration", "soon"), 2, ("soon", "30s")),
    (("--warmup", "-1s"), 2, ("-1s",)),
    (("--requests", "0"), 2, ("--requests",)),
    (("--threads", "0"), 2, ("--threads",)),
    (("--workers", "100000"), 2, ("100000", "512")),
    (("--slo", "0ms"), 2, ("--slo",)),
    (("--dim", "batch"), 2, ("--dim batch", "NAME=N")),
    (("--dim", "batch=0"), 2, ("batch=0",)),
    (("--input-shape", "3xx4"), 2, ("3xx4",)),
    (("--set", "nice"), 2, ("KNOB=VALUE",)),
    (("--set", "nice=99"), 2, ("nice=99", "-20 to 19")),
    (("--set", "speed=fast"), 2, ("speed", "known:")),
    (("--set", "policy=FIFO:200"), 2, ("priority", "1 to 99")),
    (("--set", "slice=3s"), 2, ("slice=3s", "0.1 ms to 100 ms")),
    (("--set", "policy=FIFO:1", "--set", "timerslack=1us"), 2, ("timerslack", "FIFO")),
    (("--set", "cpu.max=50000"), 3, ("cpu.max", "host")),
    (("--set", "runtime.spinning=off", "--set", "runtime.omp_wait_policy=active"), 2, ("contradict",)),
    (("--frobnicate",), 2, ("--frobnicate", "--help")),
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[str, ...], Ended], Path]:
    """How each line of NONSENSE ended, and the folder they ran in."""
    folder = tmp_path_factory.mktemp("nonsense")
    ends = one_after_another([("run", "mlp", *row[0]) for row in NONSENSE], folder)
    return {tuple(row[0]): end for row, end in zip(NONSENSE, ends, strict=True)}, folder


@pytest.mark.parametrize(("arguments", "code", "words"), NONSENSE, ids=[" ".join(row[0]) for row in NONSENSE])
def test_nonsense_is_refused_before_anything_starts(
    answers: tuple[dict[tuple[str, ...], Ended], Path], arguments: Sequence[str], code: int, words: Sequence[str]
) -> None:
    ends, folder = answers
    ended = ends[tuple(arguments)]
    ended.refused(code, *words)
    assert not ended.out
    assert not list(folder.iterdir())


NO_WORKLOADS = (
    ("nosuch", ("nosuch", "known: convnet")),
    ("missing.onnx", ("missing.onnx", "check the path")),
    ("empty.onnx", ("empty.onnx is empty",)),
    ("folder.onnx", ("is a directory",)),
    ("model.py", ("model.py:build",)),
    ("model.py:1st", ("1st", "model.py:build")),
    ("missing.py:build", ("missing.py",)),
)


def test_a_workload_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "model.py").write_text("def build(): ...\n")
    ends = one_after_another([("run", workload) for workload, _ in NO_WORKLOADS], tmp_path)
    for (_, words), ended in zip(NO_WORKLOADS, ends, strict=True):
        ended.refused(2, *words)
    assert not list(tmp_path.glob("*.jprof"))


def test_requests_that_fail_are_data_but_no_measurement(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import threading\n"
        "def build():\n"
        "    served = []\n"
        "    def infer(index=0):\n"
        "        if threading.current_thread() is not threading.main_thread():\n"
        "            served.append(index)\n"
        "            if len(served) > 1:\n"
        "                raise RuntimeError('only once')\n"
        "    return infer\n"
    )
    ended = jitterprof("run", "mine.py:build", *QUICK, "--probes", "none", "--out", "a.jprof", folder=tmp_path)
    assert ended.code == 4
    assert ended.said.splitlines()[-2] == "jitterprof: every request failed: RuntimeError: only once"
    assert "requests failed and are left out" in ended.out
    again = jitterprof("explain", "a.jprof", "--json", folder=tmp_path)
    assert again.code == 0
    assert again.document["latency"]["count"] == 0
    assert any("only once" in line or "failed" in line for line in again.document["health"]["caveats"])


def _onnx(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [result])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def _torchscript(path: Path) -> None:
    import torch

    torch.jit.script(torch.nn.Linear(4, 2)).save(str(path))


@pytest.mark.parametrize(
    ("workload", "arguments", "code", "words"),
    [
        ("garbage.onnx", (), 2, ("garbage.onnx", "Protobuf")),
        ("torn.onnx", (), 2, ("torn.onnx",)),
        ("good.onnx", ("--dim", "nosuch=3"), 2, ("nosuch", "batch")),
        ("good.onnx", ("--backend", "torch"), 2, ("torch", "--backend onnxruntime")),
        ("good.onnx", ("--input-shape", "1x4"), 2, ("--input-shape", "--dim")),
        ("linear.ts", ("--input-shape", "1x5"), 2, ("1x5",)),
        ("linear.ts", (), 2, ("--input-shape",)),
        ("garbage.ts", ("--input-shape", "1x4"), 2, ("garbage.ts",)),
        ("mine.py:nosuch", (), 2, ("nosuch", "mine.py")),
        ("mine.py:broken", (), 2, ("broken", "ValueError", "no luck")),
        ("mine.py:nothing", (), 2, ("nothing",)),
        ("mine.py:fails", (), 4, ("every request failed", "no luck either")),
        ("mine.py:exits", (), 4, ("ended",)),
        ("mlp", ("--device", "cuda"), 3, ("cuda",)),
    ],
)
def test_a_model_that_does_not_run(
    tmp_path: Path, workload: str, arguments: Sequence[str], code: int, words: Sequence[str]
) -> None:
    name = workload.split(":")[0]
    if name in ("good.onnx", "torn.onnx"):
        _onnx(tmp_path / name)
        if name == "torn.onnx":
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    elif name == "linear.ts":
        _torchscript(tmp_path / name)
    elif name.startswith("garbage"):
        (tmp_path / name).write_bytes(b"not a model")
    (tmp_path / "mine.py").write_text(
        "import os, threading\n"
        "def broken():\n    raise ValueError('no luck')\n"
        "def nothing():\n    return None\n"
        "def fails():\n"
        "    def infer(index=0):\n"
        "        if threading.current_thread() is not threading.main_thread():\n"
        "            raise RuntimeError('no luck either')\n"
        "    return infer\n"
        "def exits():\n    os._exit(3)\n"
    )
    ended = jitterprof("run", workload, *QUICK, "--probes", "none", *arguments, folder=tmp_path)
    ended.refused(code, *words)
    assert not list(tmp_path.glob("*.jprof")), "a run directory that holds nothing was left behind"


def test_a_replay_file_of_garbage(tmp_path: Path) -> None:
    contents = (b"a b c\n", b"\xff\xfe\x00", b"", b"2\n1\n", b"# unit: weeks\n1\n")
    for number, content in enumerate(contents):
        (tmp_path / f"times{number}").write_bytes(content)
    lines = [("run", "mlp", "--arrival", f"replay:times{number}") for number in range(len(contents))]
    for number, ended in enumerate(one_after_another(lines, tmp_path)):
        ended.refused(2, f"times{number}")


def test_an_out_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full.jprof").mkdir()
    (tmp_path / "full.jprof" / "notes").write_text("mine")
    (tmp_path / "run.jprof").mkdir()
    (tmp_path / "run.jprof" / "manifest.json").write_text("{}")
    taken = {
        "file": "not a directory",
        "file/below": "cannot create",
        "full.jprof": "not empty",
        "run.jprof": "already holds a run",
    }
    ends = one_after_another([("run", "mlp", "--out", name) for name in taken], tmp_path)
    for words, ended in zip(taken.values(), ends, strict=True):
        ended.refused(2, words, "--out")
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "full.jprof").iterdir()] == ["notes"]
    assert [path.name for path in (tmp_path / "run.jprof").iterdir()] == ["manifest.json"]


def test_what_is_no_run_cannot_be_explained(tmp_path: Path) -> None:
    (tmp_path / "empty.jprof").mkdir()
    (tmp_path / "foreign.jprof").mkdir()
    (tmp_path / "foreign.jprof" / "manifest.json").write_text('{"name": "an app"}')
    (tmp_path / "newer.jprof").mkdir()
    (tmp_path / "newer.jprof" / "manifest.json").write_text(json.dumps({"schema": 99, "spec": {}, "state": "complete"}))
    (tmp_path / "torn.jprof").mkdir()
    (tmp_path / "torn.jprof" / "manifest.json").write_text('{"schema": 1, "sp')
    (tmp_path / "file").touch()
    cases = (
        ("missing.jprof", ("missing.jprof", "--out DIR")),
        ("empty.jprof", ("manifest.json",)),
        ("foreign.jprof", ("not written by jitterprof",)),
        ("newer.jprof", ("schema 99", "upgrade")),
        ("torn.jprof", ("damaged", "record it again")),
        ("file", ("not a jitterprof run",)),
    )
    ends = one_after_another([("explain", name) for name, _ in cases], tmp_path)
    for (_, words), ended in zip(cases, ends, strict=True):
        ended.refused(1, *words)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("explain", "missing.jprof", "--json"), 1),
        (("run", "nosuch", "--json"), 2),
        (("run", "--json"), 2),
        (("run", "mlp", "--json", "--seed", "-1"), 2),
        (("run", "mlp", "--json", "--set", "cpu.max=50000"), 3),
    ],
)
def test_a_failure_is_a_json_document_too(tmp_path: Path, arguments: Sequence[str], code: int) -> None:
    ended = jitterprof(*arguments, folder=tmp_path)
    ended.refused(code)
    assert list(ended.document) == ["error"]
    assert ended.document["error"]["exit_code"] == code
    assert f"jitterprof: {ended.document['error']['message']}" in ended.said.splitlines()
    assert ended.document["error"]["hint"]


def test_no_command_at_all_shows_the_help(tmp_path: Path) -> None:
    ended = jitterprof(folder=tmp_path)
    assert ended.code == 2
    assert "Usage: jitterprof" in ended.said
    assert "explain" in ended.said
