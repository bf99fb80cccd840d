"""The version of an image, and the revision it is named after."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from stereo.build.plans import source_date_epoch
from stereo.build.version import Revision, image_version, revision_of
from stereo.errors import UsageError

CLEAN = Revision("0123456789abcdef0123456789abcdef01234567", dirty=False)
DIRTY = Revision(CLEAN.commit, dirty=True)


def test_the_option_stands_above_the_environment() -> None:
    assert image_version("2026.01.31.0", {"STEREO_VERSION": "2025.01.01.0"}, lambda: CLEAN) == "2026.01.31.0"


def test_the_environment_stands_above_the_revision() -> None:
    assert image_version(None, {"STEREO_VERSION": "2024.02.29.12"}, lambda: CLEAN) == "2024.02.29.12"


@pytest.mark.parametrize(
    ("revision", "version"),
    [(CLEAN, "dev-0123456789ab"), (DIRTY, "dev-0123456789ab-dirty"), (None, "dev-unknown")],
)
def test_without_either_the_source_names_it(revision: Revision | None, version: str) -> None:
    assert image_version(None, {"STEREO_VERSION": ""}, lambda: revision) == version


def test_git_is_not_asked_when_a_version_is_given() -> None:
    def ask() -> Revision:
        raise AssertionError

    assert image_version("2026.01.31.0", {}, ask) == "2026.01.31.0"


@pytest.mark.parametrize(
    "text",
    ["", "1.0", "2026.1.31.0", "2026.02.30.0", "2026.13.01.0", "2026.01.31", "2026.01.31.01", "2026.01.31.0\n",
     "v2026.01.31.0", "dev-x", "0000.01.01.0", "२०२६.01.31.0", "../../etc", "2026.01.31.123456"],
)  # fmt: skip
def test_what_is_no_calendar_version_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        image_version(text, {}, lambda: CLEAN)
    assert caught.value.where == "--version"


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, timeout=30)


def test_a_revision_tells_whether_files_differ(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    tmp_path.joinpath("file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "m")
    clean = revision_of(tmp_path)
    assert clean is not None
    assert (len(clean.commit), clean.dirty) == (40, False)
    tmp_path.joinpath("new").write_text("untracked files are part of a build too")
    assert revision_of(tmp_path) == Revision(clean.commit, dirty=True)


def test_a_folder_inside_of_another_repository_has_no_revision_of_its_own(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "m")
    tmp_path.joinpath("unpacked").mkdir()
    assert revision_of(tmp_path / "unpacked") is None


def test_without_a_repository_there_is_no_revision(tmp_path: Path) -> None:
    assert revision_of(tmp_path) is None


def test_source_date_epoch_is_seconds() -> None:
    assert source_date_epoch("1767225600") == 1767225600
    assert source_date_epoch("") is None


@pytest.mark.parametrize("text", ["0", "-1", "1e9", " 1767225600", "4294967296", "9" * 50, "٣", "now"])
def test_a_time_that_no_disk_can_hold_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        source_date_epoch(text)
