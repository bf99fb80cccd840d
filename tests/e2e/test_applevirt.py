"""The backend applevirt from `up` to `destroy`, as on a Mac: see `makers.mac`, for the interpreter that runs all of it.

The vfkit is ours, see `makers.vfkit`; the guest is a real aarch64 one. What only Apple's framework can show is in
docs/applevirt.md, as a list for who has a Mac.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from makers.command import Stereo
from makers.mac import interpreter
from makers.processes import SOON, alive
from makers.sandboxes import Desk, argv_of, desk
from makers.vfkit.onpath import install

pytestmark = [pytest.mark.boot, pytest.mark.build]

NONE = """
[resources]
memory = "1GiB"
disk = "2GiB"

[network]
mode = "none"

[[shared]]
host = "./work"
guest = "/home/agent/work"
"""
NAT = NONE.replace("none", "nat")
OWN_ADDRESS = """
import socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    while sock.connect_ex(("192.168.64.1", 9)):  # an emulated machine under load has its address a little later
        time.sleep(0.5)
    print(sock.getsockname()[0])
"""
HOST = "host.stereo.internal"
GATED = NAT.replace('mode = "nat"', f'mode = "nat"\negress_allow = ["{HOST}:PORT"]')
READ_ONLY = NONE + "readonly = true\n"


@pytest.fixture(scope="module")
def mac(stereo: Stereo, arm: Path, tools_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk on a Mac where vfkit is found, and little else; its folder for temporary files is behind a link."""
    programs = tmp_path_factory.mktemp("programs")
    install(programs, tools_tree)
    for name in ("ssh", "ssh-keygen"):
        if there := shutil.which(name):
            (programs / name).symlink_to(there)
    python = interpreter(tmp_path_factory.mktemp("mac"))
    with desk(Stereo(stereo.tell, program=[str(python), "-P", "-s", "-m", "stereo"]), arm) as one:
        (one.root / "private").mkdir()
        (one.root / "tmp").symlink_to("private")
        (one.home / "work").mkdir()
        (one.home / "work/from-host").write_text("hello\n")
        one.variables |= {"PATH": str(programs), "TMPDIR": str(one.root / "tmp")}
        one.write(NONE)
        yield one


def inside(one: Desk, script: str) -> str:
    return one("exec", "sh", "-c", script).stdout


class _Reached(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"reached")

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def answering() -> Iterator[int]:
    """The port of a server on the host's loopback."""
    with HTTPServer(("127.0.0.1", 0), _Reached) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def left_of_vfkit() -> list[Path]:
    return [*Path("/tmp").glob("stereo-vm-*"), *Path("/tmp").glob("fake-vfkit-*")]


def test_what_vfkit_cannot_do_is_refused_before_anything_is_made(mac: Desk) -> None:
    mac.write(READ_ONLY)
    said = mac("up", status=1).stderr
    assert "opens every share for writing" in said
    assert "stereo cp" in said
    assert not mac.folder.exists()


def test_its_first_life(mac: Desk) -> None:
    mac.write(NONE)
    dist = hashlib.sha256((mac.dist / "stereos.img").read_bytes()).hexdigest()
    before = left_of_vfkit()
    mac("up", timeout=400)
    told = mac.status()
    assert (told["state"], told["backend"], told["network"]) == ("running", "applevirt", "none")

    # Without a network there is no card; the console is hvc0, and vsock the way in.
    assert (
        inside(mac, "ls /sys/class/net; grep -ls io.stereos /sys/class/virtio-ports/*/name; uname -m")
        == "lo\naarch64\n"
    )
    assert mac("exec", "-u", "root", "cat", "/sys/class/tty/console/active").stdout.split()[-1] == "hvc0"
    assert inside(mac, "id -un; exit 0") == "agent\n"

    # A share is the host's folder, for writing too; a file goes in and comes back by `cp`.
    assert inside(mac, "cd ~/work; cat from-host; echo more >from-guest; stat -c %U from-host") == "hello\nagent\n"
    assert (mac.home / "work/from-guest").read_text() == "more\n"
    (mac.home / "sent").write_bytes(os.urandom(3_000_000))
    mac("cp", "sent", ":sent")
    mac("cp", ":sent", "back")
    assert (mac.home / "back").read_bytes() == (mac.home / "sent").read_bytes()

    # What the guest writes goes to a disk of the sandbox's own, grown to what was asked for.
    inside(mac, "echo kept >~/kept; sync")
    disk = mac.folder / "disk.raw"
    assert disk.stat().st_size == 2 << 30
    assert int(mac("exec", "-u", "root", "cat", "/sys/class/block/vda/size").stdout) * 512 == 2 << 30
    assert hashlib.sha256((mac.dist / "stereos.img").read_bytes()).hexdigest() == dist

    assert json.loads(mac("down", "--json").stdout)["how"] == "it shut down"
    assert not {*left_of_vfkit()} - {*before}
    assert (mac.folder / "console.log").stat().st_size


def test_its_disk_stays_with_its_backend(mac: Desk, stereo: Stereo) -> None:
    environment = {**mac.variables, "PATH": os.environ["PATH"]}  # not as on a Mac, for there is no QEMU then
    said = stereo("up", "--backend", "qemu", cwd=mac.home, env=environment, status=1).stderr
    assert "was made by the backend applevirt" in said


def test_its_second_life_ends_with_vfkit(mac: Desk) -> None:
    mac.write(NAT)
    mac("up", timeout=400)
    assert inside(mac, "cat ~/kept") == "kept\n"
    assert mac("exec", "--timeout", "120", "/usr/bin/python3", "-c", OWN_ADDRESS).stdout.startswith("192.168.64.")
    assert inside(mac, "ls /sys/class/net | wc -l") == "2\n"
    family = mac.family()
    vfkit = next(one for one in family if b"makers.vfkit" in argv_of(one))
    os.kill(vfkit.pid, signal.SIGKILL)
    assert "vfkit was killed by signal 9" in mac.until("failed")["reason"]
    time.sleep(SOON)
    assert alive(family) == []


def test_its_third_life_is_behind_a_gate_without_a_card(mac: Desk) -> None:
    with answering() as allowed, answering() as other:
        mac.write(GATED.replace("PORT", str(allowed)))
        mac("up", timeout=400)
        assert inside(mac, "ls /sys/class/net") == "lo\n"
        assert inside(mac, f"curl -sS --max-time 30 http://{HOST}:{allowed}/") == "reached"
        assert "403" in inside(mac, f"curl -s --max-time 30 -o /dev/null -w '%{{http_code}}' http://{HOST}:{other}/")
        egress = mac.status()["egress"]
        assert egress["allowed"] > 0
        assert egress["refused"] > 0
    assert json.loads(mac("down", "--force", "--json").stdout)["how"] == "it was switched off"
    mac("destroy", "--yes")
    assert not mac.folder.exists()
