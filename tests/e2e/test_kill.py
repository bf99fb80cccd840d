"""Whatever ends a build, nothing half-done is seen, nothing stays behind, and the next one makes the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from makers.builds import BASE, Room, assert_identical, only_dist
from makers.command import Stereo
from makers.processes import SOON, Process, assert_ended, mentioning, mounts_below, settled
from makers.running import Running, running
from stereo.paths import Cache

pytestmark = pytest.mark.build

# What a build says when a phase begins, and between how many seconds after that it is killed.
PHASES = (
    ("Unpacking tools", 0.0, 3.0),
    ("Installing packages", 2.0, 9.0),
    ("Making the disk image", 0.0, 8.0),
    ("Hashing and compressing", 0.0, 1.0),
    ("Moving the dist into place", 0.0, 0.1),
)
SEED = 20_260_131


def building(stereo: Stereo, room: Room) -> AbstractContextManager[Running]:
    return running(stereo, *room.build("--offline"), cwd=room.folder, env=room.environment)


def assert_nothing_runs(room: Room, started: list[Process]) -> None:
    assert_ended(started)
    assert settled(lambda: list(mentioning(room.folder)), seconds=SOON), list(mentioning(room.folder))
    assert mounts_below(room.folder) == []


def assert_no_dist_or_a_whole_one(room: Room, whole: Path) -> None:
    """What has the name of a dist is one, whenever the build was killed."""
    for folder in room.out.glob(f"{BASE}/*/[!.]*"):
        assert_identical(whole, folder)


def assert_nothing_left(room: Room) -> None:
    """Locks of a workspace stay, as whoever removes one may take it from somebody who waits for it."""
    left = [path for path in room.cache.work.glob("*") if path.suffix != ".lock"]
    left += room.out.glob("*/*/.*.staging-*")
    assert left == []


def of_mkosi_in_tmp() -> set[Path]:
    """What mkosi unpacks for itself in the host's folder for temporary files unless it is told another."""
    return set(Path(tempfile.gettempdir()).glob("*/resources/mkosi-*"))


def test_killed_at_random_in_every_phase_it_ends_in_the_same_bytes(
    stereo: Stereo, base: Path, cache: Cache, room: Room
) -> None:
    """One build, killed in one phase after the other, each time going on from what the dead one left."""
    moments = random.Random(SEED)
    room.lend(cache, "store")
    before = of_mkosi_in_tmp()
    for number, (phase, soonest, latest) in enumerate(PHASES):
        with building(stereo, room) as build:
            build.until(f" {phase}…")
            time.sleep(moments.uniform(soonest, latest))
            started = build.signal(signal.SIGKILL, group=number % 2 == 1)
            stereo.tell(f"killed with {len(started)} processes: {build.said().splitlines()[-1]}")
        assert_nothing_runs(room, started)
        assert_no_dist_or_a_whole_one(room, base)
    stereo(*room.build("--offline"), cwd=room.folder, env=room.environment)
    assert_identical(base, only_dist(room.out))
    assert_nothing_left(room)
    assert of_mkosi_in_tmp() <= before


@pytest.mark.parametrize(
    ("phase", "lent"),
    [
        ("Unpacking tools", ("store",)),
        ("Installing packages", ("store", "tools")),
        ("Hashing and compressing", ("store", "tools", "images")),
    ],
    ids=["tools", "packages", "dist"],
)
def test_ctrl_c_ends_a_build_at_once_with_one_clean_sentence(
    phase: str, lent: tuple[str, ...], stereo: Stereo, base: Path, cache: Cache, room: Room
) -> None:
    room.lend(cache, *lent)
    with building(stereo, room) as build:
        build.until(f" {phase}…")
        time.sleep(0.2)
        began = time.monotonic()
        started = build.signal(signal.SIGINT, group=True)
        took = time.monotonic() - began
        said = build.said()
    assert build.process.returncode == 130, said
    assert said.splitlines()[-1] == "stereo: stopped"
    assert "Traceback" not in said
    assert took < 10
    assert_nothing_runs(room, started)
    assert not list(room.out.glob("*/*/[!.]*"))
    assert_nothing_left(room)


def test_two_builds_of_one_thing_at_once_both_succeed(stereo: Stereo, base: Path, cache: Cache, room: Room) -> None:
    room.lend(cache, "store", "tools", "trees")
    with building(stereo, room) as one, building(stereo, room) as other:
        for build in (one, other):
            assert build.process.wait(timeout=1800) == 0, build.said()
        said = one.said() + other.said()
    assert said.count("Making the disk image…") == 1, said
    assert_identical(base, only_dist(room.out))
    assert_nothing_left(room)


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system of its own at `place`; only root can mount one."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def resize(place: Path, mebibytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={mebibytes}m", place], check=True)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@needs_root
@pytest.mark.parametrize(
    ("sizes", "lent"),
    [((20, 200), ("store", "tools")), ((100, 300), ("store", "tools", "images"))],
    ids=["packages", "dist"],
)
def test_a_full_disk_is_one_clear_error_and_with_room_all_is_well(
    sizes: tuple[int, ...], lent: tuple[str, ...], stereo: Stereo, base: Path, cache: Cache, room: Room
) -> None:
    """Cache and dist on a disk of too few MiB: for copies of downloads, for the packages, for parts of the dist."""
    small = room.folder / "small"
    with small_disk(small):
        tight = Room(small / "room", room.locks)
        tight.lend(cache, *lent)
        for size in sizes:
            resize(small, size)
            said = stereo(*tight.build("--offline"), cwd=room.folder, env=tight.environment, status=1).stderr
            assert said.count("No space left on device") == 1
            assert said.splitlines()[-1].strip().startswith("hint: make room")
            assert not list(tight.out.glob("*/*/[!.]*"))
            assert_nothing_left(tight)
        resize(small, 4096)
        stereo(*tight.build("--offline"), cwd=room.folder, env=tight.environment)
        assert_identical(base, only_dist(tight.out))
