"""Pieces of the backend applevirt: clones, the console's file, the REST service, and which backend it is to be."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.errors import StereoError, UsageError
from stereo.vm import clone as clone_module
from stereo.vm import taillog, vfkit
from stereo.vm.backends import BackendName, choose_backend
from stereo.vm.clone import clone
from stereo.vm.lasting import pair
from stereo.vm.taillog import TailLog
from stereo.vm.vfkit import RUNNING, Rest, find_vfkit

IMAGE = b"first" + bytes(3 << 20) + b"last"


@pytest.mark.parametrize("shares", [True, False])
def test_a_clone_is_another_file_with_the_same_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: bool
) -> None:
    if not shares:
        monkeypatch.setattr(clone_module, "_clone_file", lambda source, target: False)
    source, target = tmp_path / "image", tmp_path / "disk"
    source.write_bytes(IMAGE)
    source.chmod(0o444)
    (tmp_path / ".disk.new").write_text("of one who was killed")
    clone(source, target, 8 << 20)
    assert target.read_bytes() == IMAGE + bytes((8 << 20) - len(IMAGE))
    assert target.stat().st_mode & 0o777 == 0o600
    with target.open("r+b") as file:
        file.write(b"other")
    assert source.read_bytes() == IMAGE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "image"]
    assert target.stat().st_blocks * 512 < 2 << 20


def test_a_clone_is_whole_or_not_there(tmp_path: Path) -> None:
    source = tmp_path / "image"
    source.write_bytes(IMAGE)
    with pytest.raises(StereoError, match="too small"):
        clone(source, tmp_path / "disk", 1 << 20)
    with pytest.raises(StereoError, match="cannot be cloned"):
        clone(tmp_path / "absent", tmp_path / "disk")
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


@pytest.mark.parametrize("appends", [True, False])
def test_the_console_is_followed_and_its_file_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, appends: bool
) -> None:
    monkeypatch.setattr(taillog, "_PAUSE", 0.0)
    monkeypatch.setattr(taillog, "_LIMIT", 1000)
    path = tmp_path / "serial.log"
    lines = [f"{number:0200}\n".encode() for number in range(600)]

    async def run() -> bytes:
        near, far = await pair()
        log = TailLog(path, far.writer)
        following = asyncio.create_task(log.follow())
        heard = b""
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if appends else 0)
        descriptor = os.open(path, flags)
        for line in lines:
            os.write(descriptor, line)
            heard += await asyncio.wait_for(near.reader.readexactly(len(line)), 30)
        os.write(descriptor, b"last words")
        os.close(descriptor)
        following.cancel()
        await asyncio.wait([following])
        await log.rest()
        return heard + await near.reader.read(-1)

    assert asyncio.run(run()) == b"".join(lines) + b"last words"
    assert path.stat().st_blocks * 512 <= 16384  # of 120 kB


@pytest.mark.parametrize("appends", [True, False])
def test_a_guest_that_says_more_than_anybody_hears_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, appends: bool
) -> None:
    monkeypatch.setattr(taillog, "_PAUSE", 0.0)
    monkeypatch.setattr(taillog, "_MOST", 4 << 20)
    path = tmp_path / "serial.log"

    async def heard(reader: asyncio.StreamReader) -> int:
        size, last = 0, b""
        while b"heard" not in last:
            piece = await reader.read(1 << 16)
            size, last = size + len(piece), last[-4:] + piece
        return size

    async def run() -> int:
        near, far = await pair()
        log = TailLog(path, far.writer)
        tasks = [asyncio.create_task(log.follow()), asyncio.create_task(log.keep_small())]
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if appends else 0))
        for _ in range(50):
            os.write(descriptor, b"x" * (1 << 20))
            for _ in range(3):
                await asyncio.sleep(0)  # nobody reads `near`
        assert path.stat().st_blocks * 512 <= 6 << 20
        listening = asyncio.create_task(heard(near.reader))
        while not listening.done():  # who listens again hears what is said from then on
            os.write(descriptor, b"heard")
            await asyncio.sleep(0.01)
        os.close(descriptor)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return await listening

    assert asyncio.run(run()) < 20 << 20


def test_the_console_is_not_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "serial.log").symlink_to(tmp_path / "secret")

    async def run() -> None:
        _, far = await pair()
        await TailLog(tmp_path / "serial.log", far.writer).rest()

    with pytest.raises(OSError, match="symbolic links"):
        asyncio.run(run())


def answering(path: Path, answer: bytes) -> Thread:
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(path))
    door.listen(1)

    def serve() -> None:
        with door, door.accept()[0] as peer:
            asked = b""
            while b"\r\n\r\n" not in asked or (asked.startswith(b"POST") and not asked.endswith(b"}")):
                asked += peer.recv(1 << 16)
            peer.sendall(answer)

    thread = Thread(target=serve)
    thread.start()
    return thread


def of_body(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_the_state_is_asked_for(tmp_path: Path) -> None:
    thread = answering(tmp_path / "s", of_body(b'{"state": "VirtualMachineStateRunning", "canStop": true}'))
    assert Rest(tmp_path / "s").state() == RUNNING
    thread.join()


def test_a_change_that_is_refused_is_told(tmp_path: Path) -> None:
    thread = answering(tmp_path / "s", of_body(b'{"error": "no"}', "500 Internal Server Error"))
    with pytest.raises(StereoError, match="status 500"):
        Rest(tmp_path / "s").change("Stop")
    thread.join()


@pytest.mark.parametrize(
    "answer", [b"", b"hello\r\n\r\n", of_body(b"["), of_body(b"[]"), of_body(b"\xff"), of_body(b"[" * 60000)]
)
def test_what_is_no_answer_is_an_error_of_ours(tmp_path: Path, answer: bytes) -> None:
    thread = answering(tmp_path / "s", answer)
    with pytest.raises(StereoError):
        Rest(tmp_path / "s").state()
    thread.join()


@pytest.mark.parametrize("piece", [b"HTTP/1.1 100 Continue\r\n\r\n", b"H"])
def test_an_answer_that_never_ends_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    """Each piece of it comes in time."""
    monkeypatch.setattr(vfkit, "_SECONDS", 0.3)
    monkeypatch.setattr("http.client._MAXLINE", 1 << 30)
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(tmp_path / "s"))
    door.listen(1)

    hung_up = False

    def serve() -> None:
        nonlocal hung_up
        with door, door.accept()[0] as peer:
            try:
                for _ in range(6000):  # half a minute
                    peer.sendall(piece)
                    time.sleep(0.005)
            except OSError:
                hung_up = True

    thread = Thread(target=serve)
    thread.start()
    with pytest.raises(StereoError, match="does not answer"):
        Rest(tmp_path / "s").state()
    thread.join()
    assert hung_up


@given(st.binary(max_size=200))
def test_no_answer_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    path = tmp_path_factory.mktemp("rest") / "s"
    thread = answering(path, of_body(body))
    with suppress(StereoError):
        assert isinstance(Rest(path).state(), str)
    thread.join()


def test_nobody_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StereoError, match="does not answer"):
        Rest(tmp_path / "s").state()


def test_no_vfkit_says_where_one_is_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StereoError, match="no vfkit") as caught:
        find_vfkit()
    assert caught.value.hint
    assert "--backend qemu" in caught.value.hint


@pytest.mark.parametrize(
    ("asked", "environment", "kept", "chosen"),
    [
        (None, {}, None, "qemu"),
        (None, {}, "applevirt", "applevirt"),
        (None, {"STEREO_BACKEND": ""}, None, "qemu"),
        (None, {"STEREO_BACKEND": "applevirt"}, None, "applevirt"),
        (None, {"STEREO_BACKEND": "applevirt"}, "qemu", "applevirt"),
        ("qemu", {"STEREO_BACKEND": "applevirt"}, "applevirt", "qemu"),
    ],
)
def test_who_asks_is_heard_first(asked: str | None, environment: dict[str, str], kept: str | None, chosen: str) -> None:
    assert choose_backend(asked, environment, kept) == chosen


def test_a_mac_with_vfkit_has_applevirt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    for found in ("/opt/homebrew/bin/vfkit", None):
        monkeypatch.setattr(shutil, "which", lambda name, found=found: found)
        assert choose_backend(None, {}) is (BackendName.APPLEVIRT if found else BackendName.QEMU)
    assert sys.platform == "darwin"


def test_another_word_is_no_backend() -> None:
    with pytest.raises(UsageError, match="'kvm' is no backend") as caught:
        choose_backend(None, {"STEREO_BACKEND": "kvm"})
    assert caught.value.where == "STEREO_BACKEND"
