"""The build matrix with real workers: the bytes of a serial build, a killed worker's work done again, nothing twice."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from distributed.security import Security

from makers.builds import Room, assert_identical
from makers.jobs import Script
from makers.processes import SOON, descendants, mentioning, settled
from makers.running import Running, running
from stereo.paths import Cache
from stereo.process import die_with_parent

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


@pytest.fixture
def fleet(tmp_path: Path, cache: Cache) -> Iterator[tuple[str, list[str | Path]]]:
    """A scheduler and a worker that take certificates alone: their address, and the options of somebody who has one."""
    security = Security.temporary()  # type: ignore[no-untyped-call]
    files = [tmp_path / name for name in ("ca.pem", "cert.pem", "cert.key")]
    for file, text in zip(
        files, (security.tls_ca_file, security.tls_client_cert, security.tls_client_key), strict=True
    ):
        file.write_text(text)
    ours = [word for pair in zip(("--tls-ca", "--tls-cert", "--tls-key"), files, strict=True) for word in pair]
    theirs = ["--tls-ca-file", files[0], *ours[2:], "--host", "127.0.0.1", "--no-dashboard"]
    surroundings = {**Script(lambda line: None, "matrix").environment(), "STEREO_CACHE": str(cache.root)}
    log = tmp_path / "scheduler.log"
    with ExitStack() as stack:

        def dask(kind: str, *words: str | Path) -> subprocess.Popen[bytes]:
            stream = stack.enter_context((tmp_path / f"{kind}.log").open("wb"))
            argv = [sys.executable, "-P", "-s", "-m", f"distributed.cli.dask_{kind}", *map(str, words)]
            process = subprocess.Popen(argv, env=surroundings, stdout=stream, stderr=stream, preexec_fn=die_with_parent)
            stack.callback(process.wait, timeout=30)
            stack.callback(process.terminate)
            return process

        scheduler = dask("scheduler", *theirs, "--port", "0", "--protocol", "tls")
        end = time.monotonic() + 60
        while not (found := re.search(r"Scheduler at:\s+(tls://\S+)", log.read_text())):
            assert scheduler.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        dask("worker", found[1], *theirs, "--nthreads", "1")
        yield found[1], ["--scheduler", found[1], *ours]


def test_the_workers_of_a_scheduler_elsewhere_make_the_same_dist_and_only_for_who_has_a_certificate(
    base: Path, fleet: tuple[str, list[str | Path]], locks: Path, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    address, certified = fleet
    words: list[str | Path] = ["base", "--quick", "--version", base.parent.name, "--offline", "--locks", locks]
    words += ["--output-dir", tmp_path / "out"]
    Script(tell, "matrix")(*words, *certified, cwd=tmp_path)
    assert_identical(base, tmp_path / "out" / "base" / base.parent.name / platform.machine())
    plain = address.replace("tls://", "tcp://")
    refused = Script(tell, "matrix")(*words, "--scheduler", plain, cwd=tmp_path, status=1)
    assert "no scheduler answers" in refused.stderr


def test_what_cannot_be_built_is_told_once_with_what_is_missing(room: Room, tell: Callable[[str], None]) -> None:
    """Two mixtapes need the tools, which an empty store does not have."""
    words = ("base", "coder", "--version", "2026.01.31.0", "--offline", "--json", "--output-dir", room.out)
    done = Script(tell, "matrix")(*words, cwd=room.folder, env=room.environment, status=1)
    said = json.loads(done.stdout)
    assert [row["dist"] for row in said["dists"]] == [None, None]
    (fault,) = said["faults"]
    assert "is not in the store" in fault
    assert "run once without --offline" in done.stderr
