"""Pulling from Debian's docker-registry, by the real command line: killed at any moment, it finishes; and deltas."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from makers.node import file
from makers.published import NEW, OLD, make_release
from makers.registries import PASSWORD, USER, RealRegistry, real_registry
from stereo.check.verify import verify
from stereo.distribution.publish import publish
from stereo.paths import Checkout
from stereo.registry.reference import parse_reference
from stereo.registry.remote import open_remote
from stereo.report import Silent

ROOT = Checkout.containing_this_package().root
KILLS = 12
MOST_MEMORY = 150_000_000  # bytes
NOISE = 24 << 20


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("releases")
    noise = file(hashlib.shake_128(b"noise").digest(NOISE))
    return {version: make_release(folder / version, version, more={"/usr/noise": noise}) for version in (OLD, NEW)}


@pytest.fixture(scope="module")
def registry(
    test_tools: Path, releases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("registry"), test_tools) as running:
        for dist in releases.values():
            remote = open_remote(parse_reference(f"{running.host}/mixtapes/sample"))
            publish([dist], remote, floating=["latest"], report=Silent())
        yield running


@pytest.fixture
def reference(registry: RealRegistry) -> str:
    return f"{registry.host}/mixtapes/sample"


def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'builder'}:{ROOT / 'guest'}",
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "stereo", "pull", *words, "--json"]


def pull(tmp_path: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(command(*words), env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def timed_pull(tmp_path: Path, reference: str) -> float:
    began = time.monotonic()
    pull(tmp_path, reference, "--arch", "x86_64")
    return time.monotonic() - began


def place(tmp_path: Path, version: str) -> Path:
    return tmp_path / "data" / "stereo" / "dists" / "sample-mixtape" / version / "x86_64"


def same(pulled: Path, published: Path) -> bool:
    names = {path.name for path in published.iterdir()} - {"stereos.qcow2", "stereos.qcow2.zst"}
    assert {path.name for path in pulled.iterdir()} == {*names, "pulled.json"}
    return all((pulled / name).read_bytes() == (published / name).read_bytes() for name in names)


def test_a_pull_that_is_killed_again_and_again_finishes_and_shows_nothing_before(
    reference: str, releases: dict[str, Path], tmp_path: Path
) -> None:
    chance = random.Random(4)
    whole = min(timed_pull(tmp_path / name, f"{reference}:{OLD}") for name in ("measured", "again"))
    killed = 0
    for _ in range(KILLS):
        child = subprocess.Popen(
            command(f"{reference}:{OLD}", "--arch", "x86_64"),
            env=environment(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            child.wait(chance.uniform(0.2, 1) * whole)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            killed += 1
        child.wait()
        if place(tmp_path, OLD).exists():  # then all of it
            assert same(place(tmp_path, OLD), releases[OLD])
            break
    assert killed
    pull(tmp_path, f"{reference}:{OLD}", "--arch", "x86_64")
    assert same(place(tmp_path, OLD), releases[OLD])
    assert verify(place(tmp_path, OLD), Silent()).ok


def test_ctrl_c_leaves_what_came_for_the_next_time_and_says_so(
    reference: str, releases: dict[str, Path], tmp_path: Path
) -> None:
    for number in range(10):
        home = tmp_path / str(number)
        child = subprocess.Popen(
            command(f"{reference}:{OLD}", "--arch", "x86_64")[:-1],
            env=environment(home),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        pulls = home / "data" / "stereo" / "pulls"
        until = time.monotonic() + 30
        while time.monotonic() < until and child.poll() is None:
            if any(path.stat().st_size for path in pulls.glob("*/stereos.img.zst")):
                break
            time.sleep(0.001)
        child.send_signal(signal.SIGSTOP)  # it must not end before it is told to
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGCONT)
        _, said = child.communicate(timeout=30)
        if "goes on from there" in said:  # else all had come before we did
            break
    assert child.returncode == 130
    assert "goes on from there" in said
    assert "Traceback" not in said
    assert not place(home, OLD).exists()
    answer = pull(home, f"{reference}:{OLD}", "--arch", "x86_64")
    assert answer["bytes"]["reused"] > 0
    assert same(place(home, OLD), releases[OLD])


def test_an_update_asks_the_registry_for_little_and_is_the_same_bit_for_bit(
    reference: str, releases: dict[str, Path], tmp_path: Path
) -> None:
    full = pull(tmp_path, f"{reference}:{OLD}", "--arch", "x86_64")
    update = pull(tmp_path, reference, "--arch", "x86_64")
    assert same(place(tmp_path, NEW), releases[NEW])
    assert update["bytes"]["fetched"] < full["bytes"]["fetched"] / 20
    again = pull(tmp_path, reference, "--arch", "x86_64")
    assert again["was_there"]
    assert again["bytes"]["fetched"] == 0


def test_with_tls_and_a_password(test_tools: Path, releases: dict[str, Path], tmp_path: Path) -> None:
    with real_registry(tmp_path / "registry", test_tools, tls=True, auth=(USER, PASSWORD)) as running:
        environ = {**environment(tmp_path), **running.environment()}
        reference = f"{running.host}/mixtapes/sample:{OLD}"
        publishing = (
            "import sys; from pathlib import Path; from stereo.distribution.publish import publish;"
            "from stereo.registry.reference import parse_reference; from stereo.registry.remote import open_remote;"
            "from stereo.report import Silent;"
            "publish([Path(sys.argv[1])], open_remote(parse_reference(sys.argv[2])), report=Silent())"
        )
        subprocess.run(
            [sys.executable, "-c", publishing, releases[OLD], reference], env=environ, check=True, timeout=60
        )
        subprocess.run(
            command(reference, "--arch", "x86_64"), env=environ, check=True, timeout=60, stdout=subprocess.DEVNULL
        )
        assert same(place(tmp_path, OLD), releases[OLD])
        stranger = environ | {"DOCKER_CONFIG": str(tmp_path / "nothing")}
        refused = subprocess.run(
            command(reference, "-o", str(tmp_path / "other")), env=stranger, capture_output=True, text=True, timeout=60
        )
        assert refused.returncode == 1
        assert not (tmp_path / "other").exists()
        assert "Traceback" not in refused.stderr


def test_the_memory_of_a_pull_is_bounded(reference: str, tmp_path: Path) -> None:
    # The figure of wait4(2) is never less than the memory of who forked: so a small process does.
    measuring = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    )
    argv = [sys.executable, "-c", measuring, *command(f"{reference}:{OLD}", "--arch", "x86_64", "--format", "all")]
    done = subprocess.run(argv, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=True)
    assert 30_000_000 < int(done.stdout) < MOST_MEMORY
