"""Whatever ends a build, nothing half-done is seen, nothing stays behind, and the next one makes the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from makers.builds import BASE, Room, assert_identical, only_dist
from makers.command import Stereo
from makers.processes import Process, alive, descendants, end, mentioning, mounts_below, settled
from makers.users import User
from stereo.paths import Cache, Checkout

pytestmark = pytest.mark.build

# What a build says when a phase begins, and up to how many seconds later it is killed.
PHASES = (
    ("Unpacking tools", 3.0),
    ("Installing packages", 8.0),
    ("Making the disk image", 8.0),
    ("Hashing and compressing", 2.0),
    ("Moving the dist into place", 0.1),
)
SEED = 20_260_131
SOON = 1.0
"""Seconds that the kernel may take to end what a dead process had started."""


class Running:
    """A build that goes on while the test looks at it."""

    def __init__(self, stereo: Stereo, room: Room, *words: str | Path) -> None:
        self._log = (room.folder / f"log-{time.monotonic_ns()}").open("w+")
        self.process = subprocess.Popen(
            stereo.argv(*room.build(*words)),
            cwd=room.folder,
            env=stereo.environment(room.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,
        )

    def said(self) -> str:
        """Its stderr so far."""
        return Path(self._log.name).read_text()

    def until(self, words: str, *, seconds: float = 900) -> None:
        """Wait until it says these words; fail if it ends before."""
        end = time.monotonic() + seconds
        while words not in self.said():
            assert self.process.poll() is None, f"ended before “{words}”:\n{self.said()}"
            assert time.monotonic() < end, f"no “{words}” after {seconds} s:\n{self.said()}"
            time.sleep(0.01)

    def signal(self, number: int, *, group: bool) -> list[Process]:
        """Send a signal and wait for the end. Returns what it had started."""
        started = descendants(self.process.pid)
        os.killpg(self.process.pid, number) if group else os.kill(self.process.pid, number)
        self.process.wait(timeout=60)
        return started


@contextmanager
def running(stereo: Stereo, room: Room, *words: str | Path) -> Iterator[Running]:
    """A build that does not outlive the test."""
    one = Running(stereo, room, *words)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()


def assert_ended(started: list[Process]) -> None:
    if not settled(lambda: alive(started), seconds=SOON):
        left = alive(started)
        end(left)
        raise AssertionError(f"still running: {left}")


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
    left += room.cache.frames.glob("*/*.part")
    assert left == []


def test_killed_at_random_in_every_phase_it_ends_in_the_same_bytes(
    stereo: Stereo, base: Path, cache: Cache, room: Room
) -> None:
    """One build, killed in one phase after the other, each time going on from what the dead one left."""
    moments = random.Random(SEED)
    room.lend(cache, "store")
    for number, (phase, longest) in enumerate(PHASES):
        with running(stereo, room, "--offline") as build:
            build.until(f" {phase}…")
            time.sleep(moments.uniform(0, longest))
            started = build.signal(signal.SIGKILL, group=number % 2 == 1)
            stereo.tell(f"killed with {len(started)} processes: {build.said().splitlines()[-1]}")
        assert_nothing_runs(room, started)
        assert_no_dist_or_a_whole_one(room, base)
    stereo(*room.build("--offline"), cwd=room.folder, env=room.environment)
    assert_identical(base, only_dist(room.out))
    assert_nothing_left(room)


@pytest.mark.parametrize(
    ("phase", "lent"),
    [("Installing packages", ("store", "tools")), ("Hashing and compressing", ("store", "tools", "images"))],
)
def test_ctrl_c_ends_a_build_at_once_with_one_clean_sentence(
    phase: str, lent: tuple[str, ...], stereo: Stereo, base: Path, cache: Cache, room: Room
) -> None:
    room.lend(cache, *lent)
    with running(stereo, room, "--offline") as build:
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
    with running(stereo, room, "--offline") as one, running(stereo, room, "--offline") as other:
        for build in (one, other):
            assert build.process.wait(timeout=1800) == 0, build.said()
    assert sum("Waiting for another build" in build.said() for build in (one, other)) == 1
    assert sum("Making the disk image…" in build.said() for build in (one, other)) == 1
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


def test_what_an_ordinary_user_started_in_the_sandbox_dies_with_its_parent(someone: User) -> None:
    """As root it is seen above; a user becomes another one inside, at which the kernel could forget about parents."""
    package = someone.home / "builder"
    shutil.copytree(Checkout.containing_this_package().root / "builder", package)
    someone.take(someone.home)
    program = (
        "from stereo.build.sandbox import enclosed; from stereo.process import run;"
        "run(enclosed(['sh', '-c', 'sleep 1000 & sleep 1000; true']))"
    )
    parent = subprocess.Popen(
        [*someone.prefix(), "python3", "-c", program],
        env={**os.environ, **someone.environment(), "PYTHONPATH": str(package)},
    )
    try:
        assert settled(lambda: sum(one.name == "sleep" for one in descendants(parent.pid)) != 2, seconds=30)
        started = descendants(parent.pid)
    finally:
        parent.kill()
        parent.wait()
    assert "unshare" in {one.name for one in started}
    assert_ended(started)
