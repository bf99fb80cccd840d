"""Unpack a .zst while it comes: into a sparse file, hashed, in threads of its own so that all cores have work.

Who receives puts the compressed bytes in as they come. One thread makes content of them (bounded: a frame may claim
to be anything), one writes that and one hashes it. They wait for each other over short queues, so the memory is the
same for any disk.
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
_WAITING = 8  # pieces in a queue
_FLUSHED = 16 << 20
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
        self._packed, self._plain, self._seen = _Pipe(), _Pipe(), _Pipe()
        self._fault: BaseException | None = None
        self._size = 0
        works = ((self._unpack, self._packed), (self._write, self._plain), (self._hash, self._seen))
        self._threads = [Thread(target=self._guarded, args=work, daemon=True) for work in works]

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
        self._packed.end()
        for thread in self._threads:
            thread.join()

    def _raise(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _guarded(self, work: Callable[[], None], source: _Pipe) -> None:
        try:
            work()
        except BaseException as error:  # it belongs to who puts and finishes
            self._fault = self._fault or error
        finally:
            source.drain()

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
                    self._seen.put(data)
        except (zstandard.ZstdError, MemoryError) as error:
            raise self._mismatch(f"is no sound zstd: {error}") from error
        finally:
            self._plain.end()
            self._seen.end()

    def _write(self) -> None:
        offset = 0
        with self._path.open("wb", buffering=0) as file:
            while (data := self._plain.get()) is not None:
                _write_sparse(file.fileno(), data, offset)
                offset += len(data)
                flush_behind(file.fileno(), offset, len(data))
            file.truncate(offset)

    def _hash(self) -> None:
        digest, size = hashlib.sha256(), 0
        while (data := self._seen.get()) is not None:
            digest.update(data)
            size += len(data)
        if self._fault is None and (digest.hexdigest(), size) != (self._content.sha256, self._content.size):
            raise self._mismatch(f"becomes {size} bytes with the digest sha256:{digest.hexdigest()}")

    def _mismatch(self, what: str) -> DigestMismatch:
        return DigestMismatch(f"{what}, and should become {self._content.file}", where=f"{self._content.file}.zst")


class _Pipe:
    """A short queue of pieces with an end that is remembered."""

    def __init__(self) -> None:
        self._queue: Queue[bytes | None] = Queue(_WAITING)
        self._ended = False

    def put(self, piece: bytes) -> None:
        self._queue.put(piece)

    def end(self) -> None:
        self._queue.put(None)

    def get(self) -> bytes | None:
        """The next piece; None from the end on."""
        piece = None if self._ended else self._queue.get()
        self._ended = piece is None
        return piece

    def drain(self) -> None:
        """Take all up to the end: whoever fills it must never wait for ever."""
        while self.get() is not None:
            pass


class _Source:
    """What zstandard reads from: a pipe, as a file."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        data = self._left or self._pipe.get() or b""
        self._left = data[size:] if size >= 0 else b""
        return data[:size] if size >= 0 else data


def flush_behind(fd: int, end: int, written: int) -> None:
    """Have the kernel begin to bring what was written to the disk, every now and then; this waits for nothing.

    Else all of it waits for the fsync. `written` bytes up to `end` are new.
    """
    start = (end - written) // _FLUSHED * _FLUSHED
    until = end // _FLUSHED * _FLUSHED
    if start < until and hasattr(os, "posix_fadvise"):  # macOS has none
        os.posix_fadvise(fd, start, until - start, os.POSIX_FADV_DONTNEED)


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
