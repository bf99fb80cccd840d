"""dists: what it lists, what it removes, and what it refuses."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from stereo.cli.app import run
from stereo.dists import entries, store_folder
from stereo.holding import holding
from stereo.model.manifest import MANIFEST_FILE
from stereo.sandbox.state import Folder, Record

Capture = pytest.CaptureFixture[str]
VERSIONS = ("2026.01.29.0", "2026.01.30.0", "2026.01.31.0")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three releases of base in the store, and a link that leads nowhere."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    store = store_folder()
    for version in VERSIONS:
        place = store / "base" / version / "x86_64"
        place.mkdir(parents=True)
        (place / MANIFEST_FILE).touch()
        (place / "stereos.img").write_bytes(bytes(100_000))
        os.utime(place, (time.time() - 40 * 86400,) * 2)
    gone = store / "base" / "dev-a" / "x86_64"
    gone.parent.mkdir()
    gone.symlink_to(tmp_path / "gone\x1b")
    return store


def there(store: Path) -> set[str]:
    return {entry.version for entry in entries(store)}


def sandbox(dist: Path, name: str = "work") -> Folder:
    folder = Folder(name)
    folder.make()
    folder.write(Record(name, "/j", "base:1", str(dist), "0" * 64, created=0.0))
    return folder


def test_it_lists_what_each_costs_and_where_it_leads(store: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(["dists"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "VERSION", "ARCHITECTURE", "DISK", "APPARENT", "PLACE"]
    assert lines[1].split()[:5] == ["base", "2026.01.31.0", "x86_64", "102", "kB"]
    assert lines[4].split() == ["base", "dev-a", "x86_64", "-", "-", "->", f"{tmp_path}/gone\\x1b", "(gone)"]
    assert lines[5].endswith("in all; links cost nothing here")


def test_it_lists_one_mixtape_as_json(store: Path, tmp_path: Path, capsys: Capture) -> None:
    for words in (["dists", "--json"], ["dists", "list", "--json"], ["dists", "base", "--json"]):
        assert run(words) == 0
        found = {row["version"]: row for row in json.loads(capsys.readouterr().out)}
        assert set(found) == {*VERSIONS, "dev-a"}
        assert (found["dev-a"]["there"], found["dev-a"]["path"]) == (False, f"{tmp_path}/gone\x1b")
        assert found[VERSIONS[0]]["apparent"] == 100_000
    assert run(["dists", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_an_empty_store_is_no_fault(store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "other"))
    assert run(["dists"]) == 0
    assert run(["dists", "prune", "--yes"]) == 0


def test_help_is_that_of_the_group(capsys: Capture) -> None:
    assert run(["dists", "--help"]) == 0
    assert "prune" in capsys.readouterr().out


def test_prune_shows_and_removes_nothing_without_a_yes(store: Path, capsys: Capture) -> None:
    for words in (["--dry-run"], [], ["--dry-run", "--yes"]):
        assert run(["dists", "prune", "--keep", "1", *words]) == 0
        shown = capsys.readouterr().out
        assert "base 2026.01.29.0 x86_64: not among the newest 1" in shown
        assert "nothing was removed" in shown
    assert there(store) == {*VERSIONS, "dev-a"}


def test_prune_keeps_the_newest_and_says_what_went(store: Path, capsys: Capture) -> None:
    assert run(["dists", "prune", "--keep", "1", "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["removed"] is True
    assert told["bytes"] >= 200_000
    assert {row["version"]: row["reason"] for row in told["entries"]} == {
        "2026.01.29.0": "not among the newest 1",
        "2026.01.30.0": "not among the newest 1",
        "dev-a": "leads nowhere",
    }
    assert there(store) == {"2026.01.31.0"}
    assert run(["dists", "prune", "--keep", "1", "--yes"]) == 0
    assert capsys.readouterr().out.endswith("\nnothing was removed\n"), "what is there to say yes to?"


def test_prune_asks_on_a_terminal(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer in (False, True):
        monkeypatch.setattr("click.confirm", lambda *_, answer=answer, **__: answer)
        assert run(["dists", "prune"]) == 0
        assert ("dev-a" in there(store)) is not answer
        assert "leads nowhere" in capsys.readouterr().err


def test_prune_by_age_and_by_budget(store: Path) -> None:
    assert run(["dists", "prune", "--keep", "1", "--older-than", "52w", "--yes"]) == 0
    assert there(store) == set(VERSIONS)
    assert run(["dists", "prune", "--keep", "1", "--older-than", "30d", "--budget", "1GB", "--yes"]) == 0
    assert there(store) == {"2026.01.31.0"}


def test_a_budget_takes_no_more_than_needed(store: Path) -> None:
    assert run(["dists", "prune", "--keep", "1", "--budget", "250000", "--yes"]) == 0
    assert len(there(store)) == 2
    assert "2026.01.31.0" in there(store)


def test_prune_leaves_what_a_sandbox_or_a_program_uses(store: Path) -> None:
    sandbox(store / "base" / VERSIONS[0] / "x86_64")
    with holding(store / "base" / VERSIONS[1] / "x86_64"):
        assert run(["dists", "prune", "--keep", "0", "--yes"]) == 0
    assert there(store) == set(VERSIONS[:2])


def test_remove_takes_one_version_or_all(store: Path, capsys: Capture) -> None:
    assert run(["dists", "remove", "base:2026.01.30.0"]) == 0
    assert "nothing was removed; --yes removes it" in capsys.readouterr().out
    assert run(["dists", "remove", "base:2026.01.30.0", "--yes"]) == 0
    assert there(store) == {"2026.01.29.0", "2026.01.31.0", "dev-a"}
    assert run(["dists", "remove", "base", "--yes"]) == 0
    assert there(store) == set()


def test_remove_takes_one_architecture_of_a_version_when_that_is_said(store: Path, capsys: Capture) -> None:
    other = store / "base" / VERSIONS[0] / "aarch64"
    other.mkdir()
    (other / MANIFEST_FILE).touch()
    assert run(["dists", "remove", f"base:{VERSIONS[0]}", "--arch", "aarch64", "--yes"]) == 0
    assert not other.exists()
    assert there(store) == {*VERSIONS, "dev-a"}
    assert run(["dists", "remove", f"base:{VERSIONS[0]}", "--arch", "aarch64", "--yes"]) == 2
    assert "for aarch64" in capsys.readouterr().err


def test_remove_refuses_what_is_in_use_and_says_by_whom(store: Path, capsys: Capture) -> None:
    sandbox(store / "base" / VERSIONS[0] / "x86_64")
    assert run(["dists", "remove", f"base:{VERSIONS[0]}", "--yes"]) == 1
    assert "in use by sandbox work" in capsys.readouterr().err
    assert run(["dists", "remove", "base", "--yes"]) == 1
    assert there(store) == {*VERSIONS, "dev-a"}
    assert run(["dists"]) == 0
    assert "(in use by sandbox work)" in capsys.readouterr().out


def test_nothing_is_removed_while_it_is_unknown_what_a_sandbox_uses(store: Path, capsys: Capture) -> None:
    (sandbox(store / "base" / VERSIONS[0] / "x86_64").path / "sandbox.json").write_text("{")
    for words in (["prune", "--keep", "0", "--yes"], ["remove", "base", "--yes"]):
        assert run(["dists", *words]) == 1
        assert "stereo destroy work" in capsys.readouterr().err
    assert there(store) == {*VERSIONS, "dev-a"}
    assert run(["dists"]) == 0
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["remove", "nothing", "--yes"],
        ["remove", "base:1", "--yes"],
        ["remove", "../base", "--yes"],
        ["remove"],
        ["prune", "--keep", "-1"],
        ["prune", "--older-than", "soon"],
        ["prune", "--budget", "much"],
        ["prune", "--json"],
        ["remove", "base", "--json"],
        ["base", "more"],
    ],
)
def test_wrong_words_are_wrong_usage(store: Path, words: list[str]) -> None:
    assert run(["dists", *words]) == 2
    assert there(store) == {*VERSIONS, "dev-a"}
