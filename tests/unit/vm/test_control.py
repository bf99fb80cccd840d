"""The control channel against guests of every kind. The guest is a coroutine at the far end of a socket pair."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.vm.control import Control, GuestError, printable
from stereo.vm.machine import Channel
from stereos_guest import protocol
from stereos_guest.session import Session
from stereos_guest.stereosd import Daemon

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


async def real_daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    daemon = Daemon({"initrd_start": 1.0})
    daemon.become_ready()
    session = daemon.port_session()
    writer.write(daemon.announcement())
    while data := await reader.read(7):
        for answer in session.receive(data):
            writer.write(answer)


def ready(control: Control) -> Awaitable[Any]:
    return control.wait_for_state(("ready",), 5)


def test_the_real_daemon_is_heard_and_asked() -> None:
    async def ask(control: Control) -> None:
        assert (await ready(control)).boot["initrd_start"] == 1.0
        await control.ping()
        health = await control.health()
        assert health.state == "ready"
        assert health.uptime_seconds == 0

    talk(real_daemon, ask)


def test_a_request_before_the_announcement_is_answered_too() -> None:
    talk(real_daemon, lambda control: control.ping())


def test_half_a_request_of_a_former_host_does_not_spoil_the_first_one() -> None:
    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(Daemon({}).handlers, survives_overlong=True)
        session.receive(b'{"type":"pi')
        for answer in session.receive(await reader.read(1000)):
            writer.write(answer)

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
        writer.write(protocol.health("ready", 5, boot={"ready": 3.0}))

    assert talk(quiet, ready).boot == {"ready": 3.0}
