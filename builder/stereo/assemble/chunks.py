"""Cut a disk image into chunks whose borders follow the content: equal content gives equal chunks wherever it is.

What lies between two cuts becomes one zstd frame, and frames concatenate. So whatever the raw disk and the qcow2 share,
and whatever a build shares with the one before it, is compressed once:

- A cut falls behind a 4 KiB block whose CRC says so (file systems move data by whole blocks, so a finer grid gains
  nothing): after a block was inserted or removed, the cuts find their old places again.
- A run of zeros of 64 KiB or more stands apart from data. qcow2 leaves out such clusters, which depend on where the
  run lies; what stands before and behind the run does not.
- Each partition begins a chunk. So does, in the qcow2, each block that began one in the raw disk for either of these
  reasons: that is what `marks` carry from the first file to the second.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

BLOCK = 4096
CLUSTER = 65536  # of our qcow2, too
READ = 1 << 20
_ZEROS = bytes(CLUSTER)
_BLOCK_OF_ZEROS = bytes(BLOCK)


@dataclass(frozen=True)
class Geometry:
    """Bounds of a chunk in bytes, and how often a block is a border: one in `mask` + 1, once `minimum` is reached."""

    minimum: int
    mask: int
    maximum: int


# A finer cut costs whoever downloads all of it, and spares whoever updates; docs/deltas.md has both. With opencode at
# level 19, against chunks of 8 to 24 MiB: 1 to 4 MiB make the .zst 7.5 % larger, 2 to 6 MiB 4.3 %, 4 to 12 MiB 1.3 %,
# and an update of the agent 0.20, 0.20 and 0.21 of it instead of 0.33.
COARSE = Geometry(minimum=4 << 20, mask=(1 << 10) - 1, maximum=12 << 20)
# For what does not compress anyway (kernel, initrd, hash tree) or is little, and changes in one place with every build.
FINE = Geometry(minimum=64 << 10, mask=(1 << 4) - 1, maximum=256 << 10)


@dataclass(frozen=True)
class Part:
    """Part of a file, at most `READ` bytes, from a cluster's border on. `data` is None in a hole: `size` zeros."""

    offset: int
    size: int
    data: bytes | None


def data_size(fd: int, size: int) -> int:
    """Bytes of a file that are not in holes, as `read_parts` sees them."""
    return sum(end - start for start, end in _data_spans(fd, size))


def read_parts(fd: int, size: int) -> Iterator[Part]:
    """The first `size` bytes of a file in order, without reading holes. Raises EOFError if the file is shorter."""
    done = 0
    for start, end in [*_data_spans(fd, size), (size, size)]:
        while done < start:
            part = min(READ, start - done)
            yield Part(done, part, None)
            done += part
        while done < end:
            data = os.pread(fd, min(READ, end - done), done)
            if len(data) < min(READ, end - done):
                raise EOFError(f"the file ends at byte {done + len(data)}, not {size}")
            yield Part(done, len(data), data)
            done += len(data)


def _data_spans(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what is not a hole, widened to whole clusters, apart and in order. See lseek(2), SEEK_DATA."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # nothing but a hole from here on
        end = min(size, -(-os.lseek(fd, start, os.SEEK_HOLE) // CLUSTER) * CLUSTER)
        start = max(position, start // CLUSTER * CLUSTER)
        if start < end:
            yield start, end
        position = max(position + 1, end)


class Sink(Protocol):
    """Takes the chunks of a file, in order."""

    def data(self, buffer: bytearray, size: int) -> bytearray:
        """A chunk, in the first `size` bytes of `buffer`. Returns the buffer to go on with."""

    def zeros(self, size: int) -> None:
        """A chunk of `size` zeros."""


class Chunker:
    """Cuts what it is fed into chunks for `sink`.

    `buffer` must hold the `maximum` of every geometry, and so must each that the sink returns. `starts` gives the
    geometry from an offset on (one that is not at a block's border is ignored; `marks` of one that is not at a
    cluster's are not found), `marks` the geometry from a block of that CRC on.
    """

    def __init__(
        self,
        sink: Sink,
        buffer: bytearray,
        *,
        geometry: Geometry = COARSE,
        starts: Mapping[int, Geometry] | None = None,
        marks: Mapping[int, Geometry] | None = None,
    ) -> None:
        self.marks: dict[int, Geometry] = {}
        """The blocks that began a chunk for another reason than the CRC of the block before them."""
        self._sink = sink
        self._buffer = buffer
        self._filled = 0
        self._zeros = 0  # met since the last block of data, not yet handed out
        self._zeros_maximum = geometry.maximum
        self._geometry = geometry
        self._starts = dict(starts or {})
        self._known = dict(marks or {})
        self._fresh = True  # the next block of data begins a chunk, whatever is in it

    def feed(self, part: Part) -> None:
        """Take the next part of the file."""
        if part.data is None:
            for offset in range(part.offset, part.offset + part.size, BLOCK) if self._starts else ():
                self._begin(offset)
            self._take_zeros(part.size)
            return
        view = memoryview(part.data)
        for position in range(0, part.size, BLOCK):
            block = view[position : position + BLOCK]
            self._begin(part.offset + position)
            if part.data.startswith(_BLOCK_OF_ZEROS if len(block) == BLOCK else bytes(len(block)), position):
                self._take_zeros(len(block))
            else:
                self._take_data(block, aligned=(part.offset + position) % CLUSTER == 0)

    def finish(self) -> bytearray:
        """Hand out what is left, and give the buffer back."""
        self._cut()
        self._cut_zeros()
        return self._buffer

    def _begin(self, offset: int) -> None:
        if geometry := self._starts.get(offset):
            self._geometry, self._fresh = geometry, True

    def _take_zeros(self, size: int) -> None:
        self._zeros += size
        if self._zeros >= CLUSTER:
            self._cut()
            self._fresh = True
        while self._zeros >= self._zeros_maximum:
            self._zeros -= self._zeros_maximum
            self._sink.zeros(self._zeros_maximum)

    def _take_data(self, block: memoryview, *, aligned: bool) -> None:
        geometry = self._geometry
        # qcow2 may leave out all of a run of zeros or part of it. What followed it begins a cluster, or follows zeros.
        if self._known and (aligned or self._zeros) and (known := self._known.get(crc32(block))):
            self._geometry = geometry = known
            self._fresh = True
        if self._fresh:
            self._cut()
            self._cut_zeros()
            self.marks[crc32(block)] = geometry
            self._fresh = False
        elif self._filled + self._zeros + len(block) > geometry.maximum:
            self._cut()
        if self._zeros:
            self._keep(_ZEROS[: self._zeros])
            self._zeros = 0
        self._keep(block)
        if self._filled >= geometry.minimum and crc32(block) & geometry.mask == geometry.mask:
            self._cut()

    def _keep(self, data: memoryview | bytes) -> None:
        self._buffer[self._filled : self._filled + len(data)] = data
        self._filled += len(data)

    def _cut(self) -> None:
        if self._filled:
            size, self._filled = self._filled, 0
            self._buffer = self._sink.data(self._buffer, size)

    def _cut_zeros(self) -> None:
        if self._zeros:
            size, self._zeros = self._zeros, 0
            self._sink.zeros(size)
