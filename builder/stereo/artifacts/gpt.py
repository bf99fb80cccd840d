"""The partition table of a disk: both copies, their checksums, and that they say the same. UEFI 2.10, section 5.3."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

from stereo.artifacts.region import Region

SECTOR = 512
_HEADER = struct.Struct("<8s4sIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_MOST_ENTRIES = 1024

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
LINUX_GENERIC = "0fc63daf-8483-4772-8e79-3d69d8477de4"

# Discoverable Partitions Specification: the root and its verity data, by architecture as a manifest names it.
ROOT = {
    "x86_64-linux": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "aarch64-linux": "b921b045-1df0-41c3-af44-4c6f280d3fae",
}
ROOT_VERITY = {
    "x86_64-linux": "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
    "aarch64-linux": "df3300ce-d69f-4c92-978c-9bfb0f38d820",
}


@dataclass(frozen=True)
class Partition:
    """One row. `offset` and `size` are bytes; `type` and `uuid` lower-case UUIDs."""

    number: int
    label: str
    type: str
    uuid: str
    offset: int
    size: int
    attributes: int


@dataclass(frozen=True)
class Table:
    """A partition table; partitions by number."""

    disk_uuid: str
    partitions: tuple[Partition, ...]


@dataclass(frozen=True)
class _Header:
    backup_lba: int
    first_usable: int
    last_usable: int
    disk_uuid: UUID
    entries_lba: int
    entry_count: int
    entry_size: int
    entries: bytes


def read_gpt(disk: Region) -> Table:
    """Read and check the table of a disk with 512-byte sectors.

    Raises FormatError when either copy is damaged, when they differ, or when partitions overlap or leave the disk.
    """
    if disk.size % SECTOR or disk.size < 3 * SECTOR:
        raise disk.fault(f"{disk.size} bytes are no whole disk")
    mbr = disk.read(0, SECTOR)
    if mbr[510:] != b"\x55\xaa" or mbr[450] != 0xEE:
        raise disk.fault("no protective MBR")
    last = disk.size // SECTOR - 1
    primary, backup = _header(disk, 1, "primary"), _header(disk, last, "backup")
    if primary.backup_lba != last or backup.backup_lba != 1:
        raise disk.fault("the two GPT headers do not point at each other")
    if (primary.disk_uuid, primary.entry_size, primary.entries) != (
        backup.disk_uuid,
        backup.entry_size,
        backup.entries,
    ):
        raise disk.fault("primary and backup GPT differ")
    return Table(str(primary.disk_uuid), _partitions(disk, primary))


def _header(disk: Region, lba: int, which: str) -> _Header:
    raw = disk.read(lba * SECTOR, SECTOR)
    (
        signature,
        revision,
        size,
        crc,
        _,
        own_lba,
        other_lba,
        first,
        last,
        uuid,
        entries_lba,
        count,
        entry_size,
        entries_crc,
    ) = _HEADER.unpack_from(raw)
    if signature != b"EFI PART" or revision != b"\0\0\1\0":
        raise disk.fault(f"no {which} GPT header")
    if not _HEADER.size <= size <= SECTOR:
        raise disk.fault(f"{which} GPT header of {size} bytes")
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:size]) != crc:
        raise disk.fault(f"the {which} GPT header does not match its checksum")
    if own_lba != lba:
        raise disk.fault(f"the {which} GPT header says that it is elsewhere")
    if not 0 < count <= _MOST_ENTRIES or entry_size not in (128, 256, 512):
        raise disk.fault(f"{which} GPT: {count} entries of {entry_size} bytes")
    entries = disk.read(entries_lba * SECTOR, count * entry_size)
    if zlib.crc32(entries) != entries_crc:
        raise disk.fault(f"the {which} GPT entries do not match their checksum")
    return _Header(other_lba, first, last, UUID(bytes_le=uuid), entries_lba, count, entry_size, entries)


def _partitions(disk: Region, header: _Header) -> tuple[Partition, ...]:
    found = []
    for number in range(1, header.entry_count + 1):
        kind, uuid, first, last, attributes, name = _ENTRY.unpack_from(header.entries, (number - 1) * header.entry_size)
        if kind == bytes(16):
            continue
        if not header.first_usable <= first <= last <= header.last_usable or (last + 1) * SECTOR > disk.size:
            raise disk.fault(f"partition {number} leaves the disk")
        label = name.decode("utf-16-le", "replace").split("\0", 1)[0]
        found.append(
            Partition(
                number,
                label,
                str(UUID(bytes_le=kind)),
                str(UUID(bytes_le=uuid)),
                first * SECTOR,
                (last - first + 1) * SECTOR,
                attributes,
            )
        )
    placed = sorted(found, key=lambda row: row.offset)
    for one, next_one in pairwise(placed):
        if one.offset + one.size > next_one.offset:
            raise disk.fault(f"partitions {one.number} and {next_one.number} overlap")
    return tuple(found)


def partition_region(disk: Region, partition: Partition) -> Region:
    """The bytes of a partition."""
    return disk.part(partition.offset, partition.size, f"partition {partition.label or partition.number}")
