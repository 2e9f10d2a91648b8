"""The documentation keeps up: commands, options, causes, probes, workloads and exit codes; and every link resolves."""

import re
from pathlib import Path

import click
import pytest
import typer

from jitterprof.model.cause import CAUSE_IDS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
LICENCE = "SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0"
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_CODE = re.compile(r"```.*?```", re.DOTALL)


def pages() -> list[Path]:
    return [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]


def commands() -> list[tuple[str, click.Command]]:
    """Every command with its full name, groups left out."""
    from jitterprof.cli.app import app

    def walk(prefix: str, command: click.Command) -> list[tuple[str, click.Command]]:
        if not hasattr(command, "commands"):
            return [(prefix, command)]
        return [
            found
            for name, child in sorted(command.commands.items())
            if not child.hidden
            for found in walk(f"{prefix} {name}".strip(), child)
        ]

    return walk("", typer.main.get_command(app))


def section(text: str, title: str) -> str:
    """The part of a page under the heading `title` (backticks aside), up to the next heading of its level or above."""
    found = re.search(rf"^(#+) +`?{re.escape(title)}`?[^\n]*$", text, re.MULTILINE)
    assert found, f"no heading '{title}'"
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def test_every_command_and_option_is_documented() -> None:
    text = (REFERENCE / "commands.md").read_text()
    known = commands()
    assert len(known) >= 4
    missing = []
    for name, command in known:
        part = section(text, f"jitterprof {name}")
        for parameter in command.params:
            if getattr(parameter, "hidden", False):
                continue
            labels = (
                parameter.opts
                if parameter.param_type_name == "option"
                else [parameter.make_metavar_name()]
                if hasattr(parameter, "make_metavar_name")
                else [(parameter.metavar or parameter.name or "").upper()]
            )
            missing += [f"{name}: {label}" for label in labels if label != "--help" and label not in part]
    assert not missing, "undocumented: " + ", ".join(missing)


def test_no_command_is_documented_that_is_not_there() -> None:
    text = (REFERENCE / "commands.md").read_text()
    headed = set(re.findall(r"^#+ +`jitterprof ([a-z ]+)`", text, re.MULTILINE))
    assert headed <= {name for name, _ in commands()}


def test_no_option_is_documented_that_is_not_there() -> None:
    text = (REFERENCE / "commands.md").read_text()
    for name, command in commands():
        known = {opt for parameter in command.params for opt in (*parameter.opts, *parameter.secondary_opts)}
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", section(text, f"jitterprof {name}")))
        assert named - known <= {"--help"}, f"{name}: {sorted(named - known)}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    for target in _LINK.findall(_CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            slugs = {
                re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
                for title in _HEADING.findall(file.read_text())
            }
            assert anchor in slugs, f"{page.name}: {target}"


def test_every_page_can_be_reached() -> None:
    """From the README, following links."""
    seen: set[Path] = set()
    queue = [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        for target in _LINK.findall(page.read_text()):
            if not re.match(r"[a-z]+:|#", target):
                queue.append((page.parent / target.partition("#")[0]).resolve())
    lost = [str(page.relative_to(ROOT)) for page in pages() if page not in seen]
    assert not lost, f"no link leads to {lost}"


def _named_in_reference(name: str) -> bool:
    return any(f"`{name}`" in page.read_text() for page in REFERENCE.glob("*.md"))


def test_every_cause_has_its_entry() -> None:
    missing = [cause for cause in CAUSE_IDS if not _named_in_reference(cause)]
    assert not missing, missing


def test_every_probe_has_its_entry_and_licence() -> None:
    files = sorted((ROOT / "probes").rglob("*.[ch]"))
    probes = [path for path in files if path.name.endswith(".bpf.c")]
    assert probes
    unlicensed = [str(path.relative_to(ROOT)) for path in files if LICENCE not in path.read_text().partition("\n")[0]]
    assert not unlicensed, unlicensed
    missing = [path.name for path in probes if not _named_in_reference(path.name.removesuffix(".bpf.c"))]
    assert not missing, missing


def test_every_workload_has_its_entry() -> None:
    names = [path.stem.replace("_", "-") for path in (ROOT / "workloads").glob("[!_]*.py")]
    assert names
    missing = [name for name in names if not _named_in_reference(name)]
    assert not missing, missing


def test_exit_codes_are_the_ones_in_the_code() -> None:
    from jitterprof import errors

    text = (REFERENCE / "exit-codes.md").read_text()
    classes = [
        value for value in vars(errors).values() if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    for error in classes:
        if error.__module__ != errors.__name__:
            continue
        assert re.search(rf"^\| {error.exit_code} \|.*`{error.__name__}`", text, re.MULTILINE), error.__name__
