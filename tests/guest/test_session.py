"""A conversation: what is answered to what, in which order, and who gets the next turn."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from makers.guest import heard
from stereos_guest import protocol, session
from stereos_guest.protocol import Message, ProtocolError
from stereos_guest.session import Session

if TYPE_CHECKING:
    from stereos_guest.session import Handler

PING = b'{"type":"ping"}\n'


class Slow:
    """A handler that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[Message, Session]] = []

    def __call__(self, message: Message, session: Session) -> None:
        self.asked.append((message, session))

    def answer(self) -> None:
        message, session = self.asked.pop(0)
        session.answer(message, protocol.ack(message.type, id=message.id))


class Stream:
    """Has `lines` to say."""

    def __init__(self, *lines: bytes) -> None:
        self.lines = list(lines)
        self.got: list[str] = []
        self.abandoned = 0

    def receive(self, message: Message) -> None:
        self.got.append(message.type)
        if message.payload == "bad":
            raise ProtocolError("bad data")

    def take(self) -> bytes | None:
        return self.lines.pop(0) if self.lines else None

    def abandon(self) -> None:
        self.abandoned += 1


def refuse(message: Message, session: Session) -> bytes:
    message.body()
    raise ProtocolError("no")


def fail(message: Message, session: Session) -> bytes:
    raise FileNotFoundError(2, "No such file or directory", "/somewhere")


HANDLERS: dict[str, Handler] = {
    "ping": lambda message, session: protocol.pong(message.id),
    "mount": refuse,
    "set_config": fail,
    "list_secrets": lambda message, session: protocol.encode("secrets", {"names": []}, message.id),
}


def ask(*requests: bytes, survives_overlong: bool = True) -> list[Any]:
    session = Session(HANDLERS, survives_overlong=survives_overlong)
    return [json.loads(answer) for answer in heard(session, b"".join(requests))]


def greeted(**handlers: Handler) -> Session:
    session = Session({**HANDLERS, **handlers})
    session.greet(["id"])
    return session


def errors(answers: list[Any]) -> list[tuple[str, str]]:
    assert all(answer["type"] == "ack" and answer["payload"]["ok"] is False for answer in answers)
    return [(answer["payload"]["reply_to"], answer["payload"]["error"]) for answer in answers]


def test_half_a_request_waits_for_its_other_half() -> None:
    session = Session(HANDLERS)
    assert heard(session, b'{"type":"pi') == []
    assert heard(session, b'ng"}\n') == [b'{"type":"pong"}\n']


def test_blank_lines_are_skipped() -> None:
    assert ask(b"\n \r\n\n") == []


def test_malformed_json_is_acked_as_failed_and_the_talk_goes_on() -> None:
    broken, good = ask(b'{"type":\n{"type":"ping"}\n')
    assert broken["payload"]["reply_to"] == ""
    assert broken["payload"]["error"].startswith("malformed JSON:")
    assert good == {"type": "pong"}


@pytest.mark.parametrize("kind", ["nope", "", *protocol.REPLIES])
def test_an_unknown_type_and_a_guests_own_are_acked_as_failed(kind: str) -> None:
    assert errors(ask(protocol.encode(kind))) == [(kind, f"unknown message type: {kind}")]


def test_a_type_that_needs_a_payload_says_so() -> None:
    assert errors(ask(protocol.encode("mount"))) == [("mount", "envelope mount has no payload")]


def test_what_the_machine_refuses_is_acked_as_failed() -> None:
    assert errors(ask(protocol.encode("set_config"))) == [("set_config", "/somewhere: No such file or directory")]


def test_on_a_stream_that_stays_an_overlong_line_is_dropped_and_told() -> None:
    refused, pong = ask(b"x" * (protocol.MAX_LINE + 5) + b"\n", PING)
    assert refused["payload"]["error"].startswith("malformed JSON: line over")
    assert pong == {"type": "pong"}


def test_on_a_connection_an_overlong_line_ends_it_unanswered() -> None:
    session = Session(HANDLERS)
    assert heard(session, PING + b"x" * (protocol.MAX_LINE + 5) + b"\n" + PING) == [b'{"type":"pong"}\n']
    assert session.closed


@given(st.lists(st.binary(max_size=60)))
def test_no_input_breaks_a_session(chunks: list[bytes]) -> None:
    session = greeted()
    for chunk in chunks:
        for answer in heard(session, chunk):
            protocol.decode(answer[:-1])
    assert heard(session, b"\n" + PING)[-1] == b'{"type":"pong"}\n'


# --- order ---


def test_without_numbers_who_is_slow_holds_up_those_behind_it() -> None:
    slow = Slow()
    session = Session({**HANDLERS, "mount": slow})
    assert heard(session, protocol.encode("mount") + PING) == []
    assert not session.hungry
    slow.answer()
    assert heard(session) == [protocol.ack("mount"), protocol.pong()]


def test_with_numbers_nobody_is_held_up() -> None:
    slow = Slow()
    session = greeted(mount=slow)
    asked = protocol.encode("mount", id=1) + protocol.encode("ping", id=2)
    assert heard(session, asked) == [protocol.pong(2)]
    slow.answer()
    assert heard(session) == [protocol.ack("mount", id=1)]


def test_an_answer_to_a_host_that_left_is_nobodys() -> None:
    slow = Slow()
    session = Session({"mount": slow})
    heard(session, protocol.encode("mount"))
    session.end()
    slow.answer()
    assert session.take(100) == b""


