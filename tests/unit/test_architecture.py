"""The table of docs/architecture.md, held against every import: what a package may know, and what is pure."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = ROOT / "builder" / "stereo"
GUEST = ROOT / "guest" / "stereos_guest"
MODULES = sorted(HOST.rglob("*.py"))


def table() -> dict[str, set[str]]:
    """By package, in the order of the table: the packages that it may import."""
    rows: dict[str, set[str]] = {}
    for line in (ROOT / "docs/architecture.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 3 and re.match(r"(`\w+`(, )?)+$", cells[0]):
            shared = next(iter(rows.values()), set())
            known = set(rows) if cells[2].startswith("everybody") else {*shared, *re.findall(r"`(\w+)`", cells[2])}
            names = re.findall(r"`(\w+)`", cells[0])
            for name in names:
                rows[name] = known | (set(names) if len(names) > 1 else {name})
    return rows


def package_of(path: Path) -> str:
    return path.relative_to(HOST).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_package_stands_in_the_table_and_the_table_names_no_other() -> None:
    there = {package_of(path) for path in MODULES} - {"__init__", "__main__"}
    assert set(table()) == there


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem != "__main__"], ids=label)
def test_a_package_imports_only_what_the_table_allows(path: Path) -> None:
    used = {name.split(".")[1] for name in imported(path) if name.startswith("stereo.")}
    allowed = table().get(package_of(path), set())
    assert used <= allowed, f"{label(path)} imports {sorted(used - allowed)}"


def test_rows_know_only_rows_above_them() -> None:
    above: set[str] = set()
    names = list(table())
    for name, known in table().items():
        shared = table()[names[0]] if name in table()[names[0]] else set()
        assert known - {name} <= above | shared, name
        above.add(name)


def test_only_the_launched_module_knows_the_command_line() -> None:
    knowing = {label(path) for path in MODULES for name in imported(path) if name.startswith("stereo.cli")}
    inside = {label(path) for path in MODULES if package_of(path) == "cli"}
    assert knowing - inside == {"builder/stereo/__main__.py"}


def test_only_the_command_line_prints() -> None:
    printing = re.compile(r"^\s*(print|click\.echo)\(|\binput\(", re.MULTILINE)
    assert [label(p) for p in MODULES if package_of(p) != "cli" and printing.search(p.read_text())] == []


@pytest.mark.parametrize("path", sorted(GUEST.rglob("*.py")), ids=label)
def test_the_guest_needs_nothing_but_the_standard_library(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path)}
    assert tops <= {*sys.stdlib_module_names, "stereos_guest"}


@pytest.mark.parametrize("path", [p for p in MODULES if package_of(p) in ("model", "plan")], ids=label)
def test_models_and_plans_start_nothing_and_ask_neither_clock_nor_environment(path: Path) -> None:
    forbidden = {"subprocess", "socket", "time", "random", "secrets", "tempfile", "platform", "shutil", "urllib"}
    assert not {name.split(".")[0] for name in imported(path)} & forbidden
    assert not re.search(r"\benviron\b|\bgetenv\b|\.(now|today|utcnow)\(", path.read_text())


@pytest.mark.parametrize("path", [p for p in MODULES if package_of(p) == "plan"], ids=label)
def test_plans_read_and_write_nothing(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"os", "io", "pathlib"}
    assert not re.search(r"\bopen\(|\.(read|write)_(text|bytes)\(", path.read_text())
