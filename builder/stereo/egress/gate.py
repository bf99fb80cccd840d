"""The gate: listening sockets, and who serves what comes in on each.

    tcp 3128        the HTTP proxy
    tcp and udp 53  the name server
    tcp PORT        the host's loopback at PORT, while a rule names host.stereo.internal:PORT

A guest has a number of connections per socket, and then waits: whoever floods one socket shuts out nobody but himself.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from stereo.egress.log import Log
from stereo.egress.nameserver import NameServer
from stereo.egress.passage import IDLE_SECONDS, Passages, let_go
from stereo.egress.policy import Outside, Refused, Unreachable
from stereo.egress.proxy import HEAD_SECONDS, ProxyClient, tunnel
from stereo.model.egress import HOST_NAME, Rules

PROXY: Final = ("tcp", 3128)
DNS_UDP: Final = ("udp", 53)
DNS_TCP: Final = ("tcp", 53)
_CONNECTIONS: Final = {PROXY: 256, DNS_TCP: 16}
_RELAYED: Final = 64
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Gate:
    """Serves sockets that listen already. `idle` and `head` are in seconds, see `passage` and `proxy`."""

    def __init__(
        self,
        sockets: Mapping[tuple[str, int], socket.socket],
        rules: Rules,
        log: Log,
        outside: Outside,
        *,
        idle: float = IDLE_SECONDS,
        head: float = HEAD_SECONDS,
    ) -> None:
        self._sockets = sockets
        self._passages = Passages(rules, log, outside, idle)
        self._names = NameServer(self._passages)
        self._head = head
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Gate:
        loop = asyncio.get_running_loop()
        for key, listener in self._sockets.items():
            listener.setblocking(False)
            if key == DNS_UDP:
                await loop.create_datagram_endpoint(self._names.udp, sock=listener)
            else:
                self._start(self._accept(listener, self._server_of(key), _CONNECTIONS.get(key, _RELAYED)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def apply(self, rules: Rules) -> int:
        """Put new rules in force; how many connections were closed because of them."""
        return self._passages.replace(rules)

    def _server_of(self, key: tuple[str, int]) -> Serve:
        if key == PROXY:
            return lambda reader, writer: ProxyClient(self._passages, reader, writer, self._head).serve()
        if key == DNS_TCP:
            return self._names.serve_tcp
        return lambda reader, writer: self._relay(reader, writer, key[1])

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        async with self._passages.open("tcp", HOST_NAME, port) as passage:
            await tunnel(reader, writer, passage)

    async def _accept(self, listener: socket.socket, serve: Serve, most: int) -> None:
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(most)
        while True:
            await room.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                room.release()
                if error.errno in _OUT_OF_DESCRIPTORS:
                    await asyncio.sleep(0.2)
                continue
            self._start(self._serve(connection, serve)).add_done_callback(lambda _: room.release())

    async def _serve(self, connection: socket.socket, serve: Serve) -> None:
        with suppress(OSError, Refused, Unreachable), connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            reader, writer = await asyncio.open_connection(sock=connection)
            try:
                await serve(reader, writer)
            finally:
                await let_go(writer)

    def _start(self, coroutine: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(coroutine)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
