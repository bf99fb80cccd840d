"""Lists and reads an erofs file system: the read-only root. Uncompressed layouts only, which is what we build.

Follows the kernel's fs/erofs/erofs_fs.h (5.15 to 6.12): compact and extended inodes, flat-plain, flat-inline and
chunk-based data, inline and shared extended attributes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stereo.artifacts.region import Region, joined
from stereo.artifacts.tree import LARGEST_SPARSE, LONGEST_PATH, Budget, Entry, Kind, kind_of, text, walk

MAGIC = 0xE0F5E1E2
_SUPERBLOCK_AT = 1024
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBI")
_COMPACT = struct.Struct("<HHHHIIIIHHI")
_EXTENDED = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBB")
_XATTR_HEADER = struct.Struct("<IB7x")
_XATTR_ENTRY = struct.Struct("<BBH")
_XATTR_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    5: "lustre.",
    6: "security.",
}

# Features that change how bytes are found. Those of compression only matter once an inode uses it.
_CHUNKED, _DEVICES, _XATTR_LONG_PREFIXES = 0x4, 0x8, 0x40
_COMPRESSION_ONLY = 0x1 | 0x2 | 0x8 | 0x10 | 0x20
_KNOWN_FEATURES = _COMPRESSION_ONLY | _CHUNKED | _XATTR_LONG_PREFIXES

_FLAT_PLAIN, _FLAT_INLINE, _CHUNK_BASED = 0, 2, 4
_COMPRESSED = (1, 3)
_HOLE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Inode:
    nid: int
    layout: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    union: int
    xattrs_at: int
    xattrs_size: int

    @property
    def tail_at(self) -> int:
        return self.xattrs_at + self.xattrs_size


class Erofs:
    """An erofs image. Raises FormatError at once when the superblock is not one that we can read."""

    def __init__(self, region: Region) -> None:
        self.region = region
        fields = region.unpack(_SUPERBLOCK, _SUPERBLOCK_AT)
        (magic, _, _, block_bits, _, self._root, _, self._epoch, _, blocks, meta, xattrs, uuid, _, features) = fields[
            :15
        ]
        devices, dir_bits = fields[16], fields[18]
        if magic != MAGIC:
            raise region.fault("not erofs")
        if not 9 <= block_bits <= 16 or dir_bits:
            raise region.fault(f"erofs with blocks of 2^{block_bits} bytes, directories 2^{dir_bits} of them")
        if features & ~_KNOWN_FEATURES or devices:
            raise region.fault(f"erofs with features that are not supported: {features:#x}, {devices} further devices")
        self._block = 1 << block_bits
        self._meta = meta * self._block
        self._shared_xattrs = xattrs * self._block
        self.uuid = uuid.hex()
        self.blocks = blocks

    def entries(self) -> Iterator[Entry]:
        """Every entry, as `Tree` says."""
        names = Budget(self.region, self.region.size // _DIRENT.size, "names")
        attributes = Budget(self.region, self.region.size, "extended attributes")

        def visit(path: str, number: int) -> tuple[Entry, Callable[[], Iterator[tuple[bytes, int]]]]:
            inode = self._inode(number)
            return self._entry(path, inode, attributes), lambda: self._directory(path, inode, names)

        return walk(self.region, self._root, visit)

    def content(self, entry: Entry) -> Region:
        """The bytes of a regular file."""
        return self._content(self._inode(entry.handle), entry.path)

    def extents(self, entry: Entry) -> Iterator[tuple[int, int]]:
        """(offset, size in bytes) of each stretch of blocks of its own that a regular file has."""
        inode = self._inode(entry.handle)
        if inode.layout == _CHUNK_BASED:
            for _, offset, size in self._chunk_rows(inode, entry.path):
                yield offset, size
        elif inode.layout == _FLAT_PLAIN and inode.size:
            yield inode.union * self._block, inode.size

    def _inode(self, nid: int) -> _Inode:
        at = self._meta + nid * 32
        (form,) = struct.unpack("<H", self.region.read(at, 2))
        layout = form >> 1 & 7
        if form >> 4:
            raise self.region.fault(f"inode {nid} of unknown format {form:#x}")
        if form & 1:
            (_, xattrs, mode, _, size, union, _, uid, gid, mtime, _, _) = self.region.unpack(_EXTENDED, at)
            length = _EXTENDED.size
        else:
            (_, xattrs, mode, _, size, _, union, _, uid, gid, _) = self.region.unpack(_COMPACT, at)
            mtime, length = self._epoch, _COMPACT.size
        xattrs_size = 12 + (xattrs - 1) * 4 if xattrs else 0
        return _Inode(nid, layout, mode, uid, gid, size, mtime, union, at + length, xattrs_size)

    def _entry(self, path: str, inode: _Inode, attributes: Budget) -> Entry:
        kind = kind_of(inode.mode, self.region, path)
        target = rdev = None
        if kind is Kind.SYMLINK:
            if inode.size > LONGEST_PATH:
                raise self.region.fault(f"{path}: a symbolic link of {inode.size} bytes")
            target = text(self._content(inode, path).read(0, inode.size))
        elif kind in (Kind.CHARACTER, Kind.BLOCK):
            rdev = (os.major(inode.union), os.minor(inode.union))
        size = inode.size if kind is Kind.FILE else 0
        xattrs = self._xattrs(path, inode, attributes)
        mode = inode.mode & 0o7777
        return Entry(path, kind, mode, inode.uid, inode.gid, size, inode.mtime, target, rdev, xattrs, inode.nid)

    def _content(self, inode: _Inode, path: str) -> Region:
        name = f"{self.region.name}: {path}"
        if inode.layout in _COMPRESSED:
            raise self.region.fault(f"{path}: compressed erofs is not supported")
        if inode.size > max(self.region.size, LARGEST_SPARSE):
            raise self.region.fault(f"{path}: larger than its file system")
        if inode.layout == _CHUNK_BASED:
            return joined(name, inode.size, self._chunks(inode, path))
        start = inode.union * self._block
        if inode.layout == _FLAT_PLAIN:
            return self.region.part(start, inode.size, path) if inode.size else Region.of_bytes(b"", name)
        if inode.layout != _FLAT_INLINE:
            raise self.region.fault(f"{path}: unknown data layout {inode.layout}")
        whole = max(inode.size - 1, 0) // self._block * self._block
        tail = inode.size - whole
        if tail and inode.tail_at // self._block != (inode.tail_at + tail - 1) // self._block:
            raise self.region.fault(f"{path}: its inline end crosses a block")
        pieces = [(0, self.region.part(start, whole))] if whole else []
        return joined(name, inode.size, [*pieces, (whole, self.region.part(inode.tail_at, tail))])

    def _chunks(self, inode: _Inode, path: str) -> Iterator[tuple[int, Region]]:
        for start, offset, size in self._chunk_rows(inode, path):
            yield start, self.region.part(offset, size)

    def _chunk_rows(self, inode: _Inode, path: str) -> Iterator[tuple[int, int, int]]:
        """(offset in the file, offset in the file system, size) of its chunks; holes are left out."""
        chunk = self._block << (inode.union & 0x1F)
        indexed = bool(inode.union & 0x20)
        width = 8 if indexed else 4
        table = -(-inode.tail_at // width) * width
        for number in range(-(-inode.size // chunk)):
            row = self.region.read(table + number * width, width)
            device, block = struct.unpack("<2xHI", row) if indexed else (0, *struct.unpack("<I", row))
            if device:
                raise self.region.fault(f"{path}: its content is on another device")
            if block != _HOLE:
                start = number * chunk
                yield start, block * self._block, min(chunk, inode.size - start)

    def _directory(self, path: str, inode: _Inode, names: Budget) -> Iterator[tuple[bytes, int]]:
        """Names and inode numbers. A block is a table of entries, then their names."""
        content = self._content(inode, path)
        for start in range(0, content.size, self._block):
            block = content.read(start, min(self._block, content.size - start))
            count = struct.unpack_from("<H", block, 8)[0] // _DIRENT.size if len(block) >= _DIRENT.size else 0
            if not 0 < count <= len(block) // _DIRENT.size:
                raise self.region.fault(f"{path}: a damaged directory")
            names.spend(count)
            rows = [_DIRENT.unpack_from(block, index * _DIRENT.size) for index in range(count)]
            ends = [row[1] for row in rows[1:]] + [len(block)]
            for (nid, begin, _, _), end in zip(rows, ends, strict=True):
                if not count * _DIRENT.size <= begin < end <= len(block):
                    raise self.region.fault(f"{path}: a damaged directory")
                name = block[begin:end].split(b"\0", 1)[0]
                if name not in (b".", b".."):
                    yield name, nid

    def _xattrs(self, path: str, inode: _Inode, attributes: Budget) -> tuple[tuple[str, bytes], ...]:
        if not inode.xattrs_size:
            return ()
        if inode.xattrs_size > 64 << 10:
            raise self.region.fault(f"{path}: too many extended attributes")
        body = self.region.read(inode.xattrs_at, inode.xattrs_size)
        _, shared = _XATTR_HEADER.unpack_from(body)
        at = _XATTR_HEADER.size + 4 * shared
        if at > len(body):
            raise self.region.fault(f"{path}: damaged extended attributes")
        attributes.spend(len(body))
        found = []
        for (number,) in struct.iter_unpack("<I", body[_XATTR_HEADER.size : at]):
            position = self._shared_xattrs + 4 * number
            name_length, _, value_length = self.region.unpack(_XATTR_ENTRY, position)
            attributes.spend(name_length + value_length)
            row = self.region.read(position, _XATTR_ENTRY.size + name_length + value_length)
            found.append(_attribute(row))
        while at + _XATTR_ENTRY.size <= len(body):
            name_length, _, value_length = _XATTR_ENTRY.unpack_from(body, at)
            end = at + _XATTR_ENTRY.size + name_length + value_length
            if end > len(body):
                raise self.region.fault(f"{path}: damaged extended attributes")
            found.append(_attribute(body[at:end]))
            at = -(-end // 4) * 4
        return tuple(sorted(found))


def _attribute(row: bytes) -> tuple[str, bytes]:
    name_length, prefix, _ = _XATTR_ENTRY.unpack_from(row)
    split = _XATTR_ENTRY.size + name_length
    return _XATTR_PREFIXES.get(prefix, f"#{prefix}.") + text(row[_XATTR_ENTRY.size : split]), row[split:]
