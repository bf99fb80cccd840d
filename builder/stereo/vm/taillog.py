"""Follows a file that a hypervisor writes the guest's console to, and keeps it from filling the disk.

The file is cut when much of it was read. Whoever writes to it may go on where it was, which leaves a hole that takes no
room, or at the new end; either is followed.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

_PAUSE = 0.05
_CHUNK = 1 << 16
_LIMIT = 1 << 20  # bytes that were read, before they go


class TailLog:
    """Writes what comes into `path` to `writer`, for as long as `follow` runs."""

    def __init__(self, path: Path, writer: asyncio.StreamWriter) -> None:
        self._path = path
        self._writer = writer
        self._position = 0
        self._cut = 0

    async def follow(self) -> None:
        """Until cancelled; then `rest` is what is left."""
        while True:
            await self._pass_on()
            await asyncio.sleep(_PAUSE)

    async def rest(self) -> None:
        """What was written last, when nobody writes any more, and then the end."""
        try:
            await self._pass_on()
        finally:
            self._writer.close()

    async def _pass_on(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            if 0 < os.fstat(descriptor).st_size < self._position:
                self._position = self._cut = 0  # it goes on at the new end
            while data := os.pread(descriptor, _CHUNK, self._position):
                self._position += len(data)
                self._writer.write(data)
                await self._writer.drain()
            if self._position - self._cut > _LIMIT:
                os.ftruncate(descriptor, 0)
                self._cut = self._position
        finally:
            os.close(descriptor)
