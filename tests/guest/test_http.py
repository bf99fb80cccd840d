"""The HTTP server on a unix socket: requests whole, in pieces, too long, malformed, many on one connection."""

from __future__ import annotations

import json
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_guest import http, sockets
from stereos_guest.http import HttpServer, HttpVisit
from stereos_guest.loop import Loop


def respond(method: str, path: str, body: bytes) -> tuple[int, Any]:
    if path == "/none":
        return http.NOT_FOUND
    return 200, {"method": method, "path": path, "body": body.decode()}


def answers(*pieces: bytes) -> bytes:
    """What is answered to pieces of a stream, in one connection."""
    visit = HttpVisit(respond, lambda: None)
    said = b""
    for piece in pieces:
        if visit.hungry:
            visit.receive(piece)
        while True:
            more = visit.work()
            taken = visit.take(1 << 20)
            said += taken
            if not more and not taken:
                break
    return said


def parsed(answer: bytes) -> tuple[int, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


GET = b"GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_request_is_answered_in_json() -> None:
    said = answers(GET)
    assert said.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
    assert parsed(said) == (200, {"method": "GET", "path": "/v1/ping", "body": ""})


def test_a_body_may_come_byte_by_byte() -> None:
    request = b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
    assert parsed(answers(*(bytes([byte]) for byte in request)))[1]["body"] == "hello"


def test_several_requests_on_one_connection_are_answered_in_order() -> None:
    said = answers(GET + GET.replace(b"ping", b"health"))
    assert said.index(b"/v1/ping") < said.index(b"/v1/health")


def test_text_goes_out_as_text() -> None:
    said = answers(b"GET /none HTTP/1.1\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\n")
    assert said.endswith(b"\r\n\r\n404 page not found\n")


def test_a_path_is_unescaped_and_a_query_is_left_out() -> None:
    assert parsed(answers(b"GET /a%20b?c=d HTTP/1.1\r\n\r\n"))[1]["path"] == "/a b"


def test_a_client_that_waits_for_leave_to_send_gets_it() -> None:
    said = answers(b"POST /x HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", b"hi")
    assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("head", [b"GET /x HTTP/1.0\r\n\r\n", b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n"])
def test_who_wants_one_answer_gets_no_more(head: bytes) -> None:
    said = answers(head + GET)
    assert b"Connection: close" in said
    assert said.count(b"HTTP/1.1 200") == 1


def test_head_has_no_body() -> None:
    said = answers(b"HEAD /x HTTP/1.1\r\n\r\n")
    assert said.endswith(b"\r\n\r\n")
    assert b"Content-Length: 39" in said


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET x HTTP/1.1\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\n\r\n", 400),
        (b"GET /%ff HTTP/1.1\r\n\r\n", 400),
        (b"GET /x HTTP/2.0\r\n\r\n", 505),
        (b"GET /x HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nSpace : x\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", 413),
        (b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"GET /" + b"x" * 20000, 431),
    ],
)
def test_what_is_no_request_is_refused_and_ends_the_connection(request_bytes: bytes, status: int) -> None:
    said = answers(request_bytes, GET)
    assert parsed(said)[0] == status
    assert set(parsed(said)[1]) == {"error"}
    assert said.count(b"HTTP/1.1 ") == 1


@given(st.lists(st.binary(max_size=80) | st.just(GET), max_size=5))
def test_no_input_breaks_it(pieces: list[bytes]) -> None:
    answers(*pieces)


# --- over a socket ---


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def client(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(path))
    return connection


def test_it_serves_a_socket_of_root_and_nobody_else_where_the_group_is_missing(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.touch()  # as a former process may leave it
    server = HttpServer(loop, str(path), "no-such-group", respond)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with client(path) as connection:
        connection.sendall(GET)
        for _ in range(5):
            loop.turn(0.05)
        assert parsed(connection.recv(4096))[0] == 200
    server.close()


def test_a_client_that_stops_sending_still_gets_its_answer(loop: Loop, tmp_path: Path) -> None:
    HttpServer(loop, str(tmp_path / "s"), "no-such-group", respond)
    with client(tmp_path / "s") as connection:
        connection.sendall(GET)
        connection.shutdown(socket.SHUT_WR)
        for _ in range(5):
            loop.turn(0.05)
        assert parsed(connection.recv(4096))[0] == 200
        assert connection.recv(1) == b""


def test_of_too_many_connections_the_last_are_turned_away(loop: Loop, tmp_path: Path) -> None:
    HttpServer(loop, str(tmp_path / "s"), "no-such-group", respond)
    many = []
    for _ in range(sockets.MOST_CONNECTIONS + 3):
        many.append(client(tmp_path / "s"))
        loop.turn(0.05)
    assert [connection.recv(1) for connection in many[-3:]] == [b""] * 3
    many[0].sendall(GET)
    loop.turn(0.05)
    assert many[0].recv(4096)
    for connection in many:
        connection.close()


def test_who_does_not_finish_its_request_in_time_is_hung_up_on(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(http, "_PATIENCE", 0.3)
    HttpServer(loop, str(tmp_path / "s"), "no-such-group", respond)
    with client(tmp_path / "s") as slow:
        for _ in range(200):
            try:
                slow.send(b"G")
            except OSError:
                break
            loop.turn(0.05)
            time.sleep(0.01)
        else:
            pytest.fail("it was waited for")
