"""A dist for another architecture is the same bytes, whoever makes it, and it is made without a trace on the host."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from makers.stranger import Stranger

pytestmark = pytest.mark.build


def test_a_stranger_rebuilds_the_dist_for_aarch64_and_it_is_identical(
    arm: Path, arm_locks: Path, stranger: Stranger
) -> None:
    """Another user, checkout path, time zone, locale, umask and host name, on one core, with an empty cache."""
    mine = stranger.folder("theirs")
    subprocess.run(["cp", "-a", "--reflink=auto", "--sparse=always", arm, mine / "dist"], check=True)
    stranger.user.take(mine)
    words = ("rebuild", mine / "dist", "--locks", stranger.copy(arm_locks), "--jobs", "1")
    done = stranger.stereo(*words, cwd=mine, env=stranger.environment, umask=stranger.umask)
    assert done.stdout == "identical\n"
    assert "Installing packages" in done.stderr
    assert "Making the disk image" in done.stderr
    stranger.give_back(mine)
