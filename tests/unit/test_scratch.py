"""Folders for a while: private, gone at the end, and those of the dead are swept up by the next."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from makers.dying import deaths
from stereo.scratch import left_behind, scratch_folder


def test_it_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    with scratch_folder("it-", tmp_path / "parent") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "file").touch()
    assert not list((tmp_path / "parent").iterdir())


def test_what_a_dead_owner_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    (tmp_path / "it-dead").mkdir()
    (tmp_path / "it-dead/file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    (tmp_path / "it-link").symlink_to(tmp_path / "other")
    with scratch_folder("it-", tmp_path) as living:
        (living / "file").touch()
        with scratch_folder("it-", tmp_path):
            assert (living / "file").exists()
            assert not (tmp_path / "it-dead").exists()
    assert (tmp_path / "other/file").exists()


def test_what_was_left_behind_is_held_while_somebody_looks_at_it(tmp_path: Path) -> None:
    for name in ("it-one", "it-empty", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "it-one/file").touch()
    with scratch_folder("it-", tmp_path / "elsewhere"):
        found = left_behind("it-", tmp_path)
        assert next(found) == tmp_path / "it-one"
        with scratch_folder("it-", tmp_path):
            assert (tmp_path / "it-one/file").exists()
        assert list(found) == []
        assert list(left_behind("it-", tmp_path)) == [tmp_path / "it-one"]
        assert list(left_behind("it-", tmp_path / "elsewhere")) == []


def test_killed_while_it_works_the_next_sweeps(tmp_path: Path) -> None:
    def work() -> None:
        with scratch_folder("it-", tmp_path) as folder:
            (folder / "file").touch()
            (folder / "more").mkdir()

    died = sum(1 for _ in deaths(work))
    assert died >= 3
    with scratch_folder("it-", tmp_path):
        pass
    assert [path for path in tmp_path.iterdir() if any(path.iterdir())] == []


def test_without_a_parent_it_is_among_the_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder("it-") as folder:
        assert folder.parent == tmp_path
