"""Unpack a .zst while it comes: into a sparse file, hashed, in threads of its own so that all cores have work.

Who receives puts the compressed bytes in as they come. One thread makes content of them (bounded: a frame may claim
to be anything), another writes and hashes that. Both wait for each other over short queues, so the memory is the same
for any disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import IO, cast

import zstandard

from stereo.artifacts.zst import LARGEST_WINDOW
from stereo.registry.errors import DigestMismatch

PIECE = 1 << 20
_WAITING = 6  # pieces in a queue
_GRAIN = 64 << 10  # zeros of this size, at such a border, become a hole
_ZEROS = bytes(_GRAIN)


@dataclass(frozen=True)
class Content:
    """What a .zst must become: `size` bytes of this SHA-256."""

    file: str
    sha256: str
    size: int


class Unpacking:
    """A running unpacking of one .zst into `path`. A context: on leaving it its threads are gone."""

    def __init__(self, path: Path, content: Content) -> None:
        self._content = content
        self._path = path
        self._packed: Queue[bytes | None] = Queue(_WAITING)
        self._plain: Queue[bytes | None] = Queue(_WAITING)
        self._fault: BaseException | None = None
        self._size = 0
        self._threads = [Thread(target=self._guarded, args=[work], daemon=True) for work in (self._unpack, self._write)]

    def __enter__(self) -> Unpacking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fault = self._fault or error
        self._end()

    def put(self, piece: bytes) -> None:
        """Take the next bytes of the .zst. Raises what went wrong so far."""
        self._raise()
        self._packed.put(piece)

    def finish(self) -> None:
        """All was put: wait for the end. Raises `DigestMismatch` unless the content is what it must be, and OSError."""
        self._end()
        self._raise()

    def _end(self) -> None:
        self._packed.put(None)
        for thread in self._threads:
            thread.join()

    def _raise(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # it belongs to who puts and finishes
            self._fault = self._fault or error
            source = self._packed if work == self._unpack else self._plain
            while source.get() is not None:  # whoever fills it must never wait for ever
                pass
        finally:
            if work == self._unpack:
                self._plain.put(None)

    def _unpack(self) -> None:
        source = _Source(self._packed)
        machine = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
        try:
            with machine.stream_reader(
                cast("IO[bytes]", source), read_size=PIECE, read_across_frames=True, closefd=False
            ) as reader:
                while self._fault is None and (data := reader.read(PIECE)):
                    self._size += len(data)
                    if self._size > self._content.size:
                        raise self._mismatch(f"becomes more than {self._content.size} bytes")
                    self._plain.put(data)
        except (zstandard.ZstdError, MemoryError) as error:
            raise self._mismatch(f"is no sound zstd: {error}") from error
        source.drain()

    def _write(self) -> None:
        digest, offset = hashlib.sha256(), 0
        with self._path.open("wb", buffering=0) as file:
            while (data := self._plain.get()) is not None:
                digest.update(data)
                _write_sparse(file.fileno(), data, offset)
                offset += len(data)
            file.truncate(offset)
        if self._fault is None and (digest.hexdigest(), offset) != (self._content.sha256, self._content.size):
            raise self._mismatch(f"becomes {offset} bytes with the digest sha256:{digest.hexdigest()}")

    def _mismatch(self, what: str) -> DigestMismatch:
        return DigestMismatch(f"{what}, and should become {self._content.file}", where=f"{self._content.file}.zst")


class _Source:
    """What zstandard reads from: the queue, as a file. The end of it is remembered."""

    def __init__(self, queue: Queue[bytes | None]) -> None:
        self._queue = queue
        self._left = b""
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        if not self._left and not self._ended:
            piece = self._queue.get()
            self._ended = piece is None
            self._left = piece or b""
        data, self._left = (self._left, b"") if size < 0 else (self._left[:size], self._left[size:])
        return data

    def drain(self) -> None:
        """Until the end, if that was not met yet."""
        while not self._ended:
            self._left = b""
            self.read()


def _write_sparse(fd: int, data: bytes, offset: int) -> None:
    """Write what is not zeros; the file is empty from `offset` on."""
    start = None
    for position in range(0, len(data), _GRAIN):
        if data.startswith(_ZEROS[: len(data) - position], position):
            if start is not None:
                _write_at(fd, memoryview(data)[start:position], offset + start)
            start = None
        elif start is None:
            start = position
    if start is not None:
        _write_at(fd, memoryview(data)[start:], offset + start)


def _write_at(fd: int, view: memoryview, position: int) -> None:
    while view:
        written = os.pwrite(fd, view, position)
        view, position = view[written:], position + written
