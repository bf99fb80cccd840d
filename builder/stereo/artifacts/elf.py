"""The headers and notes of a 64-bit little-endian ELF file: as much as tells whether it is a kernel, and how it boots.

See elf(5), and for the note by which a hypervisor enters a kernel (PVH), Xen's public/elfnote.h and misc/pvh.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from stereo.artifacts.region import Region

MAGIC = b"\x7fELF"
X86_64, AARCH64 = 62, 183
"""`e_machine`."""

_HEADER = struct.Struct("<4sBBBB8xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_NOTE = struct.Struct("<III")
_LOAD, _INTERPRETER, _NOTES = 1, 3, 4
_EXECUTABLE = 2
_MOST_SEGMENTS = 256
_LARGEST_NOTES = 64 << 10
_LONGEST_PATH = 4096
_PVH_ENTRY = 18  # XEN_ELFNOTE_PHYS32_ENTRY


@dataclass(frozen=True, slots=True)
class Segment:
    """What a loader puts into memory, or a stretch of notes. Offsets, addresses and sizes are in bytes."""

    kind: int
    offset: int
    physical: int
    size: int


class Elf:
    """An ELF file. Raises FormatError when its headers are not those of one, or a segment is not inside of it."""

    def __init__(self, region: Region) -> None:
        self.region = region
        if region.size < _HEADER.size or region.read(0, 4) != MAGIC:
            raise region.fault("not ELF")
        fields = region.unpack(_HEADER, 0)
        _, width, order, _, _, self.kind, self.machine, _, self.entry, table, _, _, _, row, count = fields[:15]
        if (width, order) != (2, 1):
            raise region.fault("not ELF of 64 bits and little endian")
        if count > _MOST_SEGMENTS or (count and row != _SEGMENT.size):
            raise region.fault(f"ELF with {count} segments in rows of {row} bytes")
        self.segments = tuple(self._segment(table + index * row) for index in range(count))

    def _segment(self, at: int) -> Segment:
        kind, _, offset, _, physical, size, _, _ = self.region.unpack(_SEGMENT, at)
        if kind in (_LOAD, _INTERPRETER, _NOTES):
            self.region.part(offset, size, "segment")
        return Segment(kind, offset, physical, size)

    @property
    def executable(self) -> bool:
        """Whether it is a program that is linked to its place, with something to load."""
        return self.kind == _EXECUTABLE and any(row.kind == _LOAD and row.size for row in self.segments)

    def interpreter(self) -> str | None:
        """The path of what loads the program; None if it needs nobody. Raises FormatError for a path that is none."""
        row = next((row for row in self.segments if row.kind == _INTERPRETER), None)
        if row is None:
            return None
        if row.size > _LONGEST_PATH:
            raise self.region.fault(f"an interpreter with a path of {row.size} bytes")
        return self.region.read(row.offset, row.size).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")

    def notes(self) -> Iterator[tuple[bytes, int, bytes]]:
        """(owner, type, content) of every note. Raises FormatError for one that is cut short."""
        for row in self.segments:
            if row.kind != _NOTES:
                continue
            if row.size > _LARGEST_NOTES:
                raise self.region.fault(f"{row.size} bytes of notes")
            at, end = row.offset, row.offset + row.size
            while at + _NOTE.size <= end:
                name, size, kind = self.region.unpack(_NOTE, at)
                owner = at + _NOTE.size
                content = owner + -(-name // 4) * 4
                if content + size > end:
                    raise self.region.fault(f"the note at byte {at} is cut short")
                yield self.region.read(owner, name).rstrip(b"\0"), kind, self.region.read(content, size)
                at = content + -(-size // 4) * 4

    def pvh_entry(self) -> int | None:
        """The physical address at which a hypervisor may enter the kernel, or None if it tells none."""
        for owner, kind, content in self.notes():
            if owner == b"Xen" and kind == _PVH_ENTRY and len(content) in (4, 8):
                return int.from_bytes(content, "little")
        return None
