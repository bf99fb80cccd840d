"""No network while mkosi runs, and with --offline none at all: what is built comes from the store alone."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from makers.builds import BASE, Room, copy_checkout
from makers.command import Stereo
from makers.processes import Process, descendants
from stereo.build.sandbox import enclosed
from stereo.inputs.lockfiles import LockFolder
from stereo.inputs.obtain import obtain
from stereo.inputs.sources import Sources
from stereo.inputs.store import Store
from stereo.model.architecture import Architecture
from stereo.model.lock import Lock
from stereo.paths import Cache
from stereo.process import run
from stereo.report import Silent

# Tries every way out that a program has, and tells what it found. Its arguments: a port and an abstract socket's name.
PROBE = """\
import json, socket, sys

def attempt(family, address, kind=socket.SOCK_STREAM):
    try:
        with socket.socket(family, kind) as one:
            one.settimeout(5)
            one.connect(address)
        return "connected"
    except OSError as error:
        return type(error).__name__ + ": " + str(error)

def resolve():
    try:
        return str(socket.getaddrinfo("example.org", 80))
    except OSError as error:
        return type(error).__name__ + ": " + str(error)

print("PROBE" + json.dumps({
    "interfaces": [name for _, name in socket.if_nameindex()],
    "loopback": attempt(socket.AF_INET, ("127.0.0.1", int(sys.argv[1]))),
    "abstract": attempt(socket.AF_UNIX, "\\0" + sys.argv[2]),
    "far": attempt(socket.AF_INET, ("192.0.2.1", 9), socket.SOCK_DGRAM),
    "name": resolve(),
}))
"""


@dataclass
class Listener:
    """Listens on the loopback and on an abstract socket outside of any sandbox, and counts who comes."""

    port: int
    name: str
    visitors: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    stopped = Event()
    name = f"stereo-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0{name}")
        unix.listen()
        found = Listener(tcp.getsockname()[1], name)

        def serve(server: socket.socket, kind: str) -> None:
            server.settimeout(0.1)
            while not stopped.is_set():
                with suppress(TimeoutError):
                    server.accept()[0].close()
                    found.visitors.append(kind)

        threads = [Thread(target=serve, args=pair) for pair in ((tcp, "loopback"), (unix, "abstract"))]
        for thread in threads:
            thread.start()
        yield found
        stopped.set()
        for thread in threads:
            thread.join()


def probed(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.partition("PROBE")[2].splitlines()[0])
    return found


def assert_shut_in(found: dict[str, Any]) -> None:
    assert found["interfaces"] == ["lo"]
    for way in ("loopback", "abstract", "far"):
        assert "Error" in found[way], f"{way}: {found[way]}"
    assert "gaierror" in found["name"]


def test_the_sandbox_has_an_own_empty_network(listener: Listener) -> None:
    words = [sys.executable, "-c", PROBE, str(listener.port), listener.name]
    outside = probed(run(words).stdout)
    assert (outside["loopback"], outside["abstract"]) == ("connected", "connected")
    inside = probed(run(enclosed(words)).stdout)
    assert_shut_in(inside)
    assert inside["loopback"] != outside["loopback"]


@pytest.fixture(scope="module")
def lent(cache: Cache, locks: Path, tools_tree: Path) -> Lock:
    """The lock of `base`, all of which the user's own store now has; and there are tools."""
    lock = LockFolder(locks).read(BASE, Architecture(platform.machine()))
    obtain(lock, Store(cache.store), Sources.from_host(), Silent())
    return lock


@dataclass
class Watched:
    """A real build that ends in a probe. `seen` are the processes below mkosi's sandbox, by network namespace."""

    stderr: str
    seen: dict[str, set[str]]
    interfaces: set[str]
    visitors: list[str]


