"""The build matrix with real workers: the bytes of a serial build, a killed worker's work done again, nothing twice."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from makers.builds import Room, assert_identical
from makers.jobs import Script
from makers.processes import SOON, descendants, mentioning, settled
from makers.running import Running, running
from stereo.paths import Cache

pytestmark = pytest.mark.build

MIXTAPES = ("opencode-mixtape", "base-dev")
IMAGE = "Making the disk image"


def log_of(room: Room) -> list[dict[str, Any]]:
    path = room.folder / "log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(matrix: Running, found: Callable[[], Any], *, seconds: float = 300) -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert matrix.process.poll() is None, matrix.said()
        assert time.monotonic() < end, matrix.said()
        time.sleep(0.05)
    return value


def test_many_workers_make_the_same_dists_though_one_is_killed_and_nothing_is_built_twice(
    dist: Path, dev_dist: Path, dev_key: Path, locks: Path, cache: Cache, room: Room, tell: Callable[[str], None]
) -> None:
    """The packages come from the fixtures' builds; the images are made here, each by a worker of its own."""
    room.lend(cache, "store", "tools", "trees", "frames")
    serial = {"opencode-mixtape": dist, "base-dev": dev_dist}
    version = dist.parent.name
    words: list[str | Path] = [
        *MIXTAPES,
        "--workers",
        "2",
        "--quick",
        "--version",
        version,
        "--offline",
        "--locks",
        locks,
    ]
    words += ["--output-dir", room.out, "--log", room.folder / "log"]
    surroundings = {**room.environment, "XDG_CONFIG_HOME": str(dev_key.parent)}

    def making() -> dict[str, int]:
        return {row["task"]: row["pid"] for row in log_of(room) if row["what"] == IMAGE}

    with running(Script(tell, "matrix"), *words, cwd=room.folder, env=surroundings) as matrix:
        pids = until(matrix, lambda: len(making()) == 2 and making())
        task, victim = next(iter(pids.items()))
        until(matrix, lambda: [one for one in descendants(victim) if "mkosi" in one.name or "python" in one.name])
        os.kill(victim, signal.SIGKILL)
        tell(f"killed the worker {victim} while it made {task[:14]}")
        assert matrix.process.wait(timeout=300) == 0, matrix.said()

    for name in MIXTAPES:
        assert_identical(serial[name], room.out / name / version / platform.machine())
    begun = Counter(row["task"] for row in log_of(room) if (row["what"], row["state"]) == (IMAGE, "begins"))
    done = Counter(row["task"] for row in log_of(room) if (row["what"], row["state"]) == (IMAGE, "done"))
    assert begun == {**dict.fromkeys(pids, 1), task: 2}
    assert done == dict.fromkeys(pids, 1)
    assert {row["task"].partition("-")[0] for row in log_of(room) if row["state"] == "done"} == {"image", "dist"}
    assert settled(lambda: list(mentioning(room.folder)), seconds=SOON)

    lines = len(log_of(room))
    Script(tell, "matrix")(*words, cwd=room.folder, env=surroundings)
    assert len(log_of(room)) == lines, "what was built is built again"
