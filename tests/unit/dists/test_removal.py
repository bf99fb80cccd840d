"""Removing from the store: whole or not at all, whenever it is killed, and never what somebody uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from makers.dying import deaths
from stereo.dists import Entry, entries
from stereo.dists.removal import finish, remove
from stereo.dists.use import in_use
from stereo.errors import StereoError
from stereo.holding import holding
from stereo.model.manifest import MANIFEST_FILE

FILES = (MANIFEST_FILE, "bzImage", "stereos.img")


def put(store: Path, version: str = "2026.01.31.0", name: str = "base") -> Entry:
    entry = Entry(name, version, "x86_64", store / name / version / "x86_64")
    entry.place.mkdir(parents=True)
    for file in FILES:
        (entry.place / file).write_text(file)
    (entry.place / "attestations").mkdir()
    return entry


def link(store: Path, target: Path, version: str = "dev-a") -> Entry:
    entry = Entry("base", version, "x86_64", store / "base" / version / "x86_64")
    entry.place.parent.mkdir(parents=True)
    entry.place.symlink_to(target)
    return entry


def test_a_dist_is_removed_with_its_empty_folders(tmp_path: Path) -> None:
    one, other = put(tmp_path), put(tmp_path, "2026.02.01.0")
    remove(one, tmp_path, {})
    assert entries(tmp_path) == (other,)
    assert not one.place.parent.exists()
    remove(other, tmp_path, {})
    assert [path.name for path in tmp_path.rglob("*")] == [".removed"]


def test_of_a_link_only_the_link_goes(tmp_path: Path) -> None:
    target = put(tmp_path / "out").place
    entry = link(tmp_path / "store", target)
    remove(entry, tmp_path / "store", {})
    assert entries(tmp_path / "store") == ()
    assert sorted(path.name for path in target.iterdir()) == sorted((*FILES, "attestations"))


@pytest.mark.parametrize("linked", [False, True])
def test_what_a_program_holds_stays(tmp_path: Path, linked: bool) -> None:
    entry = link(tmp_path, put(tmp_path / "out").place) if linked else put(tmp_path)
    with holding(entry.place):
        assert in_use(entry.place) == "a running program"
        with pytest.raises(StereoError, match="in use by a running program"):
            remove(entry, tmp_path, {})
    assert entry in entries(tmp_path)
    assert in_use(entry.place) is None
    remove(entry, tmp_path, {})
    assert not entry.place.is_symlink()


@pytest.mark.parametrize("linked", [False, True])
def test_what_a_sandbox_stands_on_stays(tmp_path: Path, linked: bool) -> None:
    entry = link(tmp_path, put(tmp_path / "out").place) if linked else put(tmp_path)
    with pytest.raises(StereoError, match="in use by sandbox work"):
        remove(entry, tmp_path, {entry.place.resolve(): "sandbox work"})
    assert entry in entries(tmp_path)


def test_removing_what_has_gone_is_no_fault(tmp_path: Path) -> None:
    entry = put(tmp_path)
    remove(entry, tmp_path, {})
    remove(entry, tmp_path, {})


def test_killed_at_any_step_it_leaves_all_or_nothing_and_the_next_finishes(tmp_path: Path) -> None:
    seen = set()
    for number in deaths(lambda: remove(put_if_new(tmp_path), tmp_path, {})):
        for entry in entries(tmp_path):
            seen.add("whole")
            assert sorted(path.name for path in entry.place.iterdir()) == sorted((*FILES, "attestations")), number
        left = list((tmp_path / ".removed").glob("*"))
        seen.update("half" for _ in left)
        assert finish(tmp_path) == len(left)
        assert not list((tmp_path / ".removed").glob("*"))
    assert seen == {"whole", "half"}


def put_if_new(store: Path) -> Entry:
    found = entries(store)
    return found[0] if found else put(store)


def test_what_another_is_just_removing_is_left_to_it(tmp_path: Path) -> None:
    aside = tmp_path / ".removed" / "1"
    aside.mkdir(parents=True)
    with holding(aside):
        assert finish(tmp_path) == 0
    assert finish(tmp_path) == 1
