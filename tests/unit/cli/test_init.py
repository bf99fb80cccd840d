"""`stereo init`: a jcard.toml that can be used as it is, and none that is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stereo.cli.app import run as run_line
from stereo.model.jcard import parse_jcard

Capture = pytest.CaptureFixture[str]


def run(*words: str) -> int:
    """The verb with these words, and its exit status."""
    return run_line(["init", *words])


@pytest.fixture(autouse=True)
def _in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")


def test_it_writes_a_jcard_that_parses(capsys: Capture) -> None:
    assert run() == 0
    assert capsys.readouterr().out == "jcard.toml: written; look through it, then: stereo up\n"
    jcard = parse_jcard(Path("jcard.toml").read_bytes(), Path("jcard.toml"), {})
    assert (jcard.name, jcard.shared[0].host) == ("project", Path.cwd())


def test_a_second_time_it_leaves_alone_what_is_there(capsys: Capture) -> None:
    Path("jcard.toml").write_text("name = 'mine'\n")
    assert run() == 0
    assert capsys.readouterr().out == "jcard.toml: is there already\n"
    assert Path("jcard.toml").read_text() == "name = 'mine'\n"


def test_force_replaces_what_is_there() -> None:
    Path("jcard.toml").write_text("name = 'mine'\n")
    assert run("--force") == 0
    assert "harness" in Path("jcard.toml").read_text()
    assert [path.name for path in Path().iterdir()] == ["jcard.toml"]


def test_force_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    Path("jcard.toml").symlink_to(tmp_path / "precious")
    assert run() == 0
    assert Path("jcard.toml").is_symlink()
    assert run("--force") == 0
    assert not Path("jcard.toml").is_symlink()
    assert (tmp_path / "precious").read_text() == "precious"


def test_another_folder_is_made(capsys: Capture) -> None:
    assert run("one/two", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"jcard": str(Path.cwd() / "one/two/jcard.toml"), "written": True}
    assert Path("one/two/jcard.toml").is_file()


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("My Project", "my-project"),
        ("_x_", "x"),
        ("日本", "sandbox"),
        ("a" * 60, "a" * 41),
        (f"{'a' * 40}_b", "a" * 40),
    ],
)
def test_a_folder_that_is_no_name_gets_one(folder: str, name: str) -> None:
    assert run(folder) == 0
    file = Path(folder) / "jcard.toml"
    assert parse_jcard(file.read_bytes(), file, {}).name == name


@pytest.mark.parametrize("words", [(), ("--force",)])
def test_what_is_in_the_way_is_told(words: tuple[str, ...], capsys: Capture) -> None:
    Path("jcard.toml").mkdir()
    assert run(*words) == 1
    assert "is a folder" in capsys.readouterr().err


def test_a_file_is_no_folder_to_write_into() -> None:
    Path("file").write_text("")
    assert run("file") == 2