# --- hello ---


@pytest.mark.parametrize("kind", ["list_secrets", "exec", "data", "cancel"])
def test_before_hello_our_extension_does_not_exist(kind: str) -> None:
    assert errors(ask(protocol.encode(kind, {}, 3))) == [(kind, f"unknown message type: {kind}")]


def test_after_hello_it_does() -> None:
    assert heard(greeted(), protocol.encode("list_secrets", id=4)) == [protocol.encode("secrets", {"names": []}, 4)]


def test_a_locked_session_answers_nothing_and_closes() -> None:
    session = Session(HANDLERS, locked=True)
    [answer] = heard(session, PING + PING)
    assert json.loads(answer)["payload"]["error"] == "this connection needs a token"
    assert session.closed


def test_a_locked_session_is_told_nothing_unasked() -> None:
    session = Session(HANDLERS, locked=True)
    session.push("lifecycle", b"news\n")
    assert heard(session) == []


@pytest.mark.parametrize("line", [b"\xff\n", b"x" * (protocol.MAX_LINE + 5)])
def test_a_locked_session_closes_on_nonsense(line: bytes) -> None:
    session = Session(HANDLERS, locked=True, survives_overlong=True)
    heard(session, line)
    assert session.closed


def test_before_its_handlers_are_there_a_session_takes_nothing() -> None:
    handlers: dict[str, Handler] = {}
    session = Session(handlers)
    assert not session.hungry
    handlers.update(HANDLERS)
    assert session.hungry


# --- turns ---


def test_a_flood_is_worked_through_a_little_at_a_time() -> None:
    session = Session(HANDLERS)
    session.receive(PING * 1000)
    assert session.work() is True
    assert 0 < session.take(1 << 20).count(b"pong") < 100


def test_who_does_not_take_its_answers_is_not_worked_for() -> None:
    session = Session(HANDLERS)
    session.receive(PING * 10_000)
    while session.work():
        pass
    assert len(session.take(1 << 22)) < 1 << 18
    assert session.work()


def test_answers_go_before_streams_and_streams_take_turns() -> None:
    session = greeted()
    session.open(1, Stream(b"a\n", b"a\n", b"a\n"))
    session.open(2, Stream(b"b\n"))
    session.open(3, Stream(b"c\n", b"c\n"))
    heard_in_order = session.take(0) + b"".join(heard(session, PING))
    assert heard_in_order == b'{"type":"pong"}\na\nb\nc\na\nc\na\n'


def test_no_more_is_taken_than_there_is_room_for() -> None:
    session = greeted()
    flood = Stream(*[b"x" * 99 + b"\n"] * 50)
    session.open(1, flood)
    assert len(session.take(1000)) == 1000
    assert len(flood.lines) == 40


def test_messages_reach_their_stream_and_unknown_ones_nobody() -> None:
    session = greeted()
    stream = Stream()
    session.open(7, stream)
    said = heard(session, protocol.encode("data", {}, 7) + protocol.encode("eof", {}, 8) + protocol.encode("data", {}))
    assert stream.got == ["data"]
    assert errors([json.loads(line) for line in said]) == [("data", "data needs an id")]


def test_what_a_stream_does_not_accept_is_acked_as_failed() -> None:
    session = greeted()
    session.open(7, Stream())
    said = heard(session, protocol.encode("data", None, 7)[:-2] + b',"payload":"bad"}\n')
    assert errors([json.loads(line) for line in said]) == [("data", "bad data")]
    assert json.loads(said[0])["id"] == 7


def test_streams_need_numbers_of_their_own_and_are_few() -> None:
    opened = greeted()
    opened.open(1, Stream())
    for number in (0, 1):
        with pytest.raises(ProtocolError):
            opened.open(number, Stream())
    for number in range(2, session.MOST_STREAMS + 1):
        opened.open(number, Stream())
    with pytest.raises(ProtocolError, match="open already"):
        opened.open(1000, Stream())
    opened.close_stream(1)
    opened.open(1000, Stream())


def test_with_the_host_its_streams_end() -> None:
    session = greeted()
    stream = Stream(b"late\n")
    session.open(1, stream)
    session.end()
    assert stream.abandoned == 1
    assert session.take(100) == b""


def test_a_new_hello_begins_anew() -> None:
    """On a port, nobody tells that the host is another one."""
    session = greeted()
    stream = Stream()
    session.open(1, stream)
    session.greet([])
    assert stream.abandoned == 1
    session.open(1, Stream())


# --- pushes ---


def test_of_news_that_nobody_took_the_last_is_kept() -> None:
    session = greeted()
    for state in ("ready", "degraded", "healthy"):
        session.push("lifecycle", protocol.lifecycle(state))
    session.push("agent a", b"a\n")
    assert heard(session) == [protocol.lifecycle("healthy"), b"a\n"]


def test_news_are_bounded() -> None:
    session = greeted()
    for number in range(5000):
        session.push(f"agent {number}", b"x\n")
    assert len(heard(session)) <= 1000


def test_what_is_new_wakes_who_carries_it() -> None:
    woken: list[int] = []
    session = greeted()
    session.wake = lambda: woken.append(1)
    session.push("lifecycle", b"x\n")
    session.send(b"y\n")
    assert len(woken) == 2
