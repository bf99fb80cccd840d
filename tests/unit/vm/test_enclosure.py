"""The enclosure for real, around a program that tells what it finds in there; as root and as an ordinary user."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from makers.users import User, ordinary_user
from stereo.errors import StereoError
from stereo.vm import enclosure, enclosure_main
from stereo.vm.child import Child
from stereo.vm.enclosure import Job, ports_of, receive_gate, refusal, uid_for
from stereo.vm.machine import Bridged, Gated, Nat
from stereo.vm.programs import host_folders

PYTHON = "/usr/bin/python3"
TELL = """
import ctypes, json, os, resource, socket
death = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(death), 0, 0, 0)
told = {"ids": [*os.getresuid(), *os.getresgid()], "groups": os.getgroups(), "root": sorted(os.listdir("/")),
        "interfaces": [name for _, name in socket.if_nameindex()], "death": death.value,
        "privileges": ctypes.CDLL(None).prctl(39, 0, 0, 0, 0), "cores": resource.getrlimit(resource.RLIMIT_CORE)}
for name in ("lent", "told"):
    try: told[name] = open(f"/{name}").read()
    except OSError as error: told[name] = error.strerror
for way in ("/new", "/usr/new"):
    try: open(way, "w")
    except OSError as error: told[way] = error.strerror
for address in ("127.0.0.1", "192.0.2.1"):
    try: socket.create_connection((address, 1), 2)
    except OSError as error: told[address] = error.strerror
try: os.setuid(0); told["root again"] = True
except OSError: pass
try: socket.socket(socket.AF_PACKET, socket.SOCK_RAW); told["raw socket"] = True
except OSError: pass
print(json.dumps(told))
"""
# The enclosure counts on being started by who said so in the job: this becomes it.
BECOME = """
import json, os, sys
job = json.loads(sys.argv[1])
job["parent"] = os.getppid()
os.execv(sys.executable, [sys.executable, "-I", "-S", sys.argv[2], json.dumps(job), *sys.argv[3:]])
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not Path(PYTHON).exists(), reason="needs Linux and a Python")


@pytest.fixture(scope="module")
def someone() -> Iterator[User]:
    with ordinary_user("stereo-enclosed") as user:
        yield user


