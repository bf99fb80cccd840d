"""QEMU's machine protocol over a connected socket: two requests, and errors in our own terms."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress

from qemu.qmp import QMPClient, QMPError

from stereo.errors import StereoError

# The library logs every broken connection as an error; a machine that ends breaks its connection each time.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class Qmp:
    """A session with one QEMU."""

    def __init__(self) -> None:
        self._client = QMPClient("stereo")

    async def connect(self, sock: socket.socket, seconds: float) -> None:
        """Greet and negotiate. Raises StereoError, also when QEMU does not answer in time."""
        try:
            await asyncio.wait_for(self._client.connect(sock), seconds)
        except (QMPError, TimeoutError, OSError) as error:
            raise StereoError(f"QEMU does not answer on its monitor: {error or 'no answer in time'}") from error

    async def request(self, command: str, seconds: float = 5) -> bool:
        """Send a command; False if QEMU refused it or is gone."""
        try:
            await asyncio.wait_for(self._client.execute(command), seconds)
        except (QMPError, TimeoutError, OSError, asyncio.IncompleteReadError):
            return False
        return True

    async def close(self) -> None:
        """End the session; it may be broken already."""
        with suppress(QMPError, TimeoutError, OSError, EOFError):
            await asyncio.wait_for(self._client.disconnect(), 2)
