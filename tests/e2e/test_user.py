"""An ordinary user with subordinate ids: what runs and lies under these ids goes away with the build, too."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from makers.builds import BASE, BASE_VERSION
from makers.processes import assert_ended, descendants, mentioning, settled
from makers.running import running
from makers.stranger import Stranger
from makers.users import User
from stereo.paths import Checkout


def owners(folder: Path) -> set[int]:
    """The users that own something below a folder, which may be changing."""
    found = set()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                found.add(Path(place, name).lstat().st_uid)
    return found


def test_what_was_started_in_the_sandbox_dies_with_its_parent(someone: User) -> None:
    """The user becomes another one inside, at which the kernel could forget whose death was to be followed."""
    package = someone.home / "builder"
    shutil.copytree(Checkout.containing_this_package().root / "builder", package)
    someone.take(package)
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


@pytest.mark.build
def test_what_a_killed_build_left_under_subordinate_ids_is_cleared_by_the_next(stranger: Stranger, locks: Path) -> None:
    out, work = stranger.folder("killed"), stranger.cache.work
    words = ("build", BASE, "--quick", "--version", BASE_VERSION, "--locks", stranger.copy(locks), "--output-dir", out)
    with running(stranger.stereo, *words, cwd=out, env=stranger.environment, umask=stranger.umask) as build:
        build.until(" Installing packages…")
        me = work.stat().st_uid
        assert settled(lambda: owners(work) <= {me}, seconds=300), "nothing belongs to a subordinate id"
        started = build.signal(signal.SIGKILL, group=False)
    assert_ended(started)
    assert owners(work) - {me}
    with running(stranger.stereo, *words, cwd=out, env=stranger.environment, umask=stranger.umask) as build:
        build.until(" Installing packages…")
        time.sleep(0.5)
        started = build.signal(signal.SIGINT, group=True)
        assert build.process.returncode == 130, build.said()
    assert_ended(started)
    assert settled(lambda: list(mentioning(work)), seconds=1)
    assert [path for path in work.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.build
def test_clean_leaves_a_user_nothing_to_ask_root_for(stranger: Stranger) -> None:
    cwd = stranger.folder("anywhere")
    stranger.stereo("clean", "--all", "--yes", cwd=cwd, env=stranger.environment, umask=stranger.umask)
    left = [path for path in stranger.cache.root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
