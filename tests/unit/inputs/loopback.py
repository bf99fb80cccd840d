"""A mirror on the loopback interface that serves what a test gives it, and misbehaves as told."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every small answer waits for an acknowledgement
    mirror: Mirror

    def do_GET(self) -> None:
        self.mirror.answer(self)

    def do_HEAD(self) -> None:
        self.mirror.answer(self)

    def log_message(self, *_: object) -> None:
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:  # a client that hangs up is part of the play
        return


Behaviour = Callable[["Mirror", _Handler, bytes], None]


@dataclass
class Request:
    """What was asked: `headers` have lower-case names."""

    method: str
    path: str
    headers: dict[str, str]
    client: int  # the port at its end of the connection


@dataclass
class Mirror:
    """`files` by path; `behaviours` by path are used up one per request, after which the path is served well."""

    files: dict[str, bytes] = field(default_factory=dict)
    behaviours: dict[str, list[Behaviour]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    port: int = 0

    def answer(self, handler: _Handler) -> None:
        headers = {key.lower(): value for key, value in handler.headers.items()}
        self.requests.append(Request(handler.command, handler.path, headers, handler.client_address[1]))
        waiting = self.behaviours.get(handler.path)
        content = self.files.get(handler.path)
        if waiting:
            waiting.pop(0)(self, handler, content or b"")
        elif content is None:
            send(handler, 404, b"no such file\n")
        else:
            well(self, handler, content)

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


@contextmanager
def mirror() -> Iterator[Mirror]:
    """A running mirror, ended with all its connections when the block ends."""
    made = Mirror()
    handler = type("Handler", (_Handler,), {"mirror": made})
    server = _Server(("127.0.0.1", 0), handler)
    made.port = server.server_address[1]
    made.url = f"http://127.0.0.1:{made.port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.released.set()
        server.shutdown()
        server.server_close()


def send(handler: _Handler, status: int, body: bytes, **headers: str) -> None:
    """A whole answer."""
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def well(_: Mirror, handler: _Handler, content: bytes) -> None:
    """What a good server does, ranges included."""
    asked = handler.headers.get("Range")
    if asked is None:
        send(handler, 200, content)
        return
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    if start >= len(content):
        send(handler, 416, b"")
        return
    stated = f"bytes {start}-{len(content) - 1}/{len(content)}"
    send(handler, 206, content[start:], Content_Range=stated)


def status(code: int) -> Behaviour:
    """Answers with a status and a short text."""
    return lambda _mirror, handler, _content: send(handler, code, b"go away\n")


def redirect(target: str, code: int = 302) -> Behaviour:
    """Points elsewhere."""
    return lambda _mirror, handler, _content: send(handler, code, b"", Location=target)


def wrong_bytes(_: Mirror, handler: _Handler, content: bytes) -> None:
    """As many bytes as there should be, but others."""
    send(handler, 200, bytes(byte ^ 1 for byte in content))


def ignores_range(_: Mirror, handler: _Handler, content: bytes) -> None:
    """The whole file, whatever was asked for."""
    send(handler, 200, content)


def wrong_range(_: Mirror, handler: _Handler, content: bytes) -> None:
    """Another part of the file than the one that was asked for."""
    send(handler, 206, content[1:], Content_Range=f"bytes 1-{len(content) - 1}/{len(content)}")


def breaks_off(after: int, *, reset: bool = False) -> Behaviour:
    """Promises the whole (rest of the) file and hangs up `after` bytes of it; with `reset` by a TCP reset."""

    def behave(_: Mirror, handler: _Handler, content: bytes) -> None:
        asked = handler.headers.get("Range", "bytes=0-")
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(content[start : start + after])
        handler.wfile.flush()
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True
        handler.connection.close() if reset else handler.connection.shutdown(socket.SHUT_RDWR)

    return behave


def endless(_: Mirror, handler: _Handler, content: bytes) -> None:
    """A body without a stated length that never ends."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    chunk = content * (1 + (1 << 16) // max(1, len(content)))
    while True:
        handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")


def ends_early(after: int) -> Behaviour:
    """States no length and ends the body properly `after` bytes of it."""

    def behave(_: Mirror, handler: _Handler, content: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(content[:after])

    return behave


def stalls(after: int) -> Behaviour:
    """Sends the beginning and then nothing, without hanging up, until the test is over."""

    def behave(mirror: Mirror, handler: _Handler, content: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:after])
        handler.wfile.flush()
        mirror.released.wait(60)
        handler.close_connection = True

    return behave
