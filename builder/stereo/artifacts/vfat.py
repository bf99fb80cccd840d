"""Lists and reads a FAT file system with long names: the EFI system partition. See Microsoft's fatgen103."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime

from stereo.artifacts.region import LARGEST_READ, Region, joined
from stereo.artifacts.tree import Budget, Entry, Kind, child

_BOOT = struct.Struct("<3s8sHBHBHHBHHHII")
_ROW = 32
_DELETED = 0xE5
_READ_ONLY, _VOLUME, _DIRECTORY, _LONG = 0x01, 0x08, 0x10, 0x0F


class Vfat:
    """A FAT12, FAT16 or FAT32 image. Raises FormatError at once when its first sector is not one that we can read."""

    def __init__(self, region: Region) -> None:
        self.region = region
        first = region.read(0, 512)
        (_, _, sector, cluster, reserved, fats, roots, small, _, fat16, _, _, _, large) = _BOOT.unpack_from(first)
        fat_sectors = fat16 or int.from_bytes(first[36:40], "little")
        sectors = small or large
        if (
            first[510:] != b"\x55\xaa"
            or sector not in (512, 1024, 2048, 4096)
            or not cluster
            or cluster & (cluster - 1)
        ):
            raise region.fault("not a FAT file system")
        if not fats or not reserved or not fat_sectors or sectors * sector > region.size:
            raise region.fault("a FAT boot sector that cannot be")
        self._cluster = cluster * sector
        fat_at = reserved * sector
        self._root_at = fat_at + fats * fat_sectors * sector
        self._root_rows = roots
        self._data = self._root_at + -(-roots * _ROW // sector) * sector
        self._clusters = max(sectors * sector - self._data, 0) // self._cluster
        self._bits = 12 if self._clusters < 4085 else 16 if self._clusters < 65525 else 32
        self._root_cluster = int.from_bytes(first[44:48], "little") if self._bits == 32 else 0
        needed = -(-(self._clusters + 2) * self._bits // 8)
        if needed > min(fat_sectors * sector, LARGEST_READ):
            raise region.fault("its allocation table is too small for it, or too large for us")
        self._fat = region.read(fat_at, needed)
        self.serial = first[67:71].hex() if self._bits == 32 else first[39:43].hex()

    def entries(self) -> Iterator[Entry]:
        """Every entry, as `Tree` says. FAT knows no owners; a mode stands for the read-only attribute."""
        rows = Budget(self.region, self.region.size // _ROW, "directory rows")
        taken: set[int] = set()
        yield Entry("/", Kind.DIRECTORY, 0o755, 0, 0, 0, 0)
        waiting: list[Entry] = []
        self._list(Entry("/", Kind.DIRECTORY, 0o755, 0, 0, 0, 0, handle=self._root_cluster), rows, taken, waiting)
        while waiting:
            entry = waiting.pop()
            yield entry
            if entry.kind is Kind.DIRECTORY:
                self._list(entry, rows, taken, waiting)

    def content(self, entry: Entry) -> Region:
        """The bytes of a regular file."""
        if not entry.size:
            return Region.of_bytes(b"", entry.path)
        chain = self._chain(entry.handle, entry.path)
        if len(chain) * self._cluster < entry.size:
            raise self.region.fault(f"{entry.path}: its cluster chain ends too early")
        return self._join(chain, entry.size, entry.path)

    def _list(self, folder: Entry, rows: Budget, taken: set[int], waiting: list[Entry]) -> None:
        if folder.path == "/" and self._bits != 32:
            table = self.region.part(self._root_at, self._root_rows * _ROW)
        else:
            chain = self._chain(folder.handle, folder.path)
            if not taken.isdisjoint(chain):
                raise self.region.fault(f"{folder.path}: shares clusters with another directory")
            taken.update(chain)
            table = self._join(chain, len(chain) * self._cluster, folder.path)
        found = sorted(self._rows(folder.path, table, rows), key=lambda row: row[0], reverse=True)
        waiting += [entry for _, entry in found]

    def _rows(self, path: str, table: Region, rows: Budget) -> Iterator[tuple[bytes, Entry]]:
        long: dict[int, tuple[int, bytes]] = {}
        for block in table.chunks(64 << 10):
            for at in range(0, len(block) - _ROW + 1, _ROW):
                row = block[at : at + _ROW]
                if row[0] == 0:
                    return
                rows.spend()
                attributes = row[11]
                if row[0] == _DELETED:
                    long.clear()
                elif attributes & 0x3F == _LONG:
                    if row[0] & 0x40:
                        long.clear()
                    long[row[0] & 0x3F] = row[13], row[1:11] + row[14:26] + row[28:32]
                else:
                    name = _long_name(long, row[:11]) or _short_name(row)
                    long.clear()
                    if attributes & _VOLUME or name in (b".", b".."):
                        continue
                    yield name, self._entry(child(path, name, self.region), row)

    def _entry(self, path: str, row: bytes) -> Entry:
        high, time, date, low, size = struct.unpack_from("<HHHHI", row, 20)
        folder = bool(row[11] & _DIRECTORY)
        kind = Kind.DIRECTORY if folder else Kind.FILE
        mode = 0o555 if row[11] & _READ_ONLY else 0o755
        cluster = high << 16 | low if self._bits == 32 else low
        return Entry(path, kind, mode, 0, 0, 0 if folder else size, _moment(date, time), handle=cluster)

    def _chain(self, cluster: int, path: str) -> list[int]:
        chain = []
        last = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}[self._bits]
        while cluster < last:
            if not 2 <= cluster < self._clusters + 2:
                raise self.region.fault(f"{path}: its cluster chain leaves the file system")
            chain.append(cluster)
            if len(chain) > self._clusters:
                raise self.region.fault(f"{path}: its cluster chain runs in a circle")
            cluster = self._following(cluster)
        return chain

    def _following(self, cluster: int) -> int:
        if self._bits == 12:
            pair = int.from_bytes(self._fat[cluster * 3 // 2 : cluster * 3 // 2 + 2], "little")
            return pair >> 4 if cluster & 1 else pair & 0xFFF
        width = self._bits // 8
        return int.from_bytes(self._fat[cluster * width : (cluster + 1) * width], "little") & 0x0FFFFFFF

    def _join(self, chain: list[int], size: int, path: str) -> Region:
        pieces: list[tuple[int, Region]] = []
        begin = 0
        for index in range(1, len(chain) + 1):
            if index == len(chain) or chain[index] != chain[index - 1] + 1:
                start = self._data + (chain[begin] - 2) * self._cluster
                pieces.append((begin * self._cluster, self.region.part(start, (index - begin) * self._cluster)))
                begin = index
        return joined(f"{self.region.name}: {path}", size, pieces)


def _checksum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = ((total >> 1) | (total & 1) << 7) + byte & 0xFF
    return total


def _long_name(parts: dict[int, tuple[int, bytes]], short: bytes) -> bytes:
    """The long name in front of a short entry, empty if there is none, a piece is missing or it is another entry's."""
    if not parts or sorted(parts) != list(range(1, len(parts) + 1)):
        return b""
    if any(checksum != _checksum(short) for checksum, _ in parts.values()):
        return b""
    units = b"".join(parts[index][1] for index in sorted(parts))
    name = units.decode("utf-16-le", "surrogatepass").split("\0", 1)[0]
    return name.encode("utf-8", "surrogatepass")


def _short_name(row: bytes) -> bytes:
    """NAME.EXT; bits of byte 12 say that a half is in lower case (as Windows NT and Linux write it)."""
    base, extension = row[:8].rstrip(b" "), row[8:11].rstrip(b" ")
    if base[:1] == b"\x05":
        base = b"\xe5" + base[1:]
    base = base.lower() if row[12] & 0x08 else base
    extension = extension.lower() if row[12] & 0x10 else extension
    return base + b"." + extension if extension else base


def _moment(date: int, time: int) -> int:
    """Seconds since 1970 of a FAT date, taken as UTC; 0 when it is no date."""
    try:
        moment = datetime(
            1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, (time & 31) * 2, tzinfo=UTC
        )
    except ValueError:
        return 0
    return int(moment.timestamp())
