"""The disk that a guest sees in a qcow2 image. See QEMU's docs/interop/qcow2.txt.

Versions 2 and 3 with plain clusters, which is what `qemu-img convert` writes; a backing file, encryption, compressed
clusters, snapshots, external data and extended L2 entries are refused: what we publish must stand alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from stereo.artifacts.region import Region, joined

MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES = struct.Struct(">Q")
_INCOMPATIBLE = {
    0: "was not closed",
    1: "is marked corrupt",
    2: "keeps its data elsewhere",
    3: "is compressed",
    4: "has extended L2 entries",
}
_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_ZERO = 1


@dataclass(frozen=True, slots=True)
class Run:
    """`size` bytes at `guest` are at `host` in the file, or read as zeros when that is None."""

    guest: int
    size: int
    host: int | None


class Qcow2:
    """A qcow2 image. `size` is that of the guest's disk in bytes. Raises FormatError for what is refused."""

    def __init__(self, region: Region) -> None:
        self.region = region
        fields = region.unpack(_HEADER, 0)
        (magic, version, backing, _, bits, self.size, encrypted, l1_size, self._l1_at, _, _, snapshots, _) = fields
        if magic != MAGIC or version not in (2, 3):
            raise region.fault("not qcow2 of version 2 or 3")
        if backing:
            raise region.fault("has a backing file, which is not supported")
        if encrypted:
            raise region.fault("is encrypted, which is not supported")
        if snapshots:
            raise region.fault("holds snapshots, which is not supported")
        if version == 3:
            (incompatible,) = region.unpack(_FEATURES, 72)
            for bit in range(64):
                if incompatible >> bit & 1:
                    raise region.fault(f"{_INCOMPATIBLE.get(bit, 'has a feature')}, which is not supported (bit {bit})")
        if not 9 <= bits <= 21:
            raise region.fault(f"clusters of 2^{bits} bytes")
        self._version = version
        self.cluster = 1 << bits
        self._span = self.cluster // 8 * self.cluster  # bytes of the guest's disk behind one L1 entry
        self._l1_count = -(-self.size // self._span)
        if l1_size < self._l1_count or self._l1_count * 8 > region.size:
            raise region.fault(f"an L1 table of {l1_size} entries is too small, or too large, for {self.size} bytes")

    def runs(self) -> Iterator[Run]:
        """The whole disk, in order, neighbours joined. Raises FormatError when a table is damaged."""
        table = self.region.read(self._l1_at, self._l1_count * 8)
        seen: set[int] = set()
        last: Run | None = None
        for index, (entry,) in enumerate(struct.iter_unpack(">Q", table)):
            begin = index * self._span
            for run in self._below(begin, min(self._span, self.size - begin), entry & _OFFSET, seen):
                if last is None:
                    last = run
                elif (last.host is None and run.host is None) or (
                    last.host is not None and last.host + last.size == run.host
                ):
                    last = Run(last.guest, last.size + run.size, last.host)
                else:
                    yield last
                    last = run
        if last:
            yield last

    def _below(self, begin: int, size: int, l2: int, seen: set[int]) -> Iterator[Run]:
        if not l2:
            yield Run(begin, size, None)
            return
        if l2 % self.cluster or l2 in seen:
            raise self.region.fault(f"an L2 table at {l2}, which is misplaced or used twice")
        seen.add(l2)
        rows = -(-size // self.cluster)
        for index, (entry,) in enumerate(struct.iter_unpack(">Q", self.region.read(l2, rows * 8))):
            guest = begin + index * self.cluster
            length = min(self.cluster, self.size - guest)
            if entry & _COMPRESSED:
                raise self.region.fault("has compressed clusters, which is not supported")
            host = entry & _OFFSET
            if not host or (self._version == 3 and entry & _ZERO):
                yield Run(guest, length, None)
            elif host % self.cluster or host + length > self.region.size:
                raise self.region.fault(f"the cluster of byte {guest} is misplaced or outside the file")
            else:
                yield Run(guest, length, host)

    def content(self) -> Region:
        """The guest's disk as a region; what is not allocated reads as zeros."""
        pieces = ((run.guest, self.region.part(run.host, run.size)) for run in self.runs() if run.host is not None)
        return joined(f"{self.region.name}: disk", self.size, pieces)
