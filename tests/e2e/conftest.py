"""Fixtures of the tests that use stereo from outside."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from makers.builds import Room, only_dist
from makers.command import Stereo
from makers.users import User, ordinary_user
from stereo.build import sandbox
from stereo.paths import Cache


@pytest.fixture(scope="session")
def someone() -> Iterator[User]:
    """An ordinary user; see `ordinary_user` for what becomes of it when we are not root."""
    with ordinary_user("stereo-test") as user:
        yield user


@pytest.fixture(scope="session")
def base(stereo: Stereo, locks: Path, cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dist of the smallest mixtape, built without disturbance into the user's own cache."""
    room = Room(tmp_path_factory.mktemp("base"), locks)
    stereo.tell("building base for the tests that build it again and again")
    stereo(*room.build(), cwd=room.folder, env={"STEREO_CACHE": str(cache.root)})
    return only_dist(room.out)


@pytest.fixture
def room(cache: Cache, locks: Path) -> Iterator[Room]:
    """On the file system of the cache, as parts of one cache are linked among each other."""
    with tempfile.TemporaryDirectory(prefix="stereo-test-", dir=cache.root.parent) as folder:
        yield Room(Path(folder), locks)
        sandbox.remove(Path(folder))
        Path(folder).mkdir()
