"""The frame cache: what it gives back was put in under that name, and it can be kept small."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from stereo.assemble.frames import FrameCache, prune_frames
from stereo.assemble.worker import SEAL, write_frame
from stereo.errors import StereoError

NAME, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    cache = FrameCache(tmp_path / "frames", 19)
    write_frame(str(cache.path_of(NAME)), NAME, b"frame" * 1000)
    return cache


def test_a_frame_comes_back_with_its_digest(cache: FrameCache) -> None:
    out, digest = io.BytesIO(), hashlib.sha256()
    assert cache.has(NAME)
    assert cache.copy(NAME, out, digest) == 5000
    assert out.getvalue() == b"frame" * 1000
    assert digest.digest() == hashlib.sha256(b"frame" * 1000).digest()


def test_what_is_not_there_is_not_found(cache: FrameCache) -> None:
    assert not cache.has(OTHER)


@pytest.mark.parametrize("place", [0, 2500, 4999, 5000, 5000 + SEAL - 1])
def test_a_spoilt_frame_is_removed(cache: FrameCache, place: int) -> None:
    path = cache.path_of(NAME)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert not cache.has(NAME)
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 1, SEAL, SEAL + 1, 4000])
def test_a_frame_cut_short_is_removed(cache: FrameCache, size: int) -> None:
    os.truncate(cache.path_of(NAME), size)
    assert not cache.has(NAME)


def test_a_frame_under_another_name_is_removed(cache: FrameCache) -> None:
    cache.path_of(NAME).rename(cache.path_of(OTHER))
    assert not cache.has(OTHER)


def test_a_frame_that_vanished_is_an_error_with_a_hint(cache: FrameCache) -> None:
    with pytest.raises(StereoError, match="build again"):
        cache.copy(OTHER, io.BytesIO(), hashlib.sha256())


def test_levels_do_not_share_frames(cache: FrameCache, tmp_path: Path) -> None:
    assert not FrameCache(tmp_path / "frames", 3).has(NAME)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(OSError, match="directory"):
        write_frame(str(tmp_path / NAME), NAME, b"frame")
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """Four frames of 100 bytes; the first was not used for longest."""
    root = tmp_path / "four"
    cache = FrameCache(root, 19)
    for number in range(4):
        path = cache.path_of(str(number))
        write_frame(str(path), str(number), bytes(100 - SEAL))
        os.utime(path, (1000 + number, 1000 + number))
    return root


def held(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*/*"))


def test_pruning_removes_what_was_not_used_for_longest(four: Path) -> None:
    removed = prune_frames(four, 250)
    assert (removed.count, removed.size) == (2, 200)
    assert held(four) == ["2", "3"]


def test_a_frame_found_counts_as_used(four: Path) -> None:
    assert FrameCache(four, 19).has("0")
    prune_frames(four, 100)
    assert held(four) == ["0"]


def test_pruning_keeps_what_it_must(four: Path) -> None:
    prune_frames(four, 0, keep={"1"})
    assert held(four) == ["1"]


def test_within_the_limit_nothing_goes(four: Path) -> None:
    assert prune_frames(four, 400).count == 0


def test_what_a_killed_worker_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path, 1)
    dead, living = cache.path_of("dead.1.part"), cache.path_of("living.2.part")
    for path in (dead, living):
        path.write_bytes(b"half")
    os.utime(dead, (1, 1))
    prune_frames(tmp_path, 1 << 30)
    assert not dead.exists()
    assert living.exists()
