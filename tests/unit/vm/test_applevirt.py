"""The backend applevirt with a vfkit that runs no machine: how it starts, ends, and is told of."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import makers
import stereo
import stereos_guest
from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.vm import applevirt, leash
from stereo.vm.applevirt import AppleBackend, end_orphans
from stereo.vm.machine import Bridged, Disk, Gated, KernelBoot, Machine, MachineSpec, Share

FAKE = Path(__file__).with_name("fake_vfkit.py")
PACKAGES = ":".join(str(Path(package.__path__[0]).parent) for package in (stereo, stereos_guest, makers))

Start = Callable[[str], AppleBackend]


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    for name in ("stereos.img", "bzImage", "initrd"):
        (tmp_path / name).write_bytes(name.encode())
    kernel = KernelBoot(tmp_path / "bzImage", tmp_path / "initrd", "quiet")
    return MachineSpec(Disk(tmp_path / "stereos.img", "raw"), Architecture.AARCH64, kernel)


@pytest.fixture
def backend(tmp_path: Path) -> Start:
    def make(behaviour: str) -> AppleBackend:
        program = tmp_path / "vfkit"
        words = shlex.join([sys.executable, str(FAKE), behaviour])
        program.write_text(f'#!/bin/sh\nPYTHONPATH={PACKAGES} exec {words} "$@"\n')
        program.chmod(0o755)
        return AppleBackend(program, tmp_path / "scratch")

    return make


def folders() -> set[Path]:
    return {*applevirt.SHORT.glob("stereo-vm-*")}


def gone(pid: int, seconds: float = 20) -> bool:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


async def pid_of(machine: Machine) -> int:
    """It is the first thing that the fake says."""
    return int(await machine.console.reader.readline())


async def rest_of(machine: Machine) -> str:
    return (await machine.console.reader.read(-1)).decode()


def test_a_machine_is_there_and_nothing_of_it_is_left(backend: Start, spec: MachineSpec, tmp_path: Path) -> None:
    async def run() -> int:
        async with backend("runs").start(spec) as machine:
            machine.control.writer.write(b'{"type":"ping"}\n')
            assert b"pong" in await machine.control.reader.readline()
            return await pid_of(machine)

    before = folders()
    assert gone(asyncio.run(run()))
    assert folders() == before
    assert [*(tmp_path / "scratch").iterdir()] == []
    assert (tmp_path / "stereos.img").read_bytes() == b"stereos.img"


def test_the_button_is_pressed_before_it_is_switched_off(backend: Start, spec: MachineSpec) -> None:
    async def run(behaviour: str, grace: float) -> str:
        async with backend(behaviour).start(spec) as machine:
            await pid_of(machine)
            await machine.stop(grace)
            return await rest_of(machine)

    assert asyncio.run(run("runs", 30)) == "Stop\nlast words\n"
    assert asyncio.run(run("deaf", 0.1)) == "Stop HardStop\nlast words\n"
    assert asyncio.run(run("runs", 0)) == "HardStop\nlast words\n"


def test_an_end_by_itself_is_waited_for_and_a_failure_is_told(backend: Start, spec: MachineSpec) -> None:
    async def run() -> None:
        async with backend("runs").start(spec) as machine:
            os.kill(await pid_of(machine), signal.SIGKILL)
            await machine.wait()

    with pytest.raises(StereoError, match="vfkit was killed by signal 9"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("refuses", "invalid storage device attachment"), ("fails", "virtualization error"), ("slow", "no reason")],
)
def test_a_vfkit_that_does_not_start_says_why(
    backend: Start, spec: MachineSpec, monkeypatch: pytest.MonkeyPatch, behaviour: str, words: str
) -> None:
    if behaviour == "slow":
        monkeypatch.setattr(applevirt, "_START_SECONDS", 0.5)

    async def run() -> None:
        async with backend(behaviour).start(spec) as machine:
            await machine.wait()

    before = folders()
    with pytest.raises(StereoError, match=f"vfkit .*: .*{words}"):
        asyncio.run(run())
    assert folders() == before


def test_a_disk_of_its_own_is_made_once_and_kept(backend: Start, spec: MachineSpec, tmp_path: Path) -> None:
    changes = tmp_path / "disk.raw"
    spec = replace(spec, disk=replace(spec.disk, changes=changes, size=1 << 20))

    async def run() -> None:
        async with backend("runs").start(spec):
            pass

    asyncio.run(run())
    assert changes.stat().st_size == 1 << 20
    assert changes.read_bytes().startswith(b"stereos.img\0")
    with changes.open("r+b") as file:
        file.write(b"written")
    asyncio.run(run())
    assert changes.read_bytes().startswith(b"written")
    assert (tmp_path / "stereos.img").read_bytes() == b"stereos.img"


def test_behind_a_gate_the_guest_has_its_doors_and_no_card(backend: Start, spec: MachineSpec) -> None:
    async def run() -> tuple[set[tuple[str, int]], str]:
        async with backend("echoes").start(replace(spec, network=Gated((8000,)))) as machine:
            await pid_of(machine)
            words = (await machine.console.reader.readline()).decode()
            ports = {(str(protocol), port) for protocol, port in machine.gate}
            for sock in machine.gate.values():
                assert sock.family == socket.AF_UNIX
            return ports, words

    ports, words = asyncio.run(run())
    assert ports == {("tcp", 53), ("tcp", 3128), ("tcp", 8000)}
    assert "virtio-net" not in words
    for _, port in ports:
        assert f"virtio-vsock,port={port},socketURL=/tmp/stereo-vm-" in words


def test_a_console_that_nobody_reads_holds_up_nobody(backend: Start, spec: MachineSpec) -> None:
    async def run() -> int:
        async with backend("floods").start(spec) as machine:
            return await pid_of(machine)

    assert gone(asyncio.run(asyncio.wait_for(run(), 60)))


def test_credentials_come_with_the_initrd_and_leave_the_disk_when_it_was_read(
    backend: Start, spec: MachineSpec, tmp_path: Path
) -> None:
    async def run() -> str:
        async with backend("reads").start(replace(spec, credentials={"stereos.test": "sesame"})) as machine:
            assert not [*(tmp_path / "scratch").rglob("initrd")]
            await pid_of(machine)
            return (await machine.console.reader.readline()).decode()

    length, _, mode = asyncio.run(run()).partition(" ")
    assert int(length) > len("initrd") + len("sesame")
    assert mode.strip() == "0o100600"
    assert (tmp_path / "initrd").read_bytes() == b"initrd"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"network": Bridged("br0")}, "no bridged network"),
        ({"shares": (Share("share0", Path("/nonexistent")),)}, "only a folder"),
        ({"disk": Disk(Path("/nonexistent"), "raw")}, "no such file"),
        ({"credentials": {"../x": "y"}}, "credential"),
        ({"disk": Disk(Path(__file__), "raw", size=1)}, "too small"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    backend: Start, spec: MachineSpec, tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    changes = tmp_path / "disk.raw"
    spec = replace(spec, **changed)  # type: ignore[arg-type]
    spec = replace(spec, disk=replace(spec.disk, changes=changes))

    async def run() -> None:
        async with backend("runs").start(spec):
            pass

    with pytest.raises(StereoError, match=words):
        asyncio.run(run())
    assert not changes.exists()


def test_it_dies_with_us_by_its_leash_alone(tmp_path: Path) -> None:
    """On macOS the kernel does not see to it, so here nobody asks it to."""
    script = (
        "import os, subprocess, sys\n"
        "held, hold = os.pipe()\n"
        f"words = [sys.executable, '-I', '-S', {leash.__file__!r}, str(held), '/bin/sleep', '1000']\n"
        "child = subprocess.Popen(words, pass_fds=[held])\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        leashed = int(owner.stdout.readline())
        os.kill(leashed, 0)
        owner.kill()
    assert gone(leashed)


def test_a_leash_ends_with_what_it_held() -> None:
    held, hold = os.pipe()
    argv = [sys.executable, "-I", "-S", leash.__file__, str(held), "/bin/true"]
    with subprocess.Popen(argv, pass_fds=[held], start_new_session=True) as child:
        os.close(held)
        assert child.wait() == 0
        os.close(hold)
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail("the watcher is still there")


def test_what_cannot_be_run_is_told() -> None:
    held, hold = os.pipe()
    argv = [sys.executable, "-I", "-S", leash.__file__, str(held), "/nonexistent/vfkit"]
    done = subprocess.run(argv, pass_fds=[held], capture_output=True, check=False)
    os.close(held)
    os.close(hold)
    assert (done.returncode, done.stderr) == (127, b"/nonexistent/vfkit: No such file or directory\n")


def test_one_that_was_left_is_switched_off_at_the_next_start(
    backend: Start, spec: MachineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applevirt, "SHORT", tmp_path)
    left, living = tmp_path / "stereo-vm-left", tmp_path / "stereo-vm-living"
    children = []
    for folder in (left, living):
        folder.mkdir(mode=0o700)
        words = ["--bootloader", "efi", "--restful-uri", f"unix://{folder}/rest.sock"]
        words += ["--device", f"virtio-serial,logFilePath={folder}/serial.log"]
        words += ["--device", f"virtio-vsock,port=1024,socketURL={folder}/control.sock,connect"]
        environment = {**os.environ, "PYTHONPATH": PACKAGES}
        children.append(subprocess.Popen([sys.executable, FAKE, "runs", *words], env=environment))
        while not (folder / "serial.log").exists():
            time.sleep(0.02)
    lock = os.open(living, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        asyncio.run(end_orphans(tmp_path))
        assert children[0].wait(20) == 0
        assert children[1].poll() is None
        assert (left.exists(), living.exists()) == (False, True)
    finally:
        for child in children:
            child.kill()
            child.wait()
        os.close(lock)