def tell(job: Job, *, user: User | None = None, descriptors: tuple[int, ...] = ()) -> dict[str, Any]:
    program = Path(enclosure_main.__file__).read_text()
    place = Path(job.root).parent / "main.py"
    place.write_text(program)
    place.chmod(0o644)
    words = json.dumps({**json.loads(job.prefix()[-1])})
    argv = [PYTHON, "-c", BECOME, words, str(place), PYTHON, "-I", "-c", TELL]
    prefix = user.prefix() if user else []
    done = subprocess.run(
        [*prefix, *argv], capture_output=True, text=True, check=False, pass_fds=descriptors, timeout=30
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def room(folder: Path) -> str:
    folder.chmod(0o755)
    root = folder / "root"
    root.mkdir()
    return str(root)


def check_shut_in(told: dict[str, Any]) -> None:
    assert told["interfaces"] == ["lo"]
    assert set(told["root"]) <= {"usr", "lib", "lib32", "lib64", "bin", "etc", "nix", "lent", "told"}
    assert told["127.0.0.1"] == "Connection refused"
    assert told["192.0.2.1"] == "Network is unreachable"
    assert {told["/new"], told["/usr/new"]} <= {"Read-only file system", "Permission denied"}
    assert (told["privileges"], told["death"], told["cores"]) == (1, 9, [0, 0])
    assert "root again" not in told
    assert "raw socket" not in told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up being root")
def test_root_becomes_nobody_who_sees_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("lent by path")
    secret.chmod(0o600)
    memory = os.memfd_create("told")
    os.write(memory, b"told by descriptor")
    os.lseek(memory, 0, os.SEEK_SET)
    uid = uid_for(tmp_path)
    files: dict[str, str | int] = {"lent": str(secret), "told": memory}
    told = tell(Job(room(tmp_path), host_folders(), files, uid=uid), descriptors=(memory,))
    os.close(memory)
    check_shut_in(told)
    assert told["ids"] == [uid] * 6
    assert told["groups"] == []
    assert (told["lent"], told["told"]) == ("lent by path", "told by descriptor")


def test_an_ordinary_user_stays_itself_and_can_do_nothing(someone: User) -> None:
    folder = someone.home / "machine"
    folder.mkdir()
    root = room(folder)
    (folder / "file").write_text("lent by path")
    if someone.name:
        subprocess.run(["chown", "-R", someone.name, folder], check=True)
    told = tell(Job(root, host_folders(), {"lent": str(folder / "file")}), user=someone)
    check_shut_in(told)
    assert told["lent"] == "lent by path"
    assert len(set(told["ids"][:3])) == 1
    assert told["ids"][0] != 0


def test_the_gate_is_handed_out_and_listens_only_in_there(tmp_path: Path) -> None:
    ports = ports_of(Gated((8080, 3128)))
    assert ports == (("tcp", 3128), ("udp", 53), ("tcp", 53), ("tcp", 8080))
    near, far = socket.socketpair()
    job = Job(room(tmp_path), host_folders(), uid=uid_for(tmp_path), gate=far.fileno(), listen=ports)
    with near, far, subprocess.Popen([*job.prefix(), "/usr/bin/sleep", "5"], pass_fds=[far.fileno()]) as child:
        far.close()
        gate = asyncio.run(receive_gate(near, ports))
        assert gate["tcp", 8080].getsockname() == ("127.0.0.1", 8080)
        assert not any(sock.get_inheritable() for sock in gate.values())
        assert gate["udp", 53].type == socket.SOCK_DGRAM
        with socket.socket() as outside:
            assert (
                outside.connect_ex(("127.0.0.1", 8080)) != 0 or outside.getpeername() != gate["tcp", 8080].getsockname()
            )
        for sock in gate.values():
            sock.close()
        child.kill()


def test_an_enclosure_that_ends_hands_out_nothing() -> None:
    near, far = socket.socketpair()
    far.close()
    with near, pytest.raises(StereoError, match="no sockets from the enclosure"):
        asyncio.run(receive_gate(near, [("tcp", 1)]))


@pytest.mark.parametrize("network", [None, Nat(), Bridged("br0")])
def test_only_a_gated_network_has_a_gate(network: Nat | Bridged | None) -> None:
    assert ports_of(network) == ()


def test_what_cannot_be_done_is_told_in_one_line(tmp_path: Path) -> None:
    async def run() -> StereoError | None:
        job = Job(str(tmp_path / "missing"), host_folders(), uid=uid_for(tmp_path))
        child = await Child.start("QEMU", [*job.prefix(), "/bin/true"], env={}, cwd=tmp_path, descriptors=())
        await child.wait()
        return refusal(child)

    error = asyncio.run(run())
    assert error
    assert error.what.startswith("the enclosure of QEMU: cannot mount tmpfs at")
    assert len(error.what.splitlines()) == 1
    assert error.hint
    assert "doctor" in error.hint


def test_it_does_not_outlive_a_parent_that_died_early(tmp_path: Path) -> None:
    job = Job(room(tmp_path), host_folders(), uid=uid_for(tmp_path), parent=1 << 22)
    done = subprocess.run([*job.prefix(), "/usr/bin/sleep", "60"], timeout=10, check=False)
    assert done.returncode == enclosure_main.REFUSED


def test_this_system_can_be_tried() -> None:
    began = time.monotonic()
    enclosure.check()
    assert time.monotonic() - began < 10


def test_root_becomes_somebody_who_stands_for_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert {uid_for(Path("/a")), uid_for(Path("/b"))} <= set(range(61184, 65520))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert uid_for(Path("/a")) is None
