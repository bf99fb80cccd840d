"""The supervisor's end of the socket that it was born with: it tells `up` how far it is.

See `messages` for what is told.
"""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any

from stereo.errors import StereoError
from stereo.sandbox.job import Job
from stereo.sandbox.messages import FAILED, NOTE, PHASE


class Parent:
    """Whoever started us."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, job: Job) -> None:
        self._reader = reader
        self._writer = writer
        self._job = job

    @classmethod
    async def on(cls, sock: socket.socket, job: Job) -> Parent:
        """The parent at the other end of `sock`."""
        return cls(*await asyncio.open_connection(sock=sock), job)

    def tell(self, event: str, **fields: Any) -> None:
        """One event."""
        self._writer.write(json.dumps({"event": event, **fields}).encode() + b"\n")

    def phase(self, phase: str) -> None:
        """A phase begins, and ends the one before."""
        self.tell(PHASE, phase=phase)

    def note(self, text: str) -> None:
        """Something that went wrong and stops nothing."""
        self.tell(NOTE, text=text)

    def failed(self, error: StereoError | OSError) -> None:
        """It will not come to anything."""
        if isinstance(error, StereoError):
            fault = {"what": self._job.redact(error.what), "where": error.where, "hint": error.hint}
        else:
            fault = {"what": error.strerror, "where": error.filename and str(error.filename), "hint": None}
        self.tell(FAILED, error=fault)

    async def gone(self) -> None:
        """Return when nobody listens any more."""
        with suppress(ConnectionError):
            while await self._reader.read(1 << 16):
                pass

    def close(self) -> None:
        """There is no more to tell."""
        self._writer.close()

    async def flushed(self) -> None:
        """Return when all was heard, or cannot be."""
        with suppress(ConnectionError, TimeoutError):
            await asyncio.wait_for(self._writer.drain(), 2)
        self._writer.close()
        with suppress(ConnectionError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), 2)
