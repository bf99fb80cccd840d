"""Follows a file that a hypervisor writes the guest's console to, and keeps it from filling the disk.

The file is cut when much of it was read, and when much of it was not: a guest that says more than anybody hears loses
its words, and takes no room. Whoever writes to it may go on where it was, which leaves a hole that takes no room, or at
the new end; either is followed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

_PAUSE = 0.05
_CHUNK = 1 << 16
_LIMIT = 1 << 20  # bytes that were read, before they go
_MOST = 64 << 20  # bytes on the disk, read or not
_BLOCK = 512  # of st_blocks, see stat(2)


class TailLog:
    """Writes what comes into `path` to `writer`, for as long as `follow` runs; `keep_small` is to run beside it."""

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

    async def keep_small(self) -> None:
        """Until cancelled, whether anybody reads or not."""
        while True:
            with suppress(FileNotFoundError):
                self._drop()
            await asyncio.sleep(_PAUSE)

    async def rest(self) -> None:
        """What was written last, when nobody writes any more, and then the end."""
        try:
            await self._pass_on()
        finally:
            self._writer.close()

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _drop(self) -> None:
        descriptor = self._open()
        try:
            there = os.fstat(descriptor)
            if there.st_blocks * _BLOCK > _MOST:
                os.ftruncate(descriptor, 0)
                log.warning("the guest said more than was heard: %d bytes are lost", there.st_size - self._position)
                self._position = self._cut = there.st_size
        finally:
            os.close(descriptor)

    async def _pass_on(self) -> None:
        try:
            descriptor = self._open()
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
