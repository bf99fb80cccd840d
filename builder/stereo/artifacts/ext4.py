"""Lists and reads an ext4 file system: the state partition. See the kernel's Documentation/filesystems/ext4.

Extents, linear and hashed directories (a hashed one reads linearly too), inline data, fast symbolic links and extended
attributes. What mke2fs of Debian never makes for us (block maps, encryption, a journal to replay) is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stereo.artifacts.region import Region, joined
from stereo.artifacts.tree import LARGEST_SPARSE, LONGEST_PATH, Budget, Entry, Kind, kind_of, text, walk

MAGIC = 0xEF53
_SUPERBLOCK_AT = 1024
_ROOT = 2

_REFUSED_FEATURES = {
    0x1: "compression",
    0x4: "a journal that was not replayed",
    0x8: "an external journal",
    0x10: "meta block groups",
    0x400: "attributes in inodes",
    0x1000: "data in directories",
    0x10000: "encryption",
}
_FILETYPE, _64BIT = 0x2, 0x80
_KNOWN_FEATURES = 0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x2000 | 0x4000 | 0x8000 | 0x20000

_EXTENTS, _INLINE = 0x80000, 0x10000000
_EXTENT_HEADER = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")
_INDEX = struct.Struct("<IIHH")
_EXTENT_MAGIC = 0xF30A
_UNWRITTEN = 32768
_XATTR_MAGIC = 0xEA020000
_XATTR_ENTRY = struct.Struct("<BBHIII")
_XATTR_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
}


@dataclass(frozen=True, slots=True)
class _Inode:
    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    flags: int
    block: bytes
    attributes: bytes
    """What follows the inode in its slot."""
    attribute_block: int


class Ext4:
    """An ext4 image. Raises FormatError at once when the superblock is not one that we can read."""

    def __init__(self, region: Region) -> None:
        self.region = region
        block = region.read(_SUPERBLOCK_AT, 1024)

        def word(offset: int) -> int:
            return int.from_bytes(block[offset : offset + 4], "little")

        if int.from_bytes(block[0x38:0x3A], "little") != MAGIC:
            raise region.fault("not ext4")
        features = word(0x60)
        for bit, what in _REFUSED_FEATURES.items():
            if features & bit:
                raise region.fault(f"ext4 with {what} is not supported")
        if features & ~_KNOWN_FEATURES or not features & _FILETYPE:
            raise region.fault(f"ext4 with features {features:#x} is not supported")
        self._block = 1024 << word(0x18) if word(0x18) <= 6 else 0
        self._inode_size = int.from_bytes(block[0x58:0x5A], "little")
        self._inodes = word(0x0)
        self._inodes_per_group = word(0x28)
        self._descriptor_size = int.from_bytes(block[0xFE:0x100], "little") if features & _64BIT else 32
        if (
            not self._block
            or not 128 <= self._inode_size <= self._block
            or not 32 <= self._descriptor_size <= 1024
            or not self._inodes_per_group
        ):
            raise region.fault("an ext4 superblock that cannot be")
        self._descriptors = (word(0x14) + 1) * self._block
        self.uuid = block[0x68:0x78].hex()

    def entries(self) -> Iterator[Entry]:
        """Every entry, as `Tree` says."""
        names = Budget(self.region, self.region.size // 8, "names")
        attributes = Budget(self.region, self.region.size, "extended attributes")

        def visit(path: str, number: int) -> tuple[Entry, Callable[[], Iterator[tuple[bytes, int]]]]:
            inode = self._inode(number)
            return self._entry(path, inode, attributes), lambda: self._directory(path, inode, names)

        return walk(self.region, _ROOT, visit)

    def content(self, entry: Entry) -> Region:
        """The bytes of a regular file."""
        return self._content(self._inode(entry.handle), entry.path)

    def _inode(self, number: int) -> _Inode:
        if not 0 < number <= self._inodes:
            raise self.region.fault(f"there is no inode {number}")
        group, index = divmod(number - 1, self._inodes_per_group)
        row = self.region.read(self._descriptors + group * self._descriptor_size, self._descriptor_size)
        table = int.from_bytes(row[0x8:0xC], "little")
        if self._descriptor_size >= 64:
            table |= int.from_bytes(row[0x28:0x2C], "little") << 32
        raw = self.region.read(table * self._block + index * self._inode_size, self._inode_size)

        def half(offset: int) -> int:
            return int.from_bytes(raw[offset : offset + 2], "little")

        def word(offset: int) -> int:
            return int.from_bytes(raw[offset : offset + 4], "little")

        extra = half(0x80) if self._inode_size > 128 else 0
        mtime = int.from_bytes(raw[0x10:0x14], "little", signed=True)
        if extra >= 0x88 + 4 - 0x80:
            mtime += (word(0x88) & 3) << 32
        return _Inode(
            number,
            half(0x0),
            half(0x2) | half(0x78) << 16,
            half(0x18) | half(0x7A) << 16,
            word(0x4) | word(0x6C) << 32,
            mtime,
            word(0x20),
            raw[0x28:0x64],
            raw[0x80 + extra :] if extra else b"",
            word(0x68) | half(0x76) << 32,
        )

    def _entry(self, path: str, inode: _Inode, attributes: Budget) -> Entry:
        kind = kind_of(inode.mode, self.region, path)
        target = rdev = None
        if kind is Kind.SYMLINK:
            if inode.size > LONGEST_PATH:
                raise self.region.fault(f"{path}: a symbolic link of {inode.size} bytes")
            fast = inode.size < 60 and not inode.flags & (_EXTENTS | _INLINE)
            target = text(inode.block[: inode.size] if fast else self._content(inode, path).read(0, inode.size))
        elif kind in (Kind.CHARACTER, Kind.BLOCK):
            rdev = _device(inode.block)
        size = inode.size if kind is Kind.FILE else 0
        xattrs = tuple(row for row in self._xattrs(path, inode, attributes) if row[0] != "system.data")
        mode = inode.mode & 0o7777
        return Entry(path, kind, mode, inode.uid, inode.gid, size, inode.mtime, target, rdev, xattrs, inode.number)

    def _content(self, inode: _Inode, path: str) -> Region:
        name = f"{self.region.name}: {path}"
        if inode.size > max(self.region.size, LARGEST_SPARSE):
            raise self.region.fault(f"{path}: larger than its file system")
        if inode.flags & _INLINE:
            spare = dict(self._xattrs(path, inode, None)).get("system.data", b"")
            return Region.of_bytes(inode.block + spare, name).part(0, inode.size)
        if not inode.flags & _EXTENTS:
            if inode.size:
                raise self.region.fault(f"{path}: ext4 without extents is not supported")
            return Region.of_bytes(b"", name)
        nodes = Budget(self.region, self.region.size // self._block + 1, f"extent blocks of {path}")
        return joined(name, inode.size, self._extents(path, inode.block, None, nodes))

    def _extents(self, path: str, node: bytes, depth: int | None, nodes: Budget) -> Iterator[tuple[int, Region]]:
        nodes.spend()
        magic, count, _, level, _ = _EXTENT_HEADER.unpack_from(node)
        if magic != _EXTENT_MAGIC or (count + 1) * 12 > len(node) or level > 5 or depth not in (None, level):
            raise self.region.fault(f"{path}: a damaged extent tree")
        for index in range(count):
            at = 12 * (index + 1)
            if level:
                _, low, high, _ = _INDEX.unpack_from(node, at)
                below = self.region.read((high << 32 | low) * self._block, self._block)
                yield from self._extents(path, below, level - 1, nodes)
            else:
                logical, length, high, low = _EXTENT.unpack_from(node, at)
                if length <= _UNWRITTEN:
                    start = (high << 32 | low) * self._block
                    yield logical * self._block, self.region.part(start, length * self._block, path)

    def _directory(self, path: str, inode: _Inode, names: Budget) -> Iterator[tuple[bytes, int]]:
        content = self._content(inode, path)
        if inode.flags & _INLINE:
            # An inline directory keeps its parent's number where `.` and `..` would be, and lies in two stretches.
            cut = min(60, content.size)
            stretches = [content.read(4, max(cut - 4, 0)), content.read(cut, content.size - cut)]
        else:
            starts = range(0, content.size, self._block)
            stretches = [content.read(at, min(self._block, content.size - at)) for at in starts]
        for block in stretches:
            at = 0
            while at + 8 <= len(block):
                names.spend()
                number, length, name_length, _ = struct.unpack_from("<IHBB", block, at)
                if length < 8 + name_length or at + length > len(block):
                    raise self.region.fault(f"{path}: a damaged directory")
                name = block[at + 8 : at + 8 + name_length]
                if number and name not in (b".", b".."):
                    yield name, number
                at += length

    def _xattrs(self, path: str, inode: _Inode, attributes: Budget | None) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        if inode.attributes[:4] == _XATTR_MAGIC.to_bytes(4, "little"):
            found += self._attributes(path, inode.attributes[4:], 0)
        if inode.attribute_block:
            block = self.region.read(inode.attribute_block * self._block, self._block)
            if block[:4] != _XATTR_MAGIC.to_bytes(4, "little"):
                raise self.region.fault(f"{path}: damaged extended attributes")
            found += self._attributes(path, block, 32)
        if attributes:
            attributes.spend(sum(len(name) + len(value) for name, value in found))
        return sorted(found)

    def _attributes(self, path: str, body: bytes, at: int) -> Iterator[tuple[str, bytes]]:
        while at + _XATTR_ENTRY.size <= len(body) and body[at : at + 4] != bytes(4):
            name_length, prefix, start, inode, size, _ = _XATTR_ENTRY.unpack_from(body, at)
            at += _XATTR_ENTRY.size
            if inode or at + name_length > len(body) or start + size > len(body):
                raise self.region.fault(f"{path}: damaged extended attributes")
            name = _XATTR_PREFIXES.get(prefix, f"#{prefix}.") + text(body[at : at + name_length])
            yield name, body[start : start + size]
            at += -(-name_length // 4) * 4


def _device(block: bytes) -> tuple[int, int]:
    """Old encoding in the first word, new one in the second. See ext4_iget()."""
    old, new = struct.unpack_from("<II", block)
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    return (new & 0xFFF00) >> 8, (new & 0xFF) | (new >> 12 & 0xFFF00)
