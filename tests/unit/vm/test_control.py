"""The control channel against guests of every kind. The guest is a coroutine at the far end of a socket pair."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from makers.live_guest import ANNOUNCEMENT, PLAIN
from stereo.vm.control import Control, GuestError, RefusedError, printable
from stereo.vm.machine import Channel
from stereos_guest import protocol
from stereos_guest.session import Session

T = TypeVar("T")
Guest = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def talk(guest: Guest, ask: Callable[[Control], Awaitable[T]]) -> T:
    async def run() -> T:
        near, far = socket.socketpair()
        channel = Channel(*await asyncio.open_connection(sock=near))
        reader, writer = await asyncio.open_connection(sock=far)
        task = asyncio.ensure_future(guest(reader, writer))
        try:
            return await ask(Control(channel))
        finally:
            task.cancel()
            writer.close()
            channel.writer.close()

    return asyncio.run(run())


def saying(*chunks: bytes, then_close: bool = False) -> Guest:
    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        if then_close:
            writer.close()

    return guest


async def real_session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    session = Session(PLAIN, survives_overlong=True)
    writer.write(ANNOUNCEMENT)
    while data := await reader.read(7):
        await answer(session, data, writer)


async def answer(session: Session, data: bytes, writer: asyncio.StreamWriter) -> None:
    session.receive(data)
    while session.work():
        pass
    writer.write(session.take(1 << 20))


def ready(control: Control) -> Awaitable[Any]:
    return control.wait_for_state(("ready",), 5)


def test_the_real_session_is_heard_and_asked() -> None:
    async def ask(control: Control) -> None:
        assert (await ready(control)).boot["initrd_start"] == 1.0
        await control.ping()
        health = await control.health()
        assert health.state == "ready"
        assert health.uptime_seconds == 0

    talk(real_session, ask)


def test_a_request_before_the_announcement_is_answered_too() -> None:
    talk(real_session, lambda control: control.ping())


def test_half_a_request_of_a_former_host_does_not_spoil_the_first_one() -> None:
    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(PLAIN, survives_overlong=True)
        session.receive(b'{"type":"pi')
        await answer(session, await reader.read(1000), writer)

    talk(guest, lambda control: control.ping())


def test_the_end_of_a_former_hosts_answer_is_passed_over() -> None:
    talk(saying(b'oting"}}\n', protocol.lifecycle("ready")), ready)


def test_a_state_in_pieces_is_put_together() -> None:
    line = protocol.lifecycle("booting") + protocol.lifecycle("ready")
    assert talk(saying(*(line[i : i + 1] for i in range(len(line)))), ready).state == "ready"


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"\x00garbage\n\x00more garbage\n", "does not speak the protocol: malformed JSON"),
        (b"x" * (2 * protocol.MAX_LINE), "a line of more than 1048576 bytes"),
        (b"[" * 100_000 + b"\n{\n", "malformed JSON"),
        (protocol.encode("set_config", {}), "a guest does not send 'set_config'"),
        (protocol.encode("lifecycle"), "has no payload"),
        (protocol.encode("lifecycle", {}), "a state that there is not"),
        (protocol.encode("lifecycle", {"state": ["ready"]}), "a state that there is not"),
        (protocol.encode("lifecycle", {"state": "ready", "message": 1}), "message is not text"),
        (protocol.encode("lifecycle", {"state": "ready", "boot": {"a": "b"}}), "not a table of seconds"),
        (protocol.encode("lifecycle", {"state": "ready", "boot": {"a": True}}), "not a table of seconds"),
        (protocol.encode("lifecycle", {"state": "ready", "boot": {"a": -1}}), "not a table of seconds"),
        (protocol.encode("lifecycle", {"state": "ready", "boot": {"a": 10**400}}), "not a table of seconds"),
        (protocol.encode("lifecycle", {"state": "ready", "boot": {"a\x1b": 1}}), "not a table of seconds"),
        (protocol.encode("lifecycle", {"state": "ready", "boot": {f"a{i}": 1 for i in range(99)}}), "not a table"),
    ],
)
def test_a_guest_that_breaks_the_protocol_is_told_off(said: bytes, complaint: str) -> None:
    with pytest.raises(GuestError, match=complaint):
        talk(saying(said), ready)


@pytest.mark.parametrize(
    "payload",
    [
        {"state": "fine", "uptime_seconds": 1},
        {"state": "ready", "uptime_seconds": -1},
        {"state": "ready", "uptime_seconds": True},
        {"state": "ready", "uptime_seconds": 1.5},
        {"state": "ready"},
        {"state": "ready", "uptime_seconds": 1, "agents": {}},
        {"state": "ready", "uptime_seconds": 1, "agents": [1]},
        {"state": "ready", "uptime_seconds": 1, "agents": [{}] * 1001},
        [],
    ],
)
def test_health_that_makes_no_sense_is_refused(payload: object) -> None:
    line = json.dumps({"type": "health", "payload": payload}).encode() + b"\n"
    with pytest.raises(GuestError, match="does not speak the protocol"):
        talk(saying(line), lambda control: control.health())


def test_a_silent_guest_is_given_up_in_time() -> None:
    with pytest.raises(GuestError, match=r"not ready after 0.1 s; it never spoke"):
        talk(saying(), lambda control: control.wait_for_state(("ready",), 0.1))
    with pytest.raises(GuestError, match=r"no answer to ping within 0.1 s"):
        talk(saying(), lambda control: control.ping(0.1))


def test_a_guest_that_stays_booting_is_given_up_with_its_last_state() -> None:
    with pytest.raises(GuestError, match="the last state was booting"):
        talk(saying(protocol.lifecycle("booting")), lambda control: control.wait_for_state(("ready",), 0.1))


def test_a_guest_that_floods_is_given_up_in_time() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(protocol.lifecycle("booting") * 1000)
            await writer.drain()

    with pytest.raises(GuestError, match="not ready after"):
        talk(flood, lambda control: control.wait_for_state(("ready",), 0.3))


def test_a_guest_that_hangs_up_is_told() -> None:
    with pytest.raises(GuestError, match="closed the control channel"):
        talk(saying(b'{"type":', then_close=True), ready)


def test_a_refused_request_tells_the_guests_reason_without_its_control_characters() -> None:
    with pytest.raises(GuestError, match="refused ping: no\N{REPLACEMENT CHARACTER}") as caught:
        talk(saying(protocol.ack("ping", "no\x1b[2Jway")), lambda control: control.ping())
    assert "\x1b" not in str(caught.value)


def test_a_refusal_of_something_else_is_not_ours() -> None:
    talk(saying(protocol.ack("", "malformed JSON: x") + protocol.pong()), lambda control: control.ping())


@given(st.binary(max_size=300))
def test_no_guest_raises_anything_but_a_guest_error(said: bytes) -> None:
    with pytest.raises(GuestError):
        talk(saying(said, then_close=True), ready)


@given(st.text())
def test_printable_text_cannot_command_a_terminal(text: str) -> None:
    assert all(letter.isprintable() or letter in "\n\t" for letter in printable(text))


def test_a_guest_that_agrees_to_shut_down_is_believed() -> None:
    said = protocol.ack("", "malformed JSON: x") + protocol.ack("mount") + protocol.ack("shutdown")
    talk(saying(said), lambda control: control.shutdown())


def test_a_guest_that_declines_to_shut_down_is_quoted() -> None:
    with pytest.raises(GuestError, match="refused shutdown: not now"):
        talk(saying(protocol.ack("shutdown", "not now")), lambda control: control.shutdown())


def test_an_ack_of_something_else_is_not_an_agreement() -> None:
    with pytest.raises(GuestError, match="no answer to shutdown"):
        talk(saying(protocol.ack("mount")), lambda control: control.shutdown(0.1))


def test_a_ping_that_was_lost_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stereo.vm.control._FIRST_PATIENCE", 0.05)

    async def forgetful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(protocol.encode("ping"))
        await reader.readuntil(protocol.encode("ping"))
        writer.write(protocol.pong())

    talk(forgetful, lambda control: control.ping(5))


def test_a_guest_that_was_ready_before_we_came_is_found_ready_by_asking() -> None:
    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(protocol.encode("get_health"))
        writer.write(protocol.encode("health", protocol.health("ready", 5, boot={"ready": 3.0})))

    assert talk(quiet, ready).boot == {"ready": 3.0}


# --- after hello ---


def greeting(*said: bytes, answers: bytes = b"") -> Guest:
    """Says hello, then `said`, and to each request what `answers` says (%d stands for its number)."""

    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if not line.strip():
                continue
            message = protocol.decode(line[:-1])
            if message.type == protocol.HELLO:
                writer.write(protocol.encode("hello", {"version": 1, "features": ["id"], "software": "x"}, message.id))
                for text in said:
                    writer.write(text)
            else:
                writer.write(answers.replace(b"%d", b"%d" % message.id))

    return guest


def test_a_guest_that_knows_no_hello_is_told_so() -> None:
    with pytest.raises(RefusedError, match="unknown message type: hello"):
        talk(saying(protocol.unknown_type("hello")), lambda control: control.hello(0.5))


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"version": True, "features": []},
        {"version": 2, "features": []},
        {"version": 1},
        {"version": 1, "features": [1]},
        {"version": 1, "features": ["x"] * 101},
        {"version": 1, "features": [], "software": 5},
    ],
)
def test_a_hello_that_makes_no_sense_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(GuestError, match="does not speak the protocol: hello"):
        talk(saying(protocol.encode("hello", payload)), lambda control: control.hello(0.5))


def test_streams_need_a_hello_first() -> None:
    with pytest.raises(GuestError, match="exec needs a hello first"):
        talk(saying(), lambda control: control.open_stream("exec", {"argv": ["true"]}))


def test_answers_in_any_order_find_who_asked() -> None:
    async def late_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: list[Any] = []
        while line := await reader.readline():
            if not line.strip():
                continue
            message = protocol.decode(line[:-1])
            if message.type == protocol.HELLO:
                writer.write(protocol.encode("hello", {"version": 1, "features": []}))
                continue
            held.append(message)
            if len(held) == 20:
                for late in reversed(held):
                    writer.write(protocol.encode("secrets", {"names": [late.payload["n"]]}, late.id))

    async def ask(control: Control) -> list[Any]:
        await control.hello()
        asked = (control.request("list_secrets", {"n": n}, answer="secrets") for n in range(20))
        return [body["names"] for body in await asyncio.gather(*asked)]

    assert talk(late_first, ask) == [[n] for n in range(20)]


def test_before_hello_requests_wait_for_each_other() -> None:
    async def ask(control: Control) -> None:
        await asyncio.gather(*(control.ping() for _ in range(10)), control.health())

    talk(real_session, ask)


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        (b'{"type":"ack","id":%d,"payload":{"reply_to":"mount","ok":false,"error":"no"}}\n', "refused mount: no"),
        (b'{"type":"ack","id":%d,"payload":{"reply_to":"other","ok":true}}\n', "'other' in place of one of mount"),
        (b'{"type":"ack","id":%d,"payload":{"reply_to":"mount"}}\n', "without reply_to and ok"),
        (b'{"type":"ack","id":%d,"payload":[]}\n', "not an object"),
        (b'{"type":"pong","id":%d}\n', "'pong' in answer to mount"),
        (b'{"type":"ack","id":4}\n', "no answer to mount"),
        (b"\x01%d/o data\n", "'data' in answer to mount"),
    ],
)
def test_a_wrong_answer_is_told_to_who_asked(answers: bytes, complaint: str) -> None:
    async def ask(control: Control) -> None:
        await control.hello()
        await control.request("mount", {}, seconds=0.3)

    with pytest.raises(GuestError, match=complaint):
        talk(greeting(answers=answers), ask)


def test_news_reach_every_listener_in_order() -> None:
    told = [protocol.lifecycle("ready"), protocol.encode("event", {"kind": "agent"}), protocol.lifecycle("degraded")]

    async def ask(control: Control) -> list[list[str]]:
        async def listen() -> list[str]:
            heard = []
            async with aclosing(control.events()) as news:
                async for message in news:
                    heard.append(message.type)
                    if len(heard) == 3:
                        break
            return heard

        listening = [asyncio.create_task(listen()) for _ in range(2)]
        await asyncio.sleep(0)
        await control.hello()
        return [await task for task in listening]

    assert talk(greeting(*told), ask) == [["lifecycle", "event", "lifecycle"]] * 2


def test_news_end_when_the_guest_is_gone() -> None:
    async def ask(control: Control) -> int:
        listening = asyncio.create_task(count(control))
        with pytest.raises(GuestError, match="closed the control channel"):
            await control.hello()
        return await listening

    async def count(control: Control) -> int:
        return len([message async for message in control.events()])

    assert talk(saying(protocol.lifecycle("ready"), then_close=True), ask) == 1


def test_a_closed_conversation_tells_those_who_wait() -> None:
    async def ask(control: Control) -> None:
        asking = asyncio.create_task(control.ping())
        await asyncio.sleep(0.05)
        await control.close()
        with pytest.raises(GuestError, match="was closed"):
            await asking
        with pytest.raises(GuestError, match="was closed"):
            await control.ping()

    talk(saying(), ask)


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_no_guest_that_said_hello_raises_anything_but_a_guest_error(said: list[bytes]) -> None:
    async def ask(control: Control) -> None:
        await control.hello()
        await control.open_stream("exec", {"argv": ["x"]}, seconds=0.01)

    with pytest.raises(GuestError):
        talk(greeting(*said, answers=b"\x01%d/o \n"), ask)


@pytest.mark.parametrize("last_words", [b"", b'{"type":"da', b"\x015/o half", b'{"type":"lifecycle","payl'])
def test_a_daemon_that_was_started_anew_is_greeted_again_and_what_was_open_is_lost(last_words: bytes) -> None:
    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if not line.strip():
                continue
            message = protocol.decode(line[:-1])
            if message.type == protocol.HELLO:
                writer.write(protocol.encode("hello", {"version": 1, "features": ["id"], "software": "x"}, message.id))
            elif message.type == protocol.PING:
                writer.write(protocol.pong(message.id))
            elif message.type == protocol.EXEC:
                writer.write(protocol.ack(message.type, id=message.id))
                writer.write(last_words + b"\n" + protocol.lifecycle("booting") + protocol.lifecycle("ready"))

    async def ask(control: Control) -> None:
        await control.hello()
        stream = await control.open_stream("exec", {"argv": ["x"]})
        with pytest.raises(GuestError, match="was started anew"):
            await stream.wait()
        await control.ping()
        await asyncio.sleep(0.05)
        assert control.greeting
        await control.open_stream("exec", {"argv": ["x"]})

    talk(guest, ask)


def test_a_daemon_that_dies_while_it_is_greeted_again_is_greeted_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stereo.vm.control._GREETING_SECONDS", 0.05)
    deaf = [False, True, True, True, False]  # to the first hello, to those after

    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if not line.strip():
                continue
            message = protocol.decode(line[:-1])
            if message.type == protocol.HELLO and not deaf.pop(0):
                writer.write(protocol.encode("hello", {"version": 1, "features": ["id"], "software": "x"}, message.id))
            elif message.type == protocol.PING:
                writer.write(protocol.lifecycle("booting") + protocol.lifecycle("ready"))

    async def ask(control: Control) -> None:
        await control.hello()
        with pytest.raises(GuestError, match="was started anew"):
            await control.ping()
        async with asyncio.timeout(5):
            while control.greeting is None:
                await asyncio.sleep(0.01)

    talk(guest, ask)


def test_a_line_that_makes_no_sense_ends_the_conversation_with_what_follows_it() -> None:
    async def ask(control: Control) -> None:
        await control.hello()
        await control.ping()

    with pytest.raises(GuestError, match="malformed JSON"):
        talk(greeting(protocol.lifecycle("ready"), b'{"nonsense\n', answers=b'{"type":"pong","id":%d}\n'), ask)
