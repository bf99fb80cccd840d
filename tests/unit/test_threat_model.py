"""docs/security.md and docs/supply-chain.md promise nothing that no test holds: each row of their tables names tests,
and those exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("security.md", "supply-chain.md")
PROVEN = "proven by"
NOT_PROVEN = "not: "  # how a row says that nothing proves it; only faults of the original may have such rows
_REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:\[[^\]`]*\])?`")


class Row(NamedTuple):
    """A row of a table whose last column says what proves it."""

    place: str
    what: str
    proof: str
    may_be_open: bool


def rows(text: str, page: str = "") -> Iterator[Row]:
    """Every row of every such table of a page."""
    head: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not head:
            head = cells
        elif head[-1] == PROVEN and not set(line) <= set("|-: "):
            assert len(cells) == len(head), f"{page}:{number}: {len(cells)} cells under {len(head)} heads"
            yield Row(f"{page}:{number}", cells[0], cells[-1], head[0] == "fault")


@cache
def known_tests(path: Path) -> set[str]:
    """The names of the tests in a file."""
    found = ast.parse(path.read_text()).body
    return {each.name for each in found if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def problems(row: Row) -> list[str]:
    """What is wrong with the proof of a row."""
    if row.may_be_open and row.proof.startswith(NOT_PROVEN):
        return [] if len(row.proof) > 20 else ["says not why"]
    named = _REFERENCE.findall(row.proof)
    wrong = [] if named else ["names no test"]
    if rest := _REFERENCE.sub("", row.proof).replace(",", "").strip():
        wrong.append(f"has more than tests: {rest}")
    for path, name in named:
        file = ROOT / path
        if not name.startswith("test_") or not file.is_file() or name not in known_tests(file):
            wrong.append(f"there is no {path}::{name}")
    return wrong


CLAIMS = [row for page in PAGES for row in rows((ROOT / "docs" / page).read_text(), page)]


@pytest.mark.parametrize(("page", "claims", "faults"), [("security.md", 50, 20), ("supply-chain.md", 40, 5)])
def test_there_are_claims_and_faults(page: str, claims: int, faults: int) -> None:
    found = [row.may_be_open for row in CLAIMS if row.place.startswith(page)]
    assert found.count(False) > claims
    assert found.count(True) > faults


@pytest.mark.parametrize("row", CLAIMS, ids=lambda row: row.place)
def test_what_is_promised_is_proven(row: Row) -> None:
    assert problems(row) == [], row.what


def test_nothing_is_promised_twice() -> None:
    promised = [row.what for row in CLAIMS]
    assert len(promised) == len(set(promised))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("| claim | how | proven by |\n|---|---|---|\n| it is so | somehow | |", "names no test"),
        ("| claim | proven by |\n|---|---|\n| it is so | by faith |", "names no test"),
        ("| claim | proven by |\n|---|---|\n| it is so | not: nobody tried it yet |", "names no test"),
        ("| claim | proven by |\n|---|---|\n| it is so | `tests/unit/none.py::test_it` |", "there is no"),
        (
            "| claim | proven by |\n|---|---|\n| it is so | `tests/unit/test_threat_model.py::test_none` |",
            "there is no",
        ),
        ("| claim | proven by |\n|---|---|\n| it is so | `tests/unit/test_threat_model.py::rows` |", "there is no"),
        ("| fault | here | proven by |\n|---|---|---|\n| it was so | still | not: |", "names no test"),
    ],
)
def test_a_claim_without_proof_is_seen(text: str, expected: str) -> None:
    (row,) = rows(text)
    assert any(expected in problem for problem in problems(row))
