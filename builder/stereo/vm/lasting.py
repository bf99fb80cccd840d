"""A control channel that is there from the beginning, over connections that are made, lost and made again.

A virtio port is open as long as its machine runs. A vsock is a connection to a daemon: there is none before stereosd
listens, and it ends with stereosd. What vfkit offers for it is a socket of the host that takes every connection, and
hangs up if the guest did not. So a connection counts from the first byte that the guest says, and what was said to it
before is said again over the next one. To have it say something, each connection begins with a ping, whose answer
means nothing to who did not ask.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

from stereo.vm.machine import Channel
from stereos_guest import protocol
from stereos_guest.protocol import MAX_LINE

_CHUNK = 1 << 16
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 1.0
_FIRST_PATIENCE, _LONGEST_PATIENCE = 2.0, 30.0
_MOST_UNHEARD = 1 << 20


async def pair(limit: int = 1 << 16) -> tuple[Channel, Channel]:
    """Two channels, each the far end of the other; `limit` is that of the first one's reader."""
    near, far = socket.socketpair()
    return (
        Channel(*await asyncio.open_connection(sock=near, limit=limit)),
        Channel(*await asyncio.open_connection(sock=far)),
    )


class LastingChannel:
    """`channel` leads to whoever is reached by `path`, a unix socket, as soon as somebody is. Close it in the end."""

    def __init__(self, channel: Channel, far: Channel, path: Path) -> None:
        self.channel = channel
        self._far = far
        self._path = path
        self._unheard = bytearray()  # what no guest has heard yet
        self._answered = asyncio.Event()
        self._lost = False  # whether somebody answered before, and is gone
        self._writer: asyncio.StreamWriter | None = None
        self._tasks = [asyncio.create_task(self._speak()), asyncio.create_task(self._keep())]

    @classmethod
    async def to(cls, path: Path) -> LastingChannel:
        """One to the socket at `path`, which need not be there yet."""
        return cls(*await pair(2 * MAX_LINE), path)

    async def close(self) -> None:
        """End both sides."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for writer in (self._far.writer, self.channel.writer, *([self._writer] if self._writer else [])):
            writer.close()

    async def _speak(self) -> None:
        """Pass on what our side says."""
        with suppress(ConnectionError):
            while data := await self._far.reader.read(_CHUNK):
                if not self._answered.is_set():
                    self._unheard += data
                if self._writer:
                    self._writer.write(data)
                    with suppress(ConnectionError):  # who reads finds out, and what is lost with it
                        await self._writer.drain()
                while len(self._unheard) > _MOST_UNHEARD:
                    await self._answered.wait()

    async def _keep(self) -> None:
        """Have a connection, again and again."""
        delay, patience = _FIRST_DELAY, _FIRST_PATIENCE
        while True:
            if await self._converse(patience):
                delay, patience = _FIRST_DELAY, _FIRST_PATIENCE
            await asyncio.sleep(delay)
            delay, patience = min(2 * delay, _LONGEST_DELAY), min(2 * patience, _LONGEST_PATIENCE)

    async def _converse(self, patience: float) -> bool:
        """One connection, to its end. Whether the guest said anything; it gets `patience` seconds to begin."""
        try:
            reader, self._writer = await asyncio.open_unix_connection(self._path)
        except OSError:
            return False
        try:
            self._writer.write(protocol.encode(protocol.PING) + bytes(self._unheard))
            data = await asyncio.wait_for(reader.read(_CHUNK), patience)
            if data and self._lost:
                # It knows nothing of what was said before: a daemon that was started anew tells so on a virtio port.
                self._far.writer.write(b"\n" + protocol.lifecycle(protocol.BOOTING))
            while data:
                self._lost = True
                self._unheard.clear()
                self._answered.set()
                self._far.writer.write(data)
                await self._far.writer.drain()
                data = await reader.read(_CHUNK)
        except (OSError, TimeoutError):
            pass
        finally:
            self._writer.close()
            self._writer = None
        answered = self._answered.is_set()
        self._answered.clear()
        return answered
