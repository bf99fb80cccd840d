"""sbom: what it prints of one dist and of two, and what its exit status says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stereo.cli.app import run
from stereo.sbom.documents import documents
from unit.sbom.support import make_bill

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def dists(tmp_path: Path) -> tuple[str, str]:
    """Two dists, the second without wheels and with a terminal's escape in a name."""
    bill = make_bill(tmp_path)
    rows = tuple(
        replace(row, name="thing\x1b[2J") if row.name == "thing" else row
        for row in bill.components
        if row.name != "Some.Tool"
    )
    other = replace(bill, version="2026.01.31.1", components=rows)
    for name, one in (("a", bill), ("b", other)):
        (tmp_path / name).mkdir()
        for file, data in documents(one).items():
            (tmp_path / name / file).write_bytes(data)
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_a_dist_is_shown_as_a_table(dists: tuple[str, str], capsys: Capture) -> None:
    assert run(["sbom", dists[0]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "sample 2026.01.31.0 (CycloneDX)",
        "10 components (4 debian, 1 npm, 4 other, 1 pypi), built with 3 tools",
    ]
    assert lines[2].startswith("licences: MIT (5), GPL-2.0-or-later (3), ")
    assert lines[4].split() == ["KIND", "NAME", "VERSION", "LICENCE"]
    assert ["npm", "@scope/tool", "1.2.3", "MIT"] in [line.split() for line in lines]


@pytest.mark.parametrize("form", ["cyclonedx", "spdx"])
def test_a_dist_is_told_to_programs(dists: tuple[str, str], capsys: Capture, form: str) -> None:
    assert run(["sbom", dists[0], "--format", form, "--json"]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert said.err == ""
    assert data["format"].lower() == form
    assert {row["purl"] for row in data["components"]} >= {"pkg:npm/%40scope/tool@1.2.3", "pkg:pypi/some-tool@1.5"}


def test_two_dists_are_compared_in_words(dists: tuple[str, str], capsys: Capture) -> None:
    assert run(["sbom", "--diff", *dists]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"other: thing {'f' * 64} is gone",
        f"other: thing\\x1b[2J {'f' * 64} is new",
        "pypi: Some.Tool 1.5 is gone",
        "from sample 2026.01.31.0 to sample 2026.01.31.1: 2 removed, 1 added",
    ]


def test_equal_software_is_no_difference(dists: tuple[str, str], capsys: Capture) -> None:
    assert run(["sbom", "--diff", dists[0], f"{dists[0]}/sbom.spdx.json"]) == 0
    assert capsys.readouterr().out.endswith(": the same software\n")
    assert run(["sbom", "--diff", dists[0], dists[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["identical"] is True


@pytest.mark.parametrize("words", [["--diff", "a"], ["a", "b"], ["--diff", "a", "b", "c"], [], ["nowhere"]])
def test_wrong_usage_exits_with_2(words: list[str], capsys: Capture) -> None:
    assert run(["sbom", *words]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_no_sbom_exits_with_1_and_a_sentence(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "x.json").write_text('{"bomFormat": "\x1b"}')
    assert run(["sbom", str(tmp_path / "x.json")]) == 1
    assert capsys.readouterr().err.startswith("stereo: ")
