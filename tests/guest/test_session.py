"""A conversation: what is answered to what, in which order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_guest import protocol
from stereos_guest.session import Session
from stereos_guest.stereosd import Daemon


def heard(session: Session, sent: bytes = b"") -> list[bytes]:
    """The lines that a session answers with once it has worked through what was `sent`."""
    session.receive(sent)
    said = b""
    while True:
        busy = session.work()
        more = session.take(1 << 16)
        said += more
        if not busy and not more:
            return said.splitlines(keepends=True)


def session_of(daemon: Daemon, *, survives_overlong: bool = True) -> Session:
    return Session(daemon.handlers, survives_overlong=survives_overlong)


def ask(*requests: bytes, survives_overlong: bool = True) -> list[Any]:
    session = session_of(Daemon({}), survives_overlong=survives_overlong)
    return [json.loads(answer) for answer in heard(session, b"".join(requests))]


def errors(answers: list[Any]) -> list[tuple[str, str]]:
    assert all(answer["type"] == "ack" and answer["payload"]["ok"] is False for answer in answers)
    return [(answer["payload"]["reply_to"], answer["payload"]["error"]) for answer in answers]


def test_ping_is_answered_by_a_pong_without_payload() -> None:
    assert ask(b'{"type":"ping"}\n') == [{"type": "pong"}]


def test_health_tells_state_uptime_and_the_phases_of_the_boot() -> None:
    daemon = Daemon({"initrd_start": 1.5})
    daemon.become_ready()
    [answer] = heard(session_of(daemon), b'{"type":"get_health","payload":null}\n')
    payload = json.loads(answer)["payload"]
    assert payload["state"] == "ready"
    assert payload["uptime_seconds"] == 0
    assert payload["boot"]["initrd_start"] == 1.5
    assert payload["boot"]["ready"] > 0


def test_requests_are_answered_in_their_order() -> None:
    assert [a["type"] for a in ask(b'{"type":"ping"}\n{"type":"nope"}\n{"type":"get_health"}\n')] == [
        "pong",
        "ack",
        "health",
    ]


def test_half_a_request_waits_for_its_other_half() -> None:
    session = session_of(Daemon({}))
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


@pytest.mark.parametrize("kind", ["set_config", "inject_secret", "inject_ssh_key", "mount"])
def test_a_type_that_needs_a_payload_says_so(kind: str) -> None:
    assert errors(ask(protocol.encode(kind))) == [(kind, f"envelope {kind} has no payload")]


@pytest.mark.parametrize("kind", ["set_config", "inject_secret", "inject_ssh_key", "mount"])
def test_what_this_version_cannot_do_is_refused_truthfully(kind: str) -> None:
    assert errors(ask(protocol.encode(kind, {}))) == [(kind, f"{kind} is not supported by this version of stereosd")]


@pytest.mark.parametrize("request_line", [b'{"type":"shutdown"}\n', b'{"type":"shutdown","payload":[1]}\n'])
def test_shutdown_is_acked_and_begun_once_whatever_its_payload(request_line: bytes) -> None:
    begun: list[int] = []
    daemon = Daemon({}, lambda: begun.append(1))
    daemon.become_ready()
    answers = heard(session_of(daemon), request_line * 2)
    assert answers == [protocol.ack("shutdown")] * 2
    assert begun == [1]
    assert daemon.state == "shutdown"


def test_a_daemon_that_is_not_in_charge_of_a_machine_declines_to_shut_down() -> None:
    assert errors(ask(b'{"type":"shutdown"}\n')) == [("shutdown", "this stereosd is not in charge of a machine")]


def test_every_request_of_the_original_has_a_handler() -> None:
    assert set(Daemon({}).handlers) == set(protocol.ORIGINAL)


def test_on_a_stream_that_stays_an_overlong_line_is_dropped_and_told() -> None:
    refused, pong = ask(b"x" * (protocol.MAX_LINE + 5) + b"\n", b'{"type":"ping"}\n')
    assert refused["payload"]["error"].startswith("malformed JSON: line over")
    assert pong == {"type": "pong"}


def test_on_a_connection_an_overlong_line_ends_it_unanswered() -> None:
    session = session_of(Daemon({}), survives_overlong=False)
    stream = b'{"type":"ping"}\n' + b"x" * (protocol.MAX_LINE + 5) + b'\n{"type":"ping"}\n'
    assert heard(session, stream) == [b'{"type":"pong"}\n']
    assert session.closed


@given(st.lists(st.binary(max_size=60)))
def test_no_input_breaks_a_session(chunks: list[bytes]) -> None:
    session = session_of(Daemon({}))
    for chunk in chunks:
        for answer in heard(session, chunk):
            protocol.decode(answer[:-1])
    assert heard(session, b'\n{"type":"ping"}\n')[-1] == b'{"type":"pong"}\n'
