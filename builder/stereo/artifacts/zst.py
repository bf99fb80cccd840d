"""Decompresses zstd without trusting it: frame by frame, a bounded window, and never more bytes than were announced.

A file is a row of independent frames (RFC 8878, section 3). The boundaries are found by walking the block headers,
which costs nothing and makes a frame that is cut short an error instead of a shorter file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, cast

import zstandard

from stereo.artifacts.region import CHUNK, Region

MAGIC = b"\x28\xb5\x2f\xfd"
OTHERS = {
    b"\x1f\x8b": "gzip",
    b"\xfd7": "xz",
    b"BZ": "bzip2",
    b"\x02!": "lz4",
    b"\x89L": "lzo",
    b"\x5d\0": "lzma",
}
"""What else kernels and initrds are packed by, for messages: by the first two bytes."""
_SKIPPABLE = b"\x2a\x4d\x18"  # after a first byte of 0x50 to 0x5f
_READ = 256 << 10

LARGEST_WINDOW = 32 << 20
"""Level 19 takes 8 MiB; what asks for more (`--long`) is refused, because we would have to hold it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a frame is, in bytes of the compressed file. `content` is what its header announces, if it does."""

    offset: int
    size: int
    content: int | None
    skippable: bool = False


def frames(region: Region) -> Iterator[Frame]:
    """Every frame, in order. Raises FormatError for anything that is none, and for one that is cut short."""
    offset = 0
    while offset < region.size:
        frame = _frame(region, offset)
        yield frame
        offset += frame.size


def _frame(region: Region, offset: int) -> Frame:
    head = region.read(offset, min(18, region.size - offset))
    if len(head) >= 8 and head[1:4] == _SKIPPABLE and head[0] >> 4 == 5:
        size = 8 + int.from_bytes(head[4:8], "little")
        region.part(offset, size)
        return Frame(offset, size, 0, skippable=True)
    if head[:4] != MAGIC or len(head) < 6:
        raise region.fault(f"no zstd frame at byte {offset}")
    flags = head[4]
    single, dictionary = flags >> 5 & 1, (0, 1, 2, 4)[flags & 3]
    width = (single, 2, 4, 8)[flags >> 6]
    if flags & 8 or dictionary:
        raise region.fault(f"the zstd frame at byte {offset} needs what we do not have (a dictionary, a newer format)")
    at = 5 + (1 - single)
    if at + width > len(head):
        raise region.fault(f"the zstd frame at byte {offset} is cut short")
    content = int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0) if width else None
    at += width + offset
    while True:
        if at + 3 > region.size:
            raise region.fault(f"the zstd frame at byte {offset} is cut short")
        header = int.from_bytes(region.read(at, 3), "little")
        at += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)
        if header & 1:
            break
    at += 4 if flags & 4 else 0
    if at > region.size:
        raise region.fault(f"the zstd frame at byte {offset} is cut short")
    return Frame(offset, at - offset, content)


class _FrameReader:
    """The file object that zstandard reads a frame from; shows what it reads to `seen`."""

    def __init__(self, region: Region, frame: Frame, seen: Callable[[bytes], object] | None) -> None:
        self._region = region
        self._at = frame.offset
        self._end = frame.offset + frame.size
        self._seen = seen

    def read(self, size: int = -1) -> bytes:
        wanted = min(size if size > 0 else _READ, self._end - self._at)
        data = self._region.read(self._at, wanted)
        self._at += wanted
        if self._seen and data:
            self._seen(data)
        return data


def decompressed(
    region: Region,
    most: int,
    *,
    seen: Callable[[bytes], object] | None = None,
    chunk: int = CHUNK,
    window: int = LARGEST_WINDOW,
) -> Iterator[bytes]:
    """The content, at most `chunk` bytes at a time; `seen` is called with every compressed byte, in order.

    Raises FormatError when it is damaged, wants a larger `window`, or has more than `most` bytes.
    """
    machine = zstandard.ZstdDecompressor(max_window_size=window)
    total = 0
    for frame in frames(region):
        source = _FrameReader(region, frame, seen)
        if total + (frame.content or 0) > most:
            raise region.fault(f"holds more than the {most} bytes that it should")
        before = total
        if not frame.skippable:
            try:
                with machine.stream_reader(
                    cast("IO[bytes]", source), read_size=_READ, read_across_frames=False
                ) as reader:
                    while data := reader.read(chunk):
                        total += len(data)
                        if total > most:
                            raise region.fault(f"holds more than the {most} bytes that it should")
                        yield data
            except (zstandard.ZstdError, MemoryError) as error:
                raise region.fault(f"the zstd frame at byte {frame.offset} is damaged: {error}") from error
            if frame.content is not None and total - before != frame.content:
                raise region.fault(f"the zstd frame at byte {frame.offset} is damaged: it ends too early")
        while source.read():
            pass


class Spool:
    """The content of a compressed region in a file without a name, for readers that must jump about in it."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="stereo-")  # noqa: SIM115

    def fill(self, region: Region, most: int, *, window: int = LARGEST_WINDOW) -> Region:
        """Unpack `region`, at most `most` bytes, and return the content. Zeros take no room. Raises FormatError."""
        size = 0
        for data in decompressed(region, most, window=window):
            if data.strip(b"\0"):
                os.pwrite(self._file.fileno(), data, size)
            size += len(data)
        self._file.truncate(size)
        return Region(self, 0, size, region.name)

    def read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
