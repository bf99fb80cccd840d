"""Ports of this host's loopback that lead into the guest, by streams of the control channel.

So they work in every network mode, and the guest needs no network for them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from stereo.errors import StereoError
from stereo.vm.control import GuestError
from stereos_guest import protocol

if TYPE_CHECKING:
    from stereo.vm.control import Control
    from stereo.vm.stream import Stream

log = logging.getLogger(__name__)

_CHUNK = 1 << 16
_MOST = 24  # connections at once; a conversation has 64 streams, and other verbs want some


def reserve(port: int | None) -> socket.socket:
    """A socket that listens on this host's loopback; without `port` on any that is free. Raises StereoError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port or 0))
        listener.listen(_MOST)
    except OSError as error:
        listener.close()
        raise StereoError(f"cannot be listened on: {error.strerror}", where=f"127.0.0.1:{port}") from None
    return listener


class Tunnels:
    """All tunnels of one sandbox. Close it when the machine is gone."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._servers: list[asyncio.Server] = []
        self._open: set[asyncio.Task[None]] = set()

    async def lead(self, listener: socket.socket, guest_port: int) -> None:
        """Let connections to `listener` arrive at `guest_port` of the guest's loopback."""

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(self._open) >= _MOST:
                writer.close()
                return
            task = asyncio.create_task(self._carry(reader, writer, guest_port))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

        self._servers.append(await asyncio.start_server(connected, sock=listener, backlog=_MOST))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guest_port: int) -> None:
        inward: asyncio.Task[None] | None = None
        try:
            async with await self._control.open_stream(protocol.CONNECT, {"port": guest_port}) as stream:
                inward = asyncio.create_task(_send(reader, stream))
                while piece := await stream.read():
                    writer.write(piece[1])
                    await writer.drain()
        except (GuestError, OSError) as error:
            log.info("a connection to the guest's port %d ended: %s", guest_port, error)
        finally:
            if inward:
                inward.cancel()
            writer.close()

    async def close(self) -> None:
        """End all connections, and take no more."""
        for server in self._servers:
            server.close()
        for task in list(self._open):
            task.cancel()
        if self._open:
            await asyncio.wait(self._open, timeout=1)


async def _send(reader: asyncio.StreamReader, stream: Stream) -> None:
    with suppress(GuestError, OSError):  # whoever reads the stream hears of it too
        while data := await reader.read(_CHUNK):
            await stream.write(data)
        await stream.write_eof()
