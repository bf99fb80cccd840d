"""The relay between clients and the real guest: the client's Control at one end, the guest's session at the other."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from makers.live_guest import Guest, channel_over, greeted
from stereo.errors import StereoError
from stereo.vm import relay
from stereo.vm.control import Control, GuestError, NoAnswerError, RefusedError
from stereo.vm.stream import Stream
from stereos_guest import frames, protocol

T = TypeVar("T")
ALLOWED = (protocol.PING, protocol.GET_HEALTH, *protocol.OPENERS)


async def echo(body: Mapping[str, Any], send: relay.Send) -> Mapping[str, Any]:
    send({"first": True})
    return {"said": body}


async def refuse(body: Mapping[str, Any], send: relay.Send) -> Mapping[str, Any]:
    raise StereoError("not today", hint="try tomorrow")


async def fail(body: Mapping[str, Any], send: relay.Send) -> Mapping[str, Any]:
    raise RuntimeError("a bug")


LOCAL: Mapping[str, relay.Handler] = {"x_echo": echo, "x_refuse": refuse, "x_fail": fail}


class Switchboard:
    """A guest, the one conversation with it, and as many clients as are asked for."""

    def __init__(self, guest: Guest, control: Control) -> None:
        self.guest = guest
        self.control = control
        self.serving: list[asyncio.Task[None]] = []

    async def raw_client(self) -> socket.socket:
        near, far = socket.socketpair()
        channel = await channel_over(near)
        self.serving.append(asyncio.create_task(relay.serve(channel, self.control, LOCAL, ALLOWED)))
        return far

    async def client(self) -> Control:
        control = Control(await channel_over(await self.raw_client()))
        await control.hello()
        return control

    @property
    def open_in_guest(self) -> int:
        return len(self.guest.sessions[0]._streams)


def with_board(home: Path, ask: Callable[[Switchboard], Awaitable[T]], *, raw: bool = True) -> T:
    async def run() -> T:
        guest = Guest(home, raw=raw)
        try:
            async with asyncio.timeout(30), greeted(guest) as control:
                board = Switchboard(guest, control)
                try:
                    return await ask(board)
                finally:
                    for task in board.serving:
                        task.cancel()
        finally:
            guest.close()

    return asyncio.run(run())


async def output(client: Control, *argv: str, said: bytes = b"") -> bytes:
    async with await client.open_stream(protocol.EXEC, {"argv": argv, "stdin": True}) as stream:

        async def say() -> None:
            await stream.write(said)
            await stream.write_eof()

        saying = asyncio.create_task(say())
        heard = bytearray()
        while piece := await stream.read():
            heard += piece[1]
        await saying
        assert (await stream.wait()).code == 0
        return bytes(heard)


@pytest.mark.parametrize("raw", [True, False])
def test_streams_of_many_clients_share_the_channel(tmp_path: Path, raw: bool) -> None:
    async def ask(board: Switchboard) -> None:
        clients = [await board.client() for _ in range(5)]
        said = [os.urandom(400_000) for _ in clients]
        heard = await asyncio.gather(*(output(c, "cat", said=text) for c, text in zip(clients, said, strict=True)))
        assert heard == said
        for client in clients:
            await client.close()

    with_board(tmp_path, ask, raw=raw)


def test_requests_go_to_the_guest_or_are_answered_here(tmp_path: Path) -> None:
    async def ask(board: Switchboard) -> None:
        client = await board.client()
        await client.ping()
        assert (await client.health()).state == "ready"
        assert await client.request("x_echo", {"a": 1}, answer="x_echo") == {"first": True}
        await client.close()

    with_board(tmp_path, ask)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (protocol.SHUTDOWN, "unknown message type: shutdown"),
        (protocol.INJECT_SECRET, "unknown message type: inject_secret"),
        ("x_refuse", r"not today \(try tomorrow\)"),
        ("x_fail", "internal error"),
    ],
)
def test_what_is_refused_says_why(tmp_path: Path, kind: str, reason: str) -> None:
    async def ask(board: Switchboard) -> None:
        client = await board.client()
        with pytest.raises(RefusedError, match=reason):
            await client.request(kind, {})
        await client.ping()
        await client.close()

    with_board(tmp_path, ask)


def test_the_guests_own_refusal_is_passed_on_word_for_word(tmp_path: Path) -> None:
    async def ask(board: Switchboard) -> str:
        client = await board.client()
        with pytest.raises(RefusedError) as caught:
            await client.open_stream(protocol.EXEC, {"argv": []})
        await client.close()
        return str(caught.value)

    assert with_board(tmp_path, ask) == "the guest refused exec: argv is not a list of words"


def test_a_client_that_leaves_takes_its_programs_with_it(tmp_path: Path) -> None:
    async def ask(board: Switchboard) -> int:
        client = await board.client()
        stream = await client.open_stream(protocol.EXEC, {"argv": ["sh", "-c", "echo $$; exec sleep 60"]})
        piece = await stream.read()
        assert piece
        await client.close()
        for _ in range(100):
            await asyncio.sleep(0.02)
            if not board.open_in_guest:
                break
        assert board.open_in_guest == 0
        return int(piece[1])

    with pytest.raises(ProcessLookupError):
        os.kill(with_board(tmp_path, ask), 0)


def test_a_client_that_does_not_read_stops_nobody(tmp_path: Path) -> None:
    async def ask(board: Switchboard) -> None:
        lazy, other = await board.client(), await board.client()
        unread: Stream = await lazy.open_stream(protocol.EXEC, {"argv": ["cat", "/dev/zero"]})
        lazy._channel.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.3)
        assert await output(other, "echo", "through") == b"through\n"
        await other.ping()
        assert unread
        await other.close()
        await lazy.close()

    with_board(tmp_path, ask)


def test_a_client_cannot_ask_for_more_than_may_be_on_its_way(tmp_path: Path) -> None:
    async def ask(board: Switchboard) -> None:
        client = await board.client()
        stream = await client.open_stream(protocol.EXEC, {"argv": ["sleep", "9"]})
        client.send(protocol.WINDOW, {"bytes": relay.MOST_ON_THE_WAY}, stream.number)
        with pytest.raises(GuestError):
            await stream.wait()
        await client.close()

    with_board(tmp_path, ask)


def test_news_of_the_guest_reach_every_client(tmp_path: Path) -> None:
    async def ask(board: Switchboard) -> list[str]:
        clients = [await board.client() for _ in range(2)]
        board.guest.sessions[0].push("lifecycle", protocol.lifecycle("degraded"))
        told = [await client.wait_for_state(["degraded"], 5) for client in clients]
        for client in clients:
            await client.close()
        return [news.state for news in told]

    assert with_board(tmp_path, ask) == ["degraded", "degraded"]


def test_a_guest_that_dies_ends_the_streams_of_all_clients(tmp_path: Path) -> None:
    async def ask(board: Switchboard) -> str:
        client = await board.client()
        stream = await client.open_stream(protocol.EXEC, {"argv": ["sleep", "60"]})
        await board.control.close()
        ended = await stream.wait()
        with pytest.raises(RefusedError, match="the conversation was closed"):
            await client.ping()
        await client.close()
        assert ended.code is None
        return ended.error

    assert with_board(tmp_path, ask) == "the conversation was closed"


def test_a_client_that_says_nonsense_is_told_off_and_served_on(tmp_path: Path) -> None:
    async def ask(board: Switchboard) -> list[dict[str, Any]]:
        far = await board.raw_client()
        reader, writer = await asyncio.open_connection(sock=far)
        writer.write(b'{"type":\n\x01nonsense\n[]\n{"type":"exec","payload":{}}\n{"type":"window","id":9}\n')
        writer.write(protocol.encode(protocol.PING))
        answers = [frames.decode((await reader.readline())[:-1]) for _ in range(5)]
        writer.close()
        return [{"type": answer.type, **(answer.payload or {})} for answer in answers]

    *refused, pong = with_board(tmp_path, ask)
    assert [answer["ok"] for answer in refused] == [False] * 4
    assert pong == {"type": "pong"}


def test_a_request_that_the_client_gave_up_is_cancelled_in_the_guest(tmp_path: Path) -> None:
    async def ask(board: Switchboard) -> None:
        client = await board.client()
        board.control._channel.reader._transport.pause_reading()  # type: ignore[attr-defined]  # the guest is slow
        with pytest.raises(NoAnswerError):
            await client.open_stream(protocol.EXEC, {"argv": ["sleep", "60"]}, seconds=0.2)
        await asyncio.sleep(0.1)
        board.control._channel.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(100):
            await asyncio.sleep(0.02)
            if not board.open_in_guest:
                break
        assert board.open_in_guest == 0
        await client.ping()
        await client.close()

    with_board(tmp_path, ask)
