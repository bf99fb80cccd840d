"""Fixtures of the tests that use stereo from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from makers.command import Stereo
from makers.stranger import Stranger, make_stranger
from makers.users import User, ordinary_user


@pytest.fixture(scope="session")
def someone() -> Iterator[User]:
    """An ordinary user; see `ordinary_user` for what becomes of it when we are not root."""
    with ordinary_user("stereo-test") as user:
        yield user


@pytest.fixture(scope="session")
def stranger(someone: User, stereo: Stereo) -> Stranger:
    """Somebody else, in whose surroundings as much as possible differs from ours."""
    return make_stranger(someone, stereo)
