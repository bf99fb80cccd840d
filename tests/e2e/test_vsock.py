"""A host that speaks to a booted machine over real vsock, and the guest to it: no card, no virtio port. One boot."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from makers.vsock_machine import VsockMachine, channel_to, vsock_machine
from stereo.sandbox.transfer import GuestPath, copy_in, copy_out
from stereo.vm.control import Control
from stereo.vm.programs import Programs
from stereo.vm.stream import Exit

pytestmark = [pytest.mark.boot, pytest.mark.build]

SECONDS = 240.0
MEGABYTES = 50
AT_ONCE = 24
STRANGER = 4  # a CID that is neither the host's nor the guest's
OPEN, NOBODY, SHUT = 5000, 5001, 5002  # ports of the host: served, with nobody behind, not given out
ELSEWHERE = 5003  # a port of the guest
CLIENT = """
import socket, sys
s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
s.settimeout(20)
try:
    s.connect((int(sys.argv[1]), int(sys.argv[2])))
    s.sendall(b"from inside" * 20000)
    s.shutdown(socket.SHUT_WR)
    said = b""
    while piece := s.recv(65536): said += piece
    print(len(said), said[:11].decode())
except ConnectionError as error:
    print(type(error).__name__)
"""

WHO = f"""
import socket
with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as s:
    s.bind((socket.VMADDR_CID_ANY, {ELSEWHERE}))
    s.listen()
    print("listening", flush=True)
    with (found := s.accept())[0] as peer: peer.sendall(f"you are {{found[1][0]}}".encode())
"""


async def run(control: Control, *argv: str) -> tuple[str, Exit]:
    said = b""
    async with await control.open_stream("exec", {"argv": list(argv), "timeout": 60}) as stream:
        while (piece := await stream.read()) is not None:
            said += piece[1]
        return said.decode(errors="replace"), await stream.wait()


async def one_of_many(machine: VsockMachine, number: int) -> str:
    control = await machine.greeted(60)
    try:
        return (await run(control, "/bin/sh", "-c", f"head -c 100000 /dev/zero | wc -c; echo {number}"))[0]
    finally:
        await control.close()


async def as_stranger(path: Path) -> bytes:
    """What is answered first to a question in the name of another machine; nothing if it hung up."""
    channel = await channel_to(path)
    channel.writer.write(b'{"type":"ping"}\n{"type":"hello","payload":{"version":1}}\n')
    try:
        return await asyncio.wait_for(channel.reader.read(1 << 16), 30)
    finally:
        channel.writer.close()


async def told_who_it_is(control: Control, path: Path) -> bytes:
    """What a program in the guest answers that takes everybody."""
    async with await control.open_stream("exec", {"argv": ["/usr/bin/python3", "-c", WHO]}) as stream:
        assert await stream.read() == ("stdout", b"listening\n")
        return await as_stranger(path)


async def everything(machine: VsockMachine, strangers: dict[str, Path], folder: Path) -> dict[str, Any]:
    control = await machine.greeted(SECONDS)
    found: dict[str, Any] = {}
    await control.ping()
    found["exec"] = await run(control, "/usr/bin/id", "-un")
    content = random.Random(1).randbytes(MEGABYTES << 20)
    (folder / "big").write_bytes(content)
    inside = GuestPath("big", "agent")
    await copy_in(control, folder / "big", inside, lambda _: None, print)
    found["inside"] = (await run(control, "/usr/bin/sha256sum", "/home/agent/big"))[0].split()[0]
    await copy_out(control, inside, folder / "back", lambda _: None)
    found["sent"], found["back"] = (
        hashlib.sha256(data).hexdigest() for data in (content, (folder / "back").read_bytes())
    )
    found["many"] = await asyncio.gather(*(one_of_many(machine, number) for number in range(AT_ONCE)))
    found["stranger"] = await as_stranger(strangers["stranger"])
    found["stranger elsewhere"] = await told_who_it_is(control, strangers["elsewhere"])
    await control.ping()
    for place in ((2, OPEN), (2, NOBODY), (2, SHUT), (STRANGER, OPEN)):
        found[f"to {place}"] = (await run(control, "/usr/bin/python3", "-c", CLIENT, *map(str, place)))[0]
    found["interfaces"] = (await run(control, "/usr/bin/ls", "/sys/class/net", "/sys/class/virtio-ports"))[0]
    await control.shutdown(60)
    await asyncio.wait_for(machine.device, 60)  # it ends with QEMU, and raises if anything broke it
    await control.close()
    return found


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(-1))
    writer.close()


@pytest.fixture(scope="module")
def found(
    base: Path, tools_tree: Path, tell: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("vsock")
    served, nobody = folder / "served", folder / "nobody"
    strangers = {name: folder / name for name in ("stranger", "elsewhere")}

    async def ask() -> dict[str, Any]:
        async with (
            await asyncio.start_unix_server(echo, served),
            vsock_machine(
                base,
                Programs.find(tools_tree),
                folder,
                connect={strangers["stranger"]: (1024, STRANGER), strangers["elsewhere"]: (ELSEWHERE, STRANGER)},
                listen={OPEN: served, NOBODY: nobody},
            ) as machine,
        ):
            return await everything(machine, strangers, folder)

    tell("booting: base, with nothing but vsock")
    return asyncio.run(ask())


# --- tests ---


def test_the_host_asks_and_runs_programs_over_vsock(found: dict[str, Any]) -> None:
    assert found["exec"] == ("agent\n", Exit(0, None, False, ""))


def test_a_big_file_goes_in_and_comes_back_whole(found: dict[str, Any]) -> None:
    assert found["inside"] == found["back"] == found["sent"]


def test_many_talk_at_once_and_each_hears_its_own(found: dict[str, Any]) -> None:
    assert found["many"] == [f"100000\n{number}\n" for number in range(AT_ONCE)]


def test_whoever_is_not_the_host_gets_no_answer(found: dict[str, Any]) -> None:
    assert found["stranger elsewhere"] == b"you are 4", "the machine was never spoken to under another CID"
    assert found["stranger"] == b"", "it was let in under the CID of another machine"


def test_the_guest_reaches_the_ports_that_the_host_serves_and_no_others(found: dict[str, Any]) -> None:
    assert found[f"to {(2, OPEN)}"] == "220000 from inside\n"
    refusals = [found[f"to {place}"] for place in ((2, NOBODY), (2, SHUT), (STRANGER, OPEN))]
    assert refusals == ["ConnectionResetError\n"] * 3


def test_the_machine_has_neither_card_nor_virtio_port(found: dict[str, Any]) -> None:
    assert found["interfaces"].split("\n\n")[0] == "/sys/class/net:\nlo"
