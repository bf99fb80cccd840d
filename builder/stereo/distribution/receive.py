"""Unpack a .zst while it comes: into a sparse file, hashed, in threads of its own so that all cores have work.

Who receives puts the compressed bytes in as they come. One thread makes content of them (bounded: a frame may claim
to be anything), one hashes that, and one writes it. A fixed number of blocks of memory goes round between them, so the
memory is the same for any disk, and whoever is ahead waits for the others.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import IO, Any, Generic, TypeVar, cast

import zstandard

from stereo.artifacts.zst import LARGEST_WINDOW
from stereo.registry.errors import DigestMismatch

Item = TypeVar("Item")

PIECE = 1 << 20
_WAITING = 8  # pieces of the .zst, and blocks of the content
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
        self._packed: _Pipe[bytes] = _Pipe()
        self._unpacked: _Pipe[_Block] = _Pipe()
        self._hashed: _Pipe[_Block] = _Pipe()
        self._free: SimpleQueue[_Block] = SimpleQueue()
        for _ in range(_WAITING):
            self._free.put(_Block())
        self._fault: BaseException | None = None
        works = (
            (self._unpack, self._packed, self._unpacked),
            (self._hash, self._unpacked, self._hashed),
            (self._write, self._hashed, None),
        )
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

    def _guarded(self, work: Callable[[], None], source: _Pipe[Any], target: _Pipe[_Block] | None) -> None:
        try:
            work()
        except BaseException as error:  # it belongs to who puts and finishes
            self._fault = self._fault or error
        finally:
            for left in source:  # whoever is ahead must never wait for ever
                if isinstance(left, _Block):
                    self._free.put(left)
            if target is not None:
                target.end()

    def _unpack(self) -> None:
        source = _Source(self._packed)
        machine = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
        total = 0
        try:
            with machine.stream_reader(
                cast("IO[bytes]", source), read_size=PIECE, read_across_frames=True, closefd=False
            ) as reader:
                while self._fault is None and (block := self._free.get()).fill(reader.readinto):
                    total += block.size
                    if total > self._content.size:
                        raise self._mismatch(f"becomes more than {self._content.size} bytes")
                    self._unpacked.put(block)
        except (zstandard.ZstdError, MemoryError) as error:
            raise self._mismatch(f"is no sound zstd: {error}") from error

    def _hash(self) -> None:
        digest, size = hashlib.sha256(), 0
        for block in self._unpacked:
            digest.update(block.view(0, block.size))
            size += block.size
            self._hashed.put(block)
        if self._fault is None and (digest.hexdigest(), size) != (self._content.sha256, self._content.size):
            raise self._mismatch(f"becomes {size} bytes with the digest sha256:{digest.hexdigest()}")

    def _write(self) -> None:
        offset = 0
        with self._path.open("wb", buffering=0) as file:
            fd = file.fileno()
            for block in self._hashed:
                for start, end in block.stretches():
                    _write_at(fd, block.view(start, end), offset + start)
                offset += block.size
                flush_behind(fd, offset, block.size)
                self._free.put(block)
            file.truncate(offset)
            flush_rest(fd, offset)

    def _mismatch(self, what: str) -> DigestMismatch:
        return DigestMismatch(f"{what}, and should become {self._content.file}", where=f"{self._content.file}.zst")


class _Block:
    """The next `size` bytes of the content, in memory that is used again and again: new memory costs more time."""

    def __init__(self) -> None:
        self._memory = bytearray(PIECE)
        self.size = 0

    def fill(self, readinto: Callable[[memoryview], int]) -> int:
        """Have it full, unless the content ends. Returns its size."""
        self.size = 0
        while self.size < PIECE and (count := readinto(self.view(self.size, PIECE))):
            self.size += count
        return self.size

    def view(self, start: int, end: int) -> memoryview:
        """These bytes, not a copy."""
        return memoryview(self._memory)[start:end]

    def stretches(self) -> Iterator[tuple[int, int]]:
        """What to write: (start, end) of what is not zeros."""
        begun = None
        for start in range(0, self.size, _GRAIN):
            if not self._memory.startswith(_ZEROS[: self.size - start], start):
                begun = start if begun is None else begun
            elif begun is not None:
                yield begun, start
                begun = None
        if begun is not None:
            yield begun, self.size


class _Pipe(Generic[Item]):
    """A short queue with an end that is remembered. Whoever puts waits while it is full."""

    def __init__(self) -> None:
        # Not a Queue: that takes several locks for each item, and with them the interpreter from the other threads.
        self._items: SimpleQueue[Item | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        self._ended = False
        for _ in range(_WAITING):
            self._room.put(None)

    def put(self, item: Item) -> None:
        self._room.get()
        self._items.put(item)

    def end(self) -> None:
        self._items.put(None)

    def get(self) -> Item | None:
        """The next one; None from the end on."""
        if self._ended:
            return None
        item = self._items.get()
        self._ended = item is None
        self._room.put(None)
        return item

    def __iter__(self) -> Iterator[Item]:
        while (item := self.get()) is not None:
            yield item


class _Source:
    """What zstandard reads from: a pipe, as a file."""

    def __init__(self, pipe: _Pipe[bytes]) -> None:
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
    if start < until:
        _flush(fd, start, until)


def flush_rest(fd: int, end: int) -> None:
    """The same for what `flush_behind` left of a file that ends there."""
    _flush(fd, end // _FLUSHED * _FLUSHED, end)


def _flush(fd: int, start: int, end: int) -> None:
    if hasattr(os, "posix_fadvise"):  # macOS has none
        os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)


def _write_at(fd: int, view: memoryview, position: int) -> None:
    while view:
        written = os.pwrite(fd, view, position)
        view, position = view[written:], position + written
