"""A dist appears whole or not at all, one builder at a time, and what dead builds left goes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from stereo.assemble import place
from stereo.assemble.place import locked, point_result, publish, staging
from stereo.errors import StereoError
from stereo.report import Silent


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    return tmp_path / "dist" / "base" / "dev-1" / "x86_64"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, text: str) -> None:
    (folder / "mixtape.toml").write_text(text)


def test_a_first_dist_appears(dist: Path) -> None:
    with staging(dist, Silent()) as folder:
        fill(folder, "new")
        assert not dist.exists()
        publish(folder, dist)
    assert (dist / "mixtape.toml").read_text() == "new"
    assert names(dist.parent) == ["x86_64"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_an_older_dist_is_replaced_and_gone(dist: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_exchange:
        monkeypatch.setattr(place, "_exchange", lambda one, other: False)
    dist.mkdir(parents=True)
    fill(dist, "old")
    (dist / "surplus").touch()
    with staging(dist, Silent()) as folder:
        fill(folder, "new")
        publish(folder, dist)
    assert names(dist) == ["mixtape.toml"]
    assert (dist / "mixtape.toml").read_text() == "new"
    assert names(dist.parent) == ["x86_64"]


def test_the_exchange_is_one_step_here(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        fill(tmp_path / name, name)
    if not place._exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system has no RENAME_EXCHANGE")
    assert (tmp_path / "one" / "mixtape.toml").read_text() == "other"


def test_a_failure_leaves_the_older_dist_and_nothing_else(dist: Path) -> None:
    dist.mkdir(parents=True)
    fill(dist, "old")

    def give_up_halfway() -> None:
        with staging(dist, Silent()) as folder:
            fill(folder, "new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_up_halfway()
    assert (dist / "mixtape.toml").read_text() == "old"
    assert names(dist.parent) == ["x86_64"]


def test_what_a_dead_build_left_is_removed_and_the_neighbours_is_not(dist: Path) -> None:
    for name in (".x86_64.staging-dead", ".aarch64.staging-alive"):
        (dist.parent / name / "deep").mkdir(parents=True)
    with staging(dist, Silent()):
        pass
    assert names(dist.parent) == [".aarch64.staging-alive"]


def test_a_folder_for_everyone_to_read_whatever_the_umask(dist: Path) -> None:
    with staging(dist, Silent()) as folder:
        assert folder.stat().st_mode & 0o777 == 0o755


def test_a_file_in_the_way_is_refused(dist: Path) -> None:
    dist.parent.mkdir(parents=True)
    dist.write_text("something of the user's")
    with pytest.raises(StereoError, match="in the way"), staging(dist, Silent()) as folder:
        publish(folder, dist)
    assert dist.read_text() == "something of the user's"


def test_the_second_builder_waits_and_says_so(dist: Path) -> None:
    notes, order = [], []

    class Noted(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    def second() -> None:
        with staging(dist, Noted()):
            order.append("second")

    with staging(dist, Silent()):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.2)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert "waiting" in notes[0]


def test_result_points_at_the_last_dist(dist: Path, tmp_path: Path) -> None:
    other = dist.with_name("aarch64")
    for target in (dist, other):
        target.mkdir(parents=True)
        point_result(tmp_path / "result", target)
        assert (tmp_path / "result").resolve() == target
    assert not (tmp_path / "result").readlink().is_absolute()
    assert names(tmp_path) == ["dist", "result"]


def test_a_result_that_is_no_link_is_not_replaced(dist: Path, tmp_path: Path) -> None:
    dist.mkdir(parents=True)
    (tmp_path / "result").write_text("mine")
    with pytest.raises(StereoError, match="no symbolic link"):
        point_result(tmp_path / "result", dist)
    assert (tmp_path / "result").read_text() == "mine"


def test_a_result_that_leads_nowhere_is_replaced(dist: Path, tmp_path: Path) -> None:
    dist.mkdir(parents=True)
    (tmp_path / "result").symlink_to("gone")
    point_result(tmp_path / "result", dist)
    assert (tmp_path / "result").resolve() == dist


def test_the_lock_of_a_dist_is_held_by_one_at_a_time_and_then_gone(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(50):
            with locked(tmp_path / "x86_64", Silent()):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert names(tmp_path) == []
