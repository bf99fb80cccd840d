"""Streams between the host's Control and the real guest's session: exact bytes, true ends, and nobody stops another."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from makers.live_guest import Guest, channel_over, greeted
from stereo.vm.control import Control, GuestError, RefusedError
from stereo.vm.stream import RECEIVE_WINDOW, Exit, Stream
from stereos_guest import frames, protocol

T = TypeVar("T")


def with_guest(home: Path, ask: Callable[[Control], Awaitable[T]], *, raw: bool = True) -> T:
    async def run() -> T:
        guest = Guest(home, raw=raw)
        try:
            async with asyncio.timeout(30), greeted(guest) as control:
                return await ask(control)
        finally:
            guest.close()

    return asyncio.run(run())


async def run(control: Control, *argv: str, said: bytes = b"", **more: Any) -> tuple[dict[str, bytes], Exit]:
    async with await control.open_stream(protocol.EXEC, {"argv": argv, "stdin": bool(said), **more}) as stream:
        typing = asyncio.create_task(say(stream, said)) if said else None
        heard = await hear(stream)
        if typing:
            await typing
        return heard, await stream.wait()


async def say(stream: Stream, said: bytes) -> None:
    try:
        await stream.write(said)
        await stream.write_eof()
    except GuestError:
        pass


async def hear(stream: Stream) -> dict[str, bytes]:
    heard = {"stdout": bytearray(), "stderr": bytearray()}
    while piece := await stream.read():
        heard[piece[0]] += piece[1]
    return {name: bytes(content) for name, content in heard.items()}


@pytest.mark.parametrize("raw", [True, False])
def test_output_errors_and_the_exit_code_are_told_apart(tmp_path: Path, raw: bool) -> None:
    heard, ended = with_guest(tmp_path, lambda c: run(c, "sh", "-c", "echo out; echo err >&2; exit 7"), raw=raw)
    assert heard == {"stdout": b"out\n", "stderr": b"err\n"}
    assert ended == Exit(7, None, False, "")


def test_a_signal_that_ends_it_is_told_by_name(tmp_path: Path) -> None:
    _, ended = with_guest(tmp_path, lambda c: run(c, "sh", "-c", "kill -9 $$"))
    assert ended == Exit(None, "KILL", False, "")


@pytest.mark.parametrize("raw", [True, False])
def test_megabytes_go_both_ways_unchanged(tmp_path: Path, raw: bool) -> None:
    said = random.Random(1).randbytes(3_000_000) + b"\n=\r\n=3D=0a=\n\x01" * 1000
    heard, ended = with_guest(tmp_path, lambda c: run(c, "cat", said=said), raw=raw)
    assert hashlib.sha256(heard["stdout"]).digest() == hashlib.sha256(said).digest()
    assert ended.code == 0


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=st.lists(st.binary(max_size=5000), max_size=20), raw=st.booleans())
def test_any_chunks_come_back_as_they_were(tmp_path: Path, chunks: list[bytes], raw: bool) -> None:
    async def echo(control: Control) -> bytes:
        async with await control.open_stream(protocol.EXEC, {"argv": ["cat"], "stdin": True}) as stream:

            async def say_all() -> None:
                for chunk in chunks:
                    await stream.write(chunk)
                await stream.write_eof()

            typing = asyncio.create_task(say_all())
            heard = (await hear(stream))["stdout"]
            await typing
            return heard

    assert with_guest(tmp_path, echo, raw=raw) == b"".join(chunks)


def test_a_stream_that_nobody_reads_stops_only_itself(tmp_path: Path) -> None:
    async def ask(control: Control) -> None:
        async with await control.open_stream(protocol.EXEC, {"argv": ["cat", "/dev/zero"]}) as unread:
            await asyncio.sleep(0.3)
            heard, _ = await run(control, "echo", "still here")
            assert heard["stdout"] == b"still here\n"
            held = sum(len(data) for _, data in unread._pieces)
            assert 0 < held <= RECEIVE_WINDOW

    with_guest(tmp_path, ask)


def test_a_flood_that_is_read_does_not_starve_a_ping(tmp_path: Path) -> None:
    async def ask(control: Control) -> float:
        async with await control.open_stream(protocol.EXEC, {"argv": ["cat", "/dev/zero"]}) as flood:

            async def swallow() -> None:
                while await flood.read():
                    pass

            swallowing = asyncio.create_task(swallow())
            await asyncio.sleep(0.2)
            began = asyncio.get_running_loop().time()
            for _ in range(20):
                await control.ping(2)
            took = asyncio.get_running_loop().time() - began
            swallowing.cancel()
            return took

    assert with_guest(tmp_path, ask) < 5


def test_many_programs_at_once_keep_their_output_apart(tmp_path: Path) -> None:
    async def ask(control: Control) -> list[tuple[dict[str, bytes], Exit]]:
        return await asyncio.gather(*(run(control, "sh", "-c", f"echo {i}; exit {i}") for i in range(40)))

    for number, (heard, ended) in enumerate(with_guest(tmp_path, ask)):
        assert (heard["stdout"], ended.code) == (b"%d\n" % number, number)


def test_a_program_that_does_not_read_its_input_does_not_hold_the_host(tmp_path: Path) -> None:
    _, ended = with_guest(tmp_path, lambda c: run(c, "sh", "-c", "exec 0<&-; sleep 0.3", said=bytes(2_000_000)))
    assert ended.code == 0


def test_writing_to_a_program_that_has_ended_is_refused(tmp_path: Path) -> None:
    async def ask(control: Control) -> None:
        async with await control.open_stream(protocol.EXEC, {"argv": ["true"], "stdin": True}) as stream:
            await stream.wait()
            with pytest.raises(GuestError, match="the guest ended the stream"):
                await stream.write(b"x")
            await stream.write_eof()

    with_guest(tmp_path, ask)


def test_what_is_left_at_the_end_of_the_block_is_killed(tmp_path: Path) -> None:
    async def ask(control: Control) -> int:
        async with await control.open_stream(protocol.EXEC, {"argv": ["sh", "-c", "echo $$; sleep 60"]}) as stream:
            piece = await stream.read()
            assert piece
            return await asyncio.sleep(0.1, int(piece[1]))

    pid = with_guest(tmp_path, ask)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_broken_channel_ends_streams_with_an_error_and_kills_what_runs(tmp_path: Path) -> None:
    async def ask() -> int:
        guest = Guest(tmp_path)
        far = guest.connect()
        control = Control(await channel_over(far))
        await control.hello()
        stream = await control.open_stream(protocol.EXEC, {"argv": ["sh", "-c", "echo $$; exec sleep 60"]})
        piece = await stream.read()
        assert piece
        guest.sessions[0].closed = True
        far.shutdown(socket.SHUT_RDWR)
        with pytest.raises(GuestError, match="closed the control channel"):
            await stream.read()
        with pytest.raises(GuestError, match="closed the control channel"):
            await stream.wait()
        await asyncio.sleep(0.2)
        await control.close()
        guest.close()
        return int(piece[1])

    with pytest.raises(ProcessLookupError):
        os.kill(asyncio.run(ask()), 0)


def test_a_new_host_is_in_step_after_another_left_half_a_line(tmp_path: Path) -> None:
    async def ask() -> None:
        guest = Guest(tmp_path)
        far = guest.connect()
        far.send(b"\x01" + b"5/i " + bytes(range(256)) * 10)
        control = Control(await channel_over(far))  # over the same session, as on the port
        await control.hello()
        heard, _ = await run(control, "echo", "in step")
        assert heard["stdout"] == b"in step\n"
        await control.close()
        guest.close()

    asyncio.run(ask())


def test_connect_leads_to_a_listener_and_both_ends_can_half_close(tmp_path: Path) -> None:
    async def reverse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        writer.close()

    async def ask(control: Control) -> tuple[bytes, Exit]:
        server = await asyncio.start_server(reverse, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, await control.open_stream(protocol.CONNECT, {"port": port}) as stream:
            await stream.write(b"stressed" * 50_000)
            await stream.write_eof()
            return (await hear(stream))["stdout"], await stream.wait()

    heard, ended = with_guest(tmp_path, ask)
    assert heard == b"desserts" * 50_000
    assert ended == Exit(0, None, False, "")


def test_a_port_where_nobody_listens_is_refused(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        async def ask(control: Control) -> None:
            with pytest.raises(RefusedError, match="Connection refused"):
                await control.open_stream(protocol.CONNECT, {"port": port})
            await control.ping()

        with_guest(tmp_path, ask)


# --- hostile guests ---


def hostile(*said: bytes) -> Exit:
    """What a stream makes of a guest that agrees to it and then says `said` (with %d for its number)."""

    async def ask() -> Exit:
        near, far = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=far)

        async def guest() -> None:
            while line := await reader.readline():
                if not line.strip():
                    continue
                message = frames.decode(line[:-1])
                if message.type == protocol.HELLO:
                    writer.write(protocol.encode("hello", {"version": 1, "features": ["raw"]}, message.id))
                elif message.type == protocol.EXEC:
                    writer.write(protocol.ack("exec", id=message.id))
                    for text in said:
                        writer.write(text.replace(b"%d", b"%d" % message.id))
                elif message.type == protocol.PING:
                    writer.write(protocol.pong(message.id))

        task = asyncio.create_task(guest())
        control = Control(await channel_over(near))
        try:
            async with asyncio.timeout(10):
                await control.hello()
                stream = await control.open_stream(protocol.EXEC, {"argv": ["x"]})
                try:
                    return await stream.wait()
                finally:
                    await control.ping()  # the conversation goes on
        finally:
            task.cancel()
            await control.close()
            writer.close()

    return asyncio.run(ask())


def of_stream(kind: str, payload: str) -> bytes:
    return b'{"type":"%b","id":%%d,"payload":%b}\n' % (kind.encode(), payload.encode())


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (of_stream("data", '{"stream":"stdin","data":""}'), "which it has not"),
        (of_stream("data", '{"stream":"other","data":""}'), "that there is not"),
        (of_stream("data", '{"stream":"stdout","data":"?"}'), "not base64"),
        (of_stream("data", '{"stream":"stdout","data":3}'), "not base64"),
        (of_stream("data", "{}"), "that there is not"),
        (b"\x01%d/o " + b"x" * 60_000 + b"\n", "more than 49152"),
        (of_stream("eof", '{"stream":"stdout"}') + b"\x01%d/o x\n", "which has ended"),
        (of_stream("window", '{"bytes":0}'), "a window"),
        (of_stream("window", '{"bytes":true}'), "a window"),
        (of_stream("exit", '{"code":256}'), "exit code"),
        (of_stream("exit", '{"code":true}'), "exit code"),
        (of_stream("exit", '{"code":0,"signal":"\\u001b[2J"}'), "exit signal"),
        (of_stream("exit", '{"code":0,"timed_out":1}'), "an exit"),
        (of_stream("pong", "{}"), "'pong' in a stream"),
        (b"\x01%d/o " + b"x" * 49_152 + b"\n", ""),
    ],
)
def test_a_guest_that_breaks_the_rules_of_a_stream_loses_that_stream_only(said: bytes, complaint: str) -> None:
    if not complaint:
        said, complaint = said * 30, "more data than was allowed"
    with pytest.raises(GuestError, match=complaint):
        hostile(said)


def test_messages_of_streams_that_there_are_not_are_passed_over() -> None:
    said = b"\x01999/o x\n" + protocol.encode("exit", {"code": 1}, 77), of_stream("exit", '{"code":3}')
    assert hostile(*said).code == 3
