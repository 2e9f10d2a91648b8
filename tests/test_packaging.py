"""What is shipped: sdist -> wheel -> a clean environment, where everything is found and nothing else came along."""

import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, as a distributor would, with the build backend that is installed already."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it; dependencies come from ours through a .pth file, nothing is downloaded."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, str(wheel)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # As an entry of a .pth ours is only a path: the editable install in it is not followed.
    site = next((home / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python: Path, *arguments: str, cwd: Path) -> str:
    done = subprocess.run([str(python), *arguments], check=False, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def checkout(folder: str, *patterns: str) -> set[str]:
    files = {path for pattern in patterns for path in (ROOT / folder).rglob(pattern)}
    return {str(path.relative_to(ROOT / folder)) for path in files if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_sources_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"jitterprof/{name}" for name in checkout("jitterprof", "*.py", "py.typed", "*.html", "*.j2")}
    expected |= {f"jitterprof/_probes/{name}" for name in checkout("probes", "*.c", "*.h")}
    expected |= {f"jitterprof/_workloads/{name}" for name in checkout("workloads", "*.py")}
    assert names == expected


def test_the_wheel_carries_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        licence = next(name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_probes_and_workloads_are_found_in_the_package(clean_python: Path, tmp_path: Path) -> None:
    code = (
        "import jitterprof; from jitterprof import resources as r; print(jitterprof.__file__)\n"
        "print(r.probes_dir()); print(r.workloads_dir())\n"
        "print(*sorted(p.name for p in r.probes_dir().glob('*.bpf.c')))\n"
        "print(*sorted(p.name for p in r.workloads_dir().glob('*.py')))"
    )
    where, probes, workloads, probe_files, workload_files = run(clean_python, "-c", code, cwd=tmp_path).splitlines()
    home = str(clean_python.parents[1])
    assert where.startswith(home) and probes.startswith(home) and workloads.startswith(home)
    assert set(probe_files.split()) == checkout("probes", "*.bpf.c") != set()
    assert set(workload_files.split()) == checkout("workloads", "*.py") != set()


def test_the_command_answers(clean_python: Path, tmp_path: Path) -> None:
    command = clean_python.with_name("jitterprof")
    done = subprocess.run([str(command), "--help"], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "explain" in done.stdout


def test_the_checkout_finds_its_own() -> None:
    code = "from jitterprof import resources as r; print(r.probes_dir()); print(r.workloads_dir())"
    assert run(Path(sys.executable), "-c", code, cwd=ROOT).split() == [str(ROOT / "probes"), str(ROOT / "workloads")]


def test_the_unrelated_bcc_is_never_asked_for() -> None:
    """The package of that name on PyPI is something else; the bindings come with the system."""
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [described["project"]["dependencies"], *described["project"]["optional-dependencies"].values()]
    names = {requirement for group in (*groups, *described["dependency-groups"].values()) for requirement in group}
    assert not [name for name in names if name.startswith("bcc")]
