"""The control channel over connections that come and go, with a vfkit's socket that takes all and hangs up on some."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from stereo.vm import lasting
from stereo.vm.control import Control, GuestError
from stereo.vm.lasting import LastingChannel
from stereos_guest import protocol

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HELLO = protocol.encode(protocol.HELLO, {"version": 1, "features": [], "daemon": "x"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "_FIRST_DELAY", 0.001)
    monkeypatch.setattr(lasting, "_FIRST_PATIENCE", 0.2)


def talk(path: Path, serve: Serve, say: Callable[[LastingChannel], Awaitable[None]]) -> None:
    async def run() -> None:
        server = await asyncio.start_unix_server(serve, path)
        channel = await LastingChannel.to(path)
        try:
            await asyncio.wait_for(say(channel), 30)
        finally:
            await channel.close()
            server.close()

    asyncio.run(run())


def test_what_nobody_heard_is_said_again_until_somebody_answers(tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"question\n"))
        if len(heard) == 3:
            writer.write(b"answer\n")
            return
        writer.close()

    async def say(channel: LastingChannel) -> None:
        channel.channel.writer.write(b"question\n")
        assert await channel.channel.reader.readline() == b"answer\n"

    talk(tmp_path / "s", serve, say)
    assert len(heard) == 3
    assert heard[-1] == protocol.encode(protocol.PING) + b"question\n"


def test_who_takes_a_connection_and_says_nothing_is_given_up(tmp_path: Path) -> None:
    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        if len(connections) == 2:
            writer.write(b"here\n")

    async def say(channel: LastingChannel) -> None:
        assert await channel.channel.reader.readline() == b"here\n"

    talk(tmp_path / "s", serve, say)


def test_a_socket_that_comes_later_is_found(tmp_path: Path) -> None:
    async def run() -> None:
        channel = await LastingChannel.to(tmp_path / "s")
        await asyncio.sleep(0.05)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"here\n")

        server = await asyncio.start_unix_server(serve, tmp_path / "s")
        assert await asyncio.wait_for(channel.channel.reader.readline(), 30) == b"here\n"
        await channel.close()
        server.close()

    asyncio.run(run())


def test_a_daemon_that_was_started_anew_is_greeted_anew_and_what_was_asked_of_the_old_one_fails(tmp_path: Path) -> None:
    lives: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lives.append(writer)
        while line := await reader.readline():
            if b'"hello"' in line:
                writer.write(HELLO)
            elif b'"ping"' in line and b'"id"' not in line:
                writer.write(protocol.encode(protocol.PONG))
            elif b'"ping"' in line and len(lives) == 2:
                writer.write(line.replace(b"ping", b"pong"))

    async def say(channel: LastingChannel) -> None:
        control = Control(channel.channel)
        await control.hello()
        lost = asyncio.create_task(control.ping(30))
        await asyncio.sleep(0.05)
        lives[0].close()
        with pytest.raises(GuestError, match="started anew"):
            await lost
        while control.greeting is None:
            await asyncio.sleep(0.01)
        await control.ping(30)
        await control.close()

    talk(tmp_path / "s", serve, say)


def test_a_guest_that_is_gone_for_good_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if not connections:
            writer.write(b"here\n")
        connections.append(writer)
        writer.close()

    connections: list[asyncio.StreamWriter] = []

    async def say(channel: LastingChannel) -> None:
        assert await channel.channel.reader.readline() == b"here\n"
        while len(connections) < 4:
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.channel.reader.read(1), 0.1)

    talk(tmp_path / "s", serve, say)