@pytest.fixture(scope="module")
def watched(
    stereo: Stereo,
    lent: Lock,
    locks: Path,
    cache: Cache,
    listener: Listener,
    tmp_path_factory: pytest.TempPathFactory,
) -> Watched:
    """Packages installed and an image made by a checkout whose mkosi.finalize looks for a way out, and then fails.

    The store has everything, and the mirrors that are configured are the listener.
    """
    folder = tmp_path_factory.mktemp("watched")
    checkout = copy_checkout(folder / "checkout")
    finalize = checkout / "mkosi" / "image" / "mkosi.finalize"
    program = PROBE.replace("sys.argv[1]", repr(str(listener.port))).replace("sys.argv[2]", repr(listener.name))
    finalize.write_text(f"#!/usr/bin/python3\n{program}\nsys.exit(1)\n")
    room = Room(folder / "room", locks)
    room.lend(cache, "store", "tools")
    before = len(listener.visitors)
    nowhere = f"http://127.0.0.1:{listener.port}"
    sources = ("STEREO_MIRROR", "STEREO_SECURITY_MIRROR", "STEREO_SNAPSHOT", "NPM_CONFIG_REGISTRY", "PIP_INDEX_URL")
    started = Stereo(stereo.tell, checkout)
    with (folder / "log").open("w+") as log:
        build = subprocess.Popen(
            started.argv(*room.build("--offline")),
            cwd=folder,
            env=started.environment({**room.environment, **dict.fromkeys(sources, nowhere)}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            watch = Watched("", {}, set(), [])
            while build.poll() is None:
                look(build.pid, watch)
                time.sleep(0.02)
        finally:
            build.kill()
            build.wait()
        watch.stderr = (folder / "log").read_text()
    watch.visitors = listener.visitors[before:]
    return watch


def look(pid: int, watch: Watched) -> None:
    """Note the network of every process that mkosi is or has started."""
    running = descendants(pid)
    sandboxes = {one.pid for one in running if one.name == "unshare"}
    below: dict[int, Process] = {one.pid: one for pid in sandboxes for one in descendants(pid)}
    for one in below.values():
        if one.name in ("unshare", "newuidmap", "newgidmap"):  # still making the sandbox
            continue
        with suppress(OSError):  # it has ended meanwhile
            namespace = str(Path(f"/proc/{one.pid}/ns/net").readlink())
            rows = Path(f"/proc/{one.pid}/net/dev").read_text().splitlines()[2:]
            watch.seen.setdefault(namespace, set()).add(one.name)
            watch.interfaces |= {row.partition(":")[0].strip() for row in rows}


@pytest.mark.build
def test_every_process_of_mkosi_is_in_a_network_of_its_own(watched: Watched) -> None:
    ours = str(Path("/proc/self/ns/net").readlink())
    names = {name for found in watched.seen.values() for name in found}
    assert {"apt-get", "dpkg"} <= names, "the watch saw packages being installed"
    assert ours not in watched.seen
    assert watched.interfaces == {"lo"}


@pytest.mark.build
def test_a_script_that_mkosi_runs_finds_no_way_out(watched: Watched) -> None:
    assert "PROBE" in watched.stderr, watched.stderr
    assert_shut_in(probed(watched.stderr))


@pytest.mark.build
def test_offline_asks_no_source_of_anything(watched: Watched) -> None:
    assert "Installed packages" in watched.stderr
    assert watched.visitors == []


def test_what_the_store_lacks_offline_is_one_error_that_names_it_all(
    stereo: Stereo, lent: Lock, cache: Cache, room: Room
) -> None:
    """One package is missing, another damaged."""
    room.lend(cache, "tools")
    source, store = Store(cache.store), Store(room.cache.store)
    for deb in lent.image:
        kept = store.path_of(deb.sha256)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.hardlink_to(source.path_of(deb.sha256))
    missing, damaged = (deb for deb in lent.image if deb.name in ("busybox-static", "bash"))
    store.path_of(missing.sha256).unlink()
    spoilt = store.path_of(damaged.sha256)
    spoilt.unlink()  # and not written to: it is a link to the user's own
    spoilt.write_bytes(b"!<arch>\n")
    said = stereo(*room.build("--offline"), cwd=room.folder, env=room.environment, status=1).stderr
    for deb in (missing, damaged):
        assert deb.name in said
        assert deb.version in said
    assert "2 locked files cannot be obtained" in said
    assert "run once without --offline" in said
    assert "Traceback" not in said
    assert not room.out.exists()
