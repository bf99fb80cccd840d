"""The cache's budget: what was not used for longest goes first, and nothing that anybody holds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from makers.dying import deaths
from stereo.build import budget
from stereo.build.budget import VARIABLE, cache_limit, entries, leftovers, trim, use
from stereo.build.workspace import clear_dead
from stereo.errors import UsageError
from stereo.holding import holding
from stereo.paths import Cache
from stereo.report import Silent

ROOMS = ("images", "trees", "tools")


@pytest.fixture(autouse=True)
def _own_holds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test holds it gives back."""
    held: dict[Path, int] = {}
    monkeypatch.setattr(budget, "_held", held)
    yield
    for descriptor in held.values():
        os.close(descriptor)


def put(cache: Cache, room: str, name: str, *, used: float = 1000.0, size: int = 4096) -> Path:
    """Something of `size` bytes that was used at a time in seconds."""
    path: Path = getattr(cache, room) / name
    if room == "trees":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    else:
        path.mkdir(parents=True)
        (path / "file").write_bytes(b"x" * size)
    os.utime(path, (used, used))
    return path


def left(cache: Cache) -> set[str]:
    return {entry.path.name for entry in entries(cache)}


def test_under_the_limit_nothing_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    put(cache, "images", "one")
    assert trim(cache, 10**6, Silent()) == 0
    assert left(cache) == {"one"}
    assert not cache.work.exists()


def test_what_was_not_used_for_longest_goes_first_and_no_more_than_needed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for used, room in enumerate(ROOMS):
        put(cache, room, room, used=1000 - used, size=100_000)
    freed = trim(cache, 250_000, Silent())
    assert left(cache) == {"images", "trees"}
    assert freed >= 100_000
    assert [path for path in cache.work.iterdir() if path.suffix != ".lock"] == []


def test_using_something_makes_it_the_last_to_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for name in ("one", "other"):
        put(cache, "images", name)
    before = time.time()
    assert use(cache.images / "one")
    assert entries(cache)[-1].path.name == "one"
    assert entries(cache)[-1].used >= before - 1


def test_what_we_use_stays_whatever_the_limit(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    put(cache, "tools", "ours")
    put(cache, "tools", "old")
    assert use(cache.tools / "ours")
    trim(cache, 0, Silent())
    assert left(cache) == {"ours"}


def test_what_is_not_there_is_not_used_and_what_came_again_is(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert not use(cache.trees / "a.tar")
    path = put(cache, "trees", "a.tar")
    assert use(path)
    path.unlink()
    assert not use(path)
    put(cache, "trees", "a.tar")
    assert use(path)
    trim(cache, 0, Silent())
    assert left(cache) == {"a.tar"}


@settings(max_examples=30)
@given(
    things=st.lists(st.tuples(st.sampled_from(ROOMS), st.integers(0, 99), st.booleans()), max_size=8),
    limit=st.integers(0, 40) | st.just(1000),
)
def test_what_others_hold_stays_and_of_the_rest_the_latest(
    tmp_path_factory: pytest.TempPathFactory, things: list[tuple[str, int, bool]], limit: int
) -> None:
    cache = Cache(tmp_path_factory.mktemp("cache"))
    paths = [put(cache, room, str(number), used=used) for number, (room, used, _) in enumerate(things)]
    held = {path for path, (_, _, wanted) in zip(paths, things, strict=True) if wanted}
    before = entries(cache)
    with ExitStack() as stack:
        for path in held:
            stack.enter_context(holding(path))
        freed = trim(cache, limit * 1000, Silent())
    after = {entry.path for entry in entries(cache)}
    assert held <= after
    free = [entry for entry in before if entry.path not in held]
    gone = [entry for entry in free if entry.path not in after]
    assert gone == free[: len(gone)]
    assert freed == sum(entry.size for entry in gone)
    total = sum(entry.size for entry in before)
    assert total - freed <= limit * 1000 or len(gone) == len(free)
    assert not gone or total - freed + gone[-1].size > limit * 1000


def test_killed_at_any_step_nothing_half_removed_is_taken_for_whole(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for number in range(3):
        put(cache, "images", str(number))
    died = 0
    for _ in deaths(lambda: trim(cache, 0, Silent())):
        died += 1
        assert all((path / "file").is_file() for path in cache.images.iterdir())
    assert died > 3
    assert left(cache) == set()
    clear_dead(cache, Silent())
    assert [path for path in cache.work.iterdir() if path.suffix != ".lock"] == []


def test_leftovers_of_downloads_go_when_nobody_wrote_to_them_for_a_day(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    new = cache.store / "new"
    new.mkdir(parents=True)
    for name, age in (("fresh", 0), ("stale", 2 * 86400)):
        (new / name).touch()
        (new / f"{name}-folder").mkdir()
        (new / f"{name}-folder/file").touch()
        for path in (new / name, new / f"{name}-folder"):
            os.utime(path, (time.time() - age, time.time() - age))
    assert sorted(path.name for path in leftovers(cache)) == ["stale", "stale-folder"]
    trim(cache, 10**6, Silent())
    assert sorted(path.name for path in new.iterdir()) == ["fresh", "fresh-folder"]


@pytest.mark.parametrize(("text", "limit"), [("", 20 * 10**9), ("5GB", 5 * 10**9), ("1GiB", 1 << 30), ("0", 0)])
def test_the_limit_is_read_from_the_environment(text: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    assert cache_limit() == limit


@pytest.mark.parametrize("text", ["much", "-1", "5G", "9" * 30, "\x1b[2J"])
def test_a_limit_that_is_no_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(UsageError, match="is no size") as caught:
        cache_limit()
    assert caught.value.where == VARIABLE
    assert "\x1b" not in str(caught.value)
