"""The daemon as a process, on a pseudo-terminal in place of the port."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stereos_guest import protocol

GUEST = Path(__file__).resolve().parents[2] / "guest"
# What importing `os` or `json` would bring in. Every one of them is paid twenty- to fifty-fold in an emulated machine.
NEEDED = {
    f"stereos_guest.{name}"
    for name in ["bootclock", "hosts", "jsontext", "loop", "port", "protocol", "session", "stereosd", "wire"]
}
BUILT_IN_OR_OURS = {"time", "_json", "select", "errno", "posix", "__future__", "_socket"}


class Guest:
    """A running stereosd, its port, and a tree to find both in."""

    def __init__(self, root: Path, *, hardened: bool = True) -> None:
        self.root = root
        (root / "sys/class/virtio-ports/vport1p1").mkdir(parents=True)
        (root / "sys/class/virtio-ports/vport1p1/name").write_text("io.stereos.control\n")
        (root / "run/stereos").mkdir(parents=True)
        (root / "etc").mkdir()
        (root / "run/stereos/boot").write_text("initrd_start=1.25\nswitch_root=2.5\n")
        if hardened:
            self.harden()
        (root / "dev").mkdir()
        self.master, self.slave = os.openpty()
        tty.setraw(self.master)
        tty.setraw(self.slave)
        (root / "dev/vport1p1").symlink_to(os.ttyname(self.slave))
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(root / "notify"))
        self.manager.settimeout(10)
        self.process = subprocess.Popen(
            [sys.executable, "-ISs", "-X", "importtime", "-c", self._script()],
            env={"NOTIFY_SOCKET": str(root / "notify")},
            stderr=(root / "stderr").open("wb"),
        )
        self._held = b""

    def _script(self) -> str:
        return (
            f"import sys; sys.path.insert(0, {str(GUEST)!r}); "
            f"from stereos_guest.stereosd import main; sys.exit(main({str(self.root)!r}))"
        )

    def harden(self) -> None:
        """As stereos-harden.service ends."""
        (self.root / "run/stereos/hardened").touch()

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.master, view) :]

    def hear(self, seconds: float = 10) -> Any:
        while b"\n" not in self._held:
            ready, _, _ = select.select([self.master], [], [], seconds)
            assert ready, "stereosd says nothing"
            self._held += os.read(self.master, 65536)
        line, _, self._held = self._held.partition(b"\n")
        return json.loads(line) if line.strip() else self.hear(seconds)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.manager.close()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path)
    yield guest
    guest.close()


def test_it_announces_booting_then_ready_with_the_phases_of_the_boot(guest: Guest) -> None:
    assert guest.hear() == {"type": "lifecycle", "payload": {"state": "booting"}}
    ready = guest.hear()
    assert ready["payload"]["state"] == "ready"
    boot = ready["payload"]["boot"]
    assert boot["initrd_start"] == 1.25
    assert boot["switch_root"] == 2.5
    assert boot["stereosd_start"] <= boot["ready"]


def test_it_says_nothing_before_the_machine_is_hardened(tmp_path: Path) -> None:
    guest = Guest(tmp_path, hardened=False)
    try:
        said, _, _ = select.select([guest.master, guest.manager.fileno()], [], [], 0.5)
        assert not said
        guest.harden()
        assert [guest.hear()["payload"]["state"] for _ in range(2)] == ["booting", "ready"]
    finally:
        guest.close()


def test_it_tells_the_service_manager_that_it_is_ready(guest: Guest) -> None:
    assert guest.manager.recv(100).startswith(b"READY=1")


def imports(guest: Guest) -> list[str]:
    """The names of the modules that it has imported so far, from the first of ours on."""
    names = [line.split("|")[-1].strip() for line in (guest.root / "stderr").read_text().splitlines()]
    return names[names.index("stereos_guest") :] if "stereos_guest" in names else []


def test_it_becomes_ready_without_importing_what_costs_time(tmp_path: Path) -> None:
    guest = Guest(tmp_path, hardened=False)
    try:
        until = time.monotonic() + 10
        while "stereos_guest.stereosd" not in imports(guest) and time.monotonic() < until:
            time.sleep(0.05)
        found = imports(guest)
        assert "stereos_guest.stereosd" in found
        assert {name for name in found if not name.startswith("stereos_guest")} <= BUILT_IN_OR_OURS
        assert not {name for name in found if name.startswith("stereos_guest")} - {"stereos_guest", *NEEDED}
    finally:
        guest.close()


def test_what_it_imports_later_is_little_too(guest: Guest) -> None:
    guest.hear(), guest.hear()
    guest.send(protocol.encode("ping") + protocol.encode("inject_secret", {"name": "A", "value": "b"}))
    guest.hear(), guest.hear()
    heavy = {"json", "socket", "subprocess", "threading", "re", "enum", "typing", "ctypes", "asyncio", "pathlib"}
    assert not heavy & set(imports(guest))


def test_in_a_test_it_does_not_switch_the_machine_off(guest: Guest) -> None:
    guest.hear(), guest.hear()
    guest.send(protocol.encode("shutdown"))
    assert guest.hear()["payload"]["ok"] is False


def test_it_answers_after_a_flood_of_garbage(guest: Guest) -> None:
    guest.hear(), guest.hear()
    for _ in range(20):
        guest.send(b'{"type":\xff\n[[[[\n\x00\n')
        for _ in range(3):
            assert guest.hear()["payload"]["ok"] is False
    guest.send(protocol.encode("ping"))
    assert guest.hear() == {"type": "pong"}


def test_it_survives_a_line_that_never_ends(guest: Guest) -> None:
    guest.hear(), guest.hear()
    guest.send(b"x" * (3 * protocol.MAX_LINE) + b"\n" + protocol.encode("ping"))
    assert guest.hear()["payload"]["error"].startswith("malformed JSON: line over")
    assert guest.hear() == {"type": "pong"}


def test_it_does_nothing_while_nobody_asks(guest: Guest) -> None:
    guest.hear(), guest.hear()
    os.close(guest.master)  # the far end hangs up: on a terminal that lasts, as on a port without a host
    guest.master = os.open("/dev/null", os.O_RDWR)
    assert any(_works_no_more(guest.process.pid) for _ in range(20)), "it never comes to rest"
    assert guest.process.poll() is None


def _works_no_more(pid: int) -> bool:
    before = _cpu_ticks(pid)
    time.sleep(0.5)
    return _cpu_ticks(pid) - before <= 1


def _cpu_ticks(pid: int) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])
