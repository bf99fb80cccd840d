"""Cut a disk image into chunks whose borders follow the content: equal content gives equal chunks wherever it is.

What lies between two cuts becomes one zstd frame, and frames concatenate. So whatever the raw disk and the qcow2 share,
and whatever a build shares with the one before it, is compressed once:

- A cut falls behind a 4 KiB block whose CRC says so (file systems move data by whole blocks, so a finer grid gains
  nothing): after a block was inserted or removed, the cuts find their old places again.
- A 64 KiB cluster of zeros never shares a chunk with data. qcow2 leaves such clusters out; raw gets tiny frames of
  them.
- Each partition begins a chunk. So does, in the qcow2, each cluster that began one in the raw disk for either of these
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


@dataclass(frozen=True)
class Geometry:
    """Bounds of a chunk in bytes, and how often a block is a border: one in `mask` + 1, once `minimum` is reached."""

    minimum: int
    mask: int
    maximum: int


# Measured on a Debian root with opencode, zstd -19, against one stream for the whole disk (`zstd -19 -T0`): chunks of
# 4 MiB lose 4.0 %, 8 MiB 1.9 %, 16 MiB 0.3 %. Larger ones win nothing that a rebuild would not pay for.
COARSE = Geometry(minimum=8 << 20, mask=(1 << 11) - 1, maximum=24 << 20)
# For what does not compress anyway (kernel, initrd, hash tree) and changes in one place with every build.
FINE = Geometry(minimum=1 << 20, mask=(1 << 8) - 1, maximum=4 << 20)


@dataclass(frozen=True)
class Block:
    """Part of a file, at most `READ` bytes, from a cluster's border on. `data` is None in a hole: `size` zeros."""

    offset: int
    size: int
    data: bytes | None


def data_size(fd: int, size: int) -> int:
    """Bytes of a file that are not in holes, as `read_blocks` sees them."""
    return sum(end - start for start, end in _data_spans(fd, size))


def read_blocks(fd: int, size: int) -> Iterator[Block]:
    """The first `size` bytes of a file in order, without reading holes. Raises EOFError if the file is shorter."""
    done = 0
    for start, end in [*_data_spans(fd, size), (size, size)]:
        while done < start:
            part = min(READ, start - done)
            yield Block(done, part, None)
            done += part
        while done < end:
            data = os.pread(fd, min(READ, end - done), done)
            if len(data) < min(READ, end - done):
                raise EOFError(f"the file ends at byte {done + len(data)}, not {size}")
            yield Block(done, len(data), data)
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
    geometry from an offset on (an offset that is not at a cluster's border is ignored), `marks` the geometry from a
    cluster of that CRC on.
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
        """The clusters that began a chunk for another reason than the CRC of the block before them."""
        self._sink = sink
        self._buffer = buffer
        self._filled = 0
        self._zeros = 0
        self._zeros_maximum = geometry.maximum
        self._geometry = geometry
        self._starts = dict(starts or {})
        self._known = dict(marks or {})
        self._fresh = True  # the next cluster of data begins a chunk, whatever is in it

    def feed(self, block: Block) -> None:
        """Take the next block of the file."""
        if block.data is None:
            for offset in range(block.offset, block.offset + block.size, CLUSTER):
                self._cluster_of_zeros(offset, min(CLUSTER, block.offset + block.size - offset))
            return
        view = memoryview(block.data)
        for position in range(0, block.size, CLUSTER):
            cluster = view[position : position + CLUSTER]
            if block.data.startswith(_ZEROS if len(cluster) == CLUSTER else _ZEROS[: len(cluster)], position):
                self._cluster_of_zeros(block.offset + position, len(cluster))
            else:
                self._cluster_of_data(block.offset + position, cluster)

    def finish(self) -> bytearray:
        """Hand out what is left, and give the buffer back."""
        self._cut()
        self._cut_zeros()
        return self._buffer

    def _cluster_of_zeros(self, offset: int, size: int) -> None:
        self._cut()
        self._fresh = True
        self._geometry = self._starts.get(offset, self._geometry)
        self._zeros += size
        if self._zeros >= self._zeros_maximum:
            self._cut_zeros()

    def _cluster_of_data(self, offset: int, cluster: memoryview) -> None:
        self._cut_zeros()
        if offset in self._starts:
            self._geometry, self._fresh = self._starts[offset], True
        if self._known and (known := self._known.get(crc32(cluster))):
            self._geometry, self._fresh = known, True
        if self._fresh:
            self._cut()
            self.marks[crc32(cluster)] = self._geometry
            self._fresh = False
        begin, geometry = 0, self._geometry
        for position in range(0, len(cluster), BLOCK):
            end = min(position + BLOCK, len(cluster))
            size = self._filled + end - begin
            if size < geometry.minimum:
                continue
            if size >= geometry.maximum or crc32(cluster[position:end]) & geometry.mask == geometry.mask:
                self._keep(cluster[begin:end])
                self._cut()
                begin = end
        self._keep(cluster[begin:])

    def _keep(self, data: memoryview) -> None:
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
