"""A gate in this process, between real sockets of loopback, whose outside world is a table."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from stereo.egress.gate import DNS_TCP, DNS_UDP, PROXY, Gate
from stereo.egress.log import Log, read_log
from stereo.egress.policy import Unreachable
from stereo.model.egress import Address, Rules


@dataclass
class World:
    """Names and their addresses, and which port of loopback stands for an address and port."""

    names: dict[str, list[str]] = field(default_factory=dict)
    routes: dict[tuple[str, int], int] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    lookups: list[str] = field(default_factory=list)
    connected: list[tuple[str, int]] = field(default_factory=list)
    on_lookup: Callable[[], None] = lambda: None
    on_connect: Callable[[], None] = lambda: None

    async def lookup(self, name: str) -> Sequence[Address]:
        self.lookups.append(name)
        self.on_lookup()
        if name not in self.names:
            raise Unreachable("looking it up failed: no such name", missing=True)
        return [ip_address(text) for text in self.names[name]]

    def is_own(self, address: Address) -> bool:
        return str(address) in self.own

    async def connect(self, address: Address, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.connected.append((str(address), port))
        if (str(address), port) not in self.routes:
            raise ConnectionRefusedError(111, "Connection refused")
        self.on_connect()
        return await asyncio.open_connection("127.0.0.1", self.routes[str(address), port])


@dataclass
class Running:
    """A gate that runs in a thread of its own."""

    world: World
    log: Path
    ports: dict[tuple[str, int], int]
    _loop: asyncio.AbstractEventLoop
    _gate: Gate

    @property
    def proxy(self) -> int:
        return self.ports[PROXY]

    def apply(self, *rules: str) -> int:
        """Put rules in force; how many connections were closed."""

        async def replace() -> int:
            return self._gate.apply(Rules.parse(rules))

        return asyncio.run_coroutine_threadsafe(replace(), self._loop).result(10)

    def rows(self, verdict: str | None = None) -> list[dict[str, Any]]:
        return [row for row in read_log(self.log) if verdict in (None, row["verdict"])]

    def talk(self, data: bytes, *, key: tuple[str, int] = PROXY, seconds: float = 10) -> bytes:
        """Send, and take all that comes until the gate closes."""
        with self.dial(key, seconds) as client:
            client.sendall(data)
            return drain(client)

    def dial(self, key: tuple[str, int] = PROXY, seconds: float = 10) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[key]), timeout=seconds)


def drain(client: socket.socket) -> bytes:
    """All that comes until the other side closes, or breaks off."""
    whole = bytearray()
    try:
        while data := client.recv(1 << 16):
            whole += data
    except ConnectionResetError:
        pass
    return bytes(whole)


def listening(kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A socket as a supervisor hands it over."""
    made = socket.socket(socket.AF_INET, kind)
    made.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        made.listen(64)
    return made


@contextmanager
def running(
    folder: Path, *rules: str, world: World | None = None, relays: Sequence[int] = (), **timing: float
) -> Iterator[Running]:
    """A gate with `rules`, for the length of a `with` block. `timing`: see `Gate`."""
    world = world or World()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    with ExitStack() as stack:
        stack.callback(loop.close)
        stack.callback(thread.join)
        stack.callback(lambda: loop.call_soon_threadsafe(loop.stop))
        keys = [PROXY, DNS_TCP, *(("tcp", port) for port in relays)]
        sockets = {key: stack.enter_context(listening()) for key in keys}
        sockets[DNS_UDP] = stack.enter_context(listening(socket.SOCK_DGRAM))
        path = folder / "egress.jsonl"
        gate = Gate(sockets, Rules.parse(rules), Log(path), world, **timing)
        asyncio.run_coroutine_threadsafe(gate.__aenter__(), loop).result(10)
        ports = {key: each.getsockname()[1] for key, each in sockets.items()}
        yield Running(world, path, ports, loop, gate)
        asyncio.run_coroutine_threadsafe(gate.__aexit__(), loop).result(10)


@dataclass
class Site:
    """An HTTP server, and what it was asked. `block` is waited for in the middle of /stream."""

    port: int = 0
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    block: threading.Event = field(default_factory=threading.Event)
    sent: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        self.site.asked.append((self.command, self.path, dict(self.headers.items()), b""))
        if self.path == "/stream":
            self._stream()
        elif self.path.startswith("/big/"):
            self._big(int(self.path.rpartition("/")[2]))
        elif self.path == "/nothing":
            self.send_response(204)
            self.end_headers()
        elif self.path == "/upgraded":
            self.connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nraw")
            self.close_connection = True
        else:
            self._say(b"hello from " + self.path.encode())

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.site.asked.append((self.command, self.path, dict(self.headers.items()), body))
        self._say(b"took %d bytes" % len(body))

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "X-Private")
        self.send_header("X-Private", "for the next hop alone")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self) -> None:
        """Events without a length, the second of them after `block`; the end is the end of the connection."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"data: one\n\n")
        self.site.block.wait(10)
        self.wfile.write(b"data: two\n\n")

    def _big(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        piece = bytes(1 << 16)
        while self.site.sent < size:
            self.wfile.write(piece)
            self.site.sent += len(piece)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        return  # clients that hang up are what is tested


@contextmanager
def site() -> Iterator[Site]:
    """An HTTP server on loopback, for the length of a `with` block."""
    made = Site()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": made}))
    server.daemon_threads = True
    server.block_on_close = False
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.block.set()
        server.shutdown()
        server.server_close()
        thread.join()
