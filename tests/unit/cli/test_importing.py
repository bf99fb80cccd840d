"""While a verb imports what it needs, nobody looks for garbage; afterwards it is as before."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress

import pytest

from stereo.cli import importing


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    was_enabled = gc.isenabled()
    yield
    gc.unfreeze()
    (gc.enable if was_enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_off_meanwhile_and_as_before_afterwards(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    with suppress(KeyboardInterrupt), importing():
        assert not gc.isenabled()
        raise KeyboardInterrupt
    assert gc.isenabled() is enabled


def test_what_was_imported_is_not_looked_at_again() -> None:
    gc.unfreeze()
    with importing():
        imported: list[list[object]] = [[]]
    assert not any(one is imported for one in gc.get_objects())
