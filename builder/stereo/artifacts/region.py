"""Random access to bytes that nobody vouches for: a stretch of a file, or of what a reader makes look like one.

Every reader takes a `Region` and gets nothing else, so the rules are kept in one place: a read outside is an error that
names the place, no single read is large, and nothing is ever mapped (a file that shrinks while it is mapped kills us).
"""

from __future__ import annotations

import os
import stat
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from stereo.errors import StereoError, UsageError, shown

CHUNK = 1 << 20
"""Bytes that a streaming pass takes at a time."""

LARGEST_READ = 16 << 20
"""No structure of any format is larger; what claims to be is refused before memory is taken for it."""


class FormatError(StereoError):
    """These bytes are not what their format says. `where` is the file, and inside it the part."""

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(shown(what), where=shown(where) if where else None, hint=hint)


class Source(Protocol):
    """Whatever a region reads from. The caller has checked the bounds."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`."""


class Region:
    """`size` bytes of a source from a start on, with a name for error messages."""

    __slots__ = ("_source", "_start", "name", "size")

    def __init__(self, source: Source, start: int, size: int, name: str) -> None:
        self._source = source
        self._start = start
        self.size = size
        self.name = name

    @classmethod
    def of_bytes(cls, data: bytes, name: str = "bytes") -> Region:
        """A region over bytes in memory."""
        return cls(_BytesSource(data), 0, len(data), name)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises FormatError when they are not all inside."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self.fault(f"{length} bytes at {offset} are outside its {self.size} bytes")
        if length > LARGEST_READ:
            raise self.fault(f"a structure of {length} bytes at {offset} is too large")
        return self._source.read_at(self._start + offset, length)

    def unpack(self, layout: struct.Struct, offset: int) -> tuple[Any, ...]:
        """The fields of a structure at `offset`."""
        return layout.unpack(self.read(offset, layout.size))

    def part(self, offset: int, size: int, name: str | None = None) -> Region:
        """A region inside this one. Raises FormatError when it is not inside."""
        label = f"{self.name}: {name}" if name else self.name
        if offset < 0 or size < 0 or offset + size > self.size:
            raise FormatError(f"{size} bytes at {offset} are outside its {self.size} bytes", where=label)
        return Region(self._source, self._start + offset, size, label)

    def named(self, name: str) -> Region:
        """The same bytes under another name."""
        return Region(self._source, self._start, self.size, name)

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """All of it, in order, `length` bytes at a time."""
        for offset in range(0, self.size, length):
            yield self._source.read_at(self._start + offset, min(length, self.size - offset))

    def fault(self, message: str) -> FormatError:
        """An error that names this region."""
        return FormatError(message, where=self.name)


class _BytesSource:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_at(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """A descriptor of a folder whose files are opened by `OpenFile`. Raises UsageError when it cannot be had."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"is no directory that can be read: {error.strerror}", where=str(path)) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class OpenFile:
    """A regular file, opened for reading without following a link. Close it, or use it as a context manager."""

    def __init__(self, path: Path | str, *, name: str | None = None, folder: int | None = None) -> None:
        """`path` is seen from the open directory `folder`, if given. Raises FormatError if it is no regular file."""
        self.name = name or Path(path).name
        try:
            # O_NONBLOCK: a named pipe in place of an artifact must be refused, not waited for.
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        except OSError as error:
            raise FormatError(f"cannot be opened: {error.strerror}", where=self.name) from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise FormatError("is not a regular file", where=self.name)
        self.size = status.st_size

    @property
    def region(self) -> Region:
        """All of the file."""
        return Region(self, 0, self.size, self.name)

    def read_at(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    raise FormatError(f"ends at byte {offset + len(data)}, it was longer before", where=self.name)
                data += more
        except OSError as error:
            raise FormatError(f"cannot be read at byte {offset}: {error.strerror}", where=self.name) from error
        return data

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _JoinedSource:
    def __init__(self, pieces: list[tuple[int, Region]]) -> None:
        self._pieces = pieces
        self._starts = [start for start, _ in pieces]

    def read_at(self, offset: int, length: int) -> bytes:
        end, out = offset + length, []
        index = max(bisect_right(self._starts, offset) - 1, 0)
        while offset < end:
            start, piece = self._pieces[index] if index < len(self._pieces) else (end, None)
            if piece is None or offset < start:
                until = min(start, end)
                out.append(bytes(until - offset))
                offset = until
            elif offset < start + piece.size:
                until = min(start + piece.size, end)
                out.append(piece.read(offset - start, until - offset))
                offset = until
            else:
                index += 1
        return out[0] if len(out) == 1 else b"".join(out)


def joined(name: str, size: int, pieces: Iterable[tuple[int, Region]]) -> Region:
    """A region put together from `pieces`: where each begins, and its bytes. Gaps read as zeros.

    The pieces come in order; FormatError if they overlap. What lies beyond `size` is cut off.
    """
    kept: list[tuple[int, Region]] = []
    reached = 0
    for start, piece in pieces:
        if start < reached:
            raise FormatError(f"its pieces overlap at byte {start}", where=name)
        reached = start + piece.size
        if start < size and piece.size:
            kept.append((start, piece if reached <= size else piece.part(0, size - start)))
    return Region(_JoinedSource(kept), 0, size, name)


def first_difference(a: Region, b: Region) -> int | None:
    """The offset of the first byte that differs (the shorter one's size if it is a prefix), None if they are equal."""
    common = min(a.size, b.size)
    for offset in range(0, common, CHUNK):
        length = min(CHUNK, common - offset)
        left, right = a.read(offset, length), b.read(offset, length)
        if left != right:
            low, high = 0, length  # the first difference is in left[low:high]
            while high - low > 1:
                middle = (low + high) // 2
                if left[low:middle] != right[low:middle]:
                    high = middle
                else:
                    low = middle
            return offset + low
    return None if a.size == b.size else common
