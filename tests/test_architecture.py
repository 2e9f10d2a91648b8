"""The dependency rules of docs/ARCHITECTURE.md, read off the syntax trees."""

import ast
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jitterprof"

ACQUISITION = frozenset({"load", "backends", "attach", "trace", "system", "inject"})
INTERPRETATION = frozenset({"analysis", "advice", "export"})
LINES_MAX = 600

#: Heavy or optional packages: the parts that may import each, inside functions and in one module.
LAZY = {
    "torch": {"backends"},
    "onnxruntime": {"backends"},
    "onnx": {"backends"},
    "bcc": {"trace"},
    "hdrh": {"analysis", "export", "store"},
    "pyarrow": {"store", "export"},
    "scipy": {"analysis"},
}
TERMINAL = {"typer": {"cli"}, "click": {"cli"}, "rich": {"cli", "export"}}
#: `jitterprof --help` must answer without any of these.
NOT_FOR_HELP = ("numpy", "pyarrow", "scipy", "torch", "onnxruntime", "onnx", "hdrh", "bcc")
HELP_CPU_SECONDS = 0.3


@dataclass(frozen=True)
class Import:
    """One import of `name` (absolute dotted path) at `line`; `lazy`: inside a function."""

    name: str
    line: int
    lazy: bool


@dataclass(frozen=True)
class Module:
    path: Path
    tree: ast.Module

    @property
    def dotted(self) -> str:
        parts = self.path.relative_to(PACKAGE.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def part(self) -> str:
        """The first name below the package: `load`, `store`, `errors` ..."""
        return self.path.relative_to(PACKAGE).with_suffix("").parts[0]

    def where(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"


def _is_main_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.dump(node.test) and "__main__" in ast.dump(node.test)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _walk(node: ast.AST, lazy: bool = False, main: bool = False) -> Iterator[tuple[ast.AST, bool, bool]]:
    """Every node with: is it inside a function, is it inside `if __name__ == "__main__"`."""
    for child in ast.iter_child_nodes(node):
        yield child, lazy, main
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _walk(child, lazy or inside, main or _is_main_block(child))


def _without_type_checking(tree: ast.Module) -> ast.Module:
    class Strip(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            return node.orelse if _is_type_checking(node) else self.generic_visit(node)

    return Strip().visit(tree)


@cache
def modules() -> tuple[Module, ...]:
    files = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in ("_probes",))
    return tuple(Module(path, ast.parse(path.read_text(), str(path))) for path in files)


def imports(module: Module, runtime_only: bool = False) -> Iterator[Import]:
    tree = _without_type_checking(ast.parse(module.path.read_text())) if runtime_only else module.tree
    package = module.dotted if module.path.name == "__init__.py" else module.dotted.rpartition(".")[0]
    for node, lazy, _main in _walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (Import(alias.name, node.lineno, lazy) for alias in names)
            case ast.ImportFrom(module=name, names=names, level=level):
                base = ".".join(package.split(".")[: len(package.split(".")) - level + 1]) if level else ""
                full = ".".join(filter(None, (base, name)))
                yield from (Import(f"{full}.{alias.name}", node.lineno, lazy) for alias in names)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__")):
                if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                    yield Import(node.args[0].value, node.lineno, lazy)


def internal(module: Module) -> Iterator[tuple[str, int]]:
    """The parts of jitterprof that a module imports, itself left out."""
    for found in imports(module):
        names = found.name.split(".")
        if names[0] == "jitterprof" and len(names) > 1 and names[1] != module.part:
            yield names[1], found.line


def test_there_is_something_to_check() -> None:
    parts = {module.part for module in modules()}
    assert {"model", "load", "backends", "trace", "system", "analysis", "export", "experiment", "cli"} <= parts


def test_acquisition_and_interpretation_never_meet() -> None:
    sides = ((ACQUISITION | {"experiment"}, INTERPRETATION), (INTERPRETATION, ACQUISITION | {"experiment"}))
    for these, those in sides:
        wrong = [
            f"{module.where(line)} imports {part}"
            for module in modules()
            if module.part in these
            for part, line in internal(module)
            if part in those
        ]
        assert not wrong, "\n".join(wrong)


def test_acquisition_parts_are_independent_of_each_other() -> None:
    wrong = [
        f"{module.where(line)}: {module.part} imports {part}"
        for module in modules()
        if module.part in ACQUISITION
        for part, line in internal(module)
        if part in ACQUISITION
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        ("units", {"errors"}),
        ("errors", set()),
        ("resources", {"errors"}),
        ("model", {"units", "errors"}),
        ("store", {"model", "units", "errors"}),
    ],
)
def test_foundations_import_only_foundations(part: str, allowed: set[str]) -> None:
    found = [module for module in modules() if module.part == part]
    assert found, f"no module {part}"
    wrong = [f"{m.where(line)} imports {name}" for m in found for name, line in internal(m) if name not in allowed]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", ["units", "errors", "resources"])
def test_the_bottom_is_standard_library_only(part: str) -> None:
    module = next(module for module in modules() if module.part == part)
    names = {found.name.split(".")[0] for found in imports(module)} - {"jitterprof"}
    assert names <= sys.stdlib_module_names


def test_nothing_imports_the_command_line() -> None:
    wrong = [
        module.where(line)
        for module in modules()
        if module.part not in ("cli", "__main__")
        for part, line in internal(module)
        if part == "cli"
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_below_the_command_line_wires() -> None:
    wrong = [
        f"{module.where(line)} imports experiment"
        for module in modules()
        if module.part in ACQUISITION | INTERPRETATION | {"store", "model"}
        for part, line in internal(module)
        if part == "experiment"
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", LAZY)
def test_heavy_packages_are_lazy_and_in_one_place(package: str) -> None:
    users: set[Path] = set()
    for module in modules():
        for found in imports(module, runtime_only=True):
            if found.name.split(".")[0] == package:
                assert module.part in LAZY[package], f"{module.where(found.line)}: {package} belongs in {LAZY[package]}"
                assert found.lazy, f"{module.where(found.line)}: import {package} inside the function that needs it"
                users.add(module.path)
    assert len(users) <= 1, f"{package} in more than one module: {sorted(str(path.name) for path in users)}"


@pytest.mark.parametrize("package", TERMINAL)
def test_terminal_packages_stay_at_the_edge(package: str) -> None:
    for module in modules():
        for found in imports(module, runtime_only=True):
            if found.name.split(".")[0] == package:
                assert module.part in TERMINAL[package], module.where(found.line)
                assert module.part == "cli" or module.path.name.startswith("console"), module.where(found.line)


def test_only_the_edge_prints() -> None:
    wrong = []
    for module in modules():
        if module.part == "cli" or (module.part == "export" and module.path.name.startswith("console")):
            continue
        for node, _lazy, _main in _walk(module.tree):
            match node:
                case ast.Call(func=ast.Name(id="print")):
                    wrong.append(module.where(node.lineno))
                case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr"):
                    wrong.append(module.where(node.lineno))
    assert not wrong, "prints below cli: " + ", ".join(wrong)


def test_nothing_below_the_command_line_exits() -> None:
    """The main block of a child process's own module may: there it is the top."""
    wrong = []
    for module in modules():
        if module.part in ("cli", "__main__"):
            continue
        for node, _lazy, main in _walk(module.tree):
            match node:
                case (
                    ast.Call(func=ast.Name(id="exit" | "quit"))
                    | ast.Attribute(value=ast.Name(id="sys"), attr="exit")
                    | ast.Attribute(value=ast.Name(id="os"), attr="_exit" | "abort")
                    | ast.Raise(exc=ast.Name(id="SystemExit") | ast.Call(func=ast.Name(id="SystemExit")))
                ) if not main:
                    wrong.append(module.where(node.lineno))
    assert not wrong, "exits below cli: " + ", ".join(wrong)


def test_modules_stay_readable() -> None:
    sizes = {module: len(module.path.read_text().splitlines()) for module in modules()}
    long = [f"{module.path.relative_to(ROOT)}: {lines}" for module, lines in sizes.items() if lines > LINES_MAX]
    assert not long, f"split at {LINES_MAX} lines: {', '.join(long)}"
    names = [str(module.path.relative_to(ROOT)) for module in modules()]
    assert not [name for name in names if Path(name).stem in ("utils", "util", "helpers", "common", "misc")]
    managers = [
        module.where(node.lineno)
        for module in modules()
        for node, _lazy, _main in _walk(module.tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith("Manager")
    ]
    assert not managers, managers


def test_workloads_never_import_each_other() -> None:
    files = sorted((ROOT / "workloads").glob("*.py"))
    names = {path.stem for path in files}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ImportFrom(level=level, module=name):
                    assert level == 0, f"{path.name}: loaded by path, a relative import cannot work"
                    assert name is not None and name.split(".")[0] not in names | {"workloads"}, path.name
                case ast.Import(names=aliases):
                    assert not {alias.name.split(".")[0] for alias in aliases} & (names | {"workloads"}), path.name


_HELP = """
import json, sys
sys.argv = ["jitterprof", "--help"]
from jitterprof.cli.app import main
try:
    code = main()
except SystemExit as done:
    code = done.code
print("\\n" + json.dumps({"code": code, "modules": sorted(sys.modules)}))
"""


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", _HELP], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["code"] in (0, None)
    assert "explain" in done.stdout
    loaded = set(NOT_FOR_HELP) & set(answer["modules"])
    assert not loaded, f"--help imports {sorted(loaded)}"


def test_help_is_quick() -> None:
    """CPU time, the least of several: what the neighbours do is not our business here."""
    command = [sys.executable, "-c", "from jitterprof.cli.app import main; main()", "--help"]

    def cpu_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_seconds() for _ in range(5)) <= HELP_CPU_SECONDS
