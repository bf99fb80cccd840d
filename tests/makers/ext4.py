"""A small ext4 image: one group, blocks of 1 KiB, extents, one directory block each."""

from __future__ import annotations

import stat
import struct

from makers.node import FILE_TYPES, Files, Node, children

BLOCK = 1024
INODE = 256
_TABLE = 5


def make_ext4(files: Files, *, deep: bool = False, features: int = 0x2 | 0x40) -> bytes:
    """`deep` puts the extents into a leaf block below the inode, and one extent into each leaf row."""
    numbers = {path: 2 if path == "/" else 11 + index for index, path in enumerate(files)}
    inodes = 16 + len(files)
    first_data = _TABLE + -(-inodes * INODE // BLOCK)
    table = bytearray((first_data - _TABLE) * BLOCK)
    data = bytearray()

    def extents(blocks: int) -> bytes:
        """The extent tree of the `blocks` blocks that come next."""
        start = first_data + len(data) // BLOCK
        if deep and blocks:
            leaf = start + blocks
            return struct.pack("<HHHHI", 0xF30A, 1, 4, 1, 0) + struct.pack("<IIHH", 0, leaf, 0, 0)
        body = struct.pack("<HHHHI", 0xF30A, 1 if blocks else 0, 4, 0, 0)
        return body + (struct.pack("<IHHI", 0, blocks, 0, start) if blocks else b"")

    def add(content: bytes) -> None:
        nonlocal data
        blocks = -(-len(content) // BLOCK)
        start = first_data + len(data) // BLOCK
        data += content.ljust(blocks * BLOCK, b"\0")
        if deep and blocks:
            rows = b"".join(struct.pack("<IHHI", i, 1, 0, start + i) for i in range(blocks))
            data += (struct.pack("<HHHHI", 0xF30A, blocks, 84, 0, 0) + rows).ljust(BLOCK, b"\0")

    for path, node in files.items():
        content, flags = _content(files, numbers, path, node), 0x80000
        if stat.S_ISLNK(node.mode) and len(content) < 60:
            body, flags = content, 0
        elif stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            body, flags = struct.pack("<I", node.rdev[0] << 8 | node.rdev[1]), 0
        else:
            body = extents(-(-len(content) // BLOCK))
            add(content)
        row = struct.pack(
            "<HHIIIIIHHIII", node.mode, node.uid, len(content), 0, 0, node.mtime, 0, node.gid, 1, 0, flags, 0
        )
        row = row[:0x28] + body.ljust(60, b"\0")
        row = row.ljust(0x80, b"\0") + struct.pack("<HH", 32, 0)
        row = row.ljust(0x80 + 32, b"\0") + _attributes(node, INODE - 0x80 - 32)
        at = (numbers[path] - 1) * INODE
        table[at : at + len(row)] = row
    blocks = first_data + len(data) // BLOCK
    superblock = bytearray(1024)
    for offset, value in (
        (0x0, inodes),
        (0x4, blocks),
        (0x14, 1),
        (0x18, 0),
        (0x20, 8192),
        (0x28, inodes),
        (0x4C, 1),
        (0x60, features),
    ):
        struct.pack_into("<I", superblock, offset, value)
    struct.pack_into("<H", superblock, 0x38, 0xEF53)
    struct.pack_into("<H", superblock, 0x58, INODE)
    group = struct.pack("<III", 3, 4, _TABLE).ljust(BLOCK, b"\0")
    return bytes(1024) + bytes(superblock) + group + bytes(2 * BLOCK) + bytes(table) + bytes(data)


def _content(files: Files, numbers: dict[str, int], path: str, node: Node) -> bytes:
    if not node.is_directory:
        return node.content
    rows = [(".", path), ("..", path.rsplit("/", 1)[0] or "/")]
    rows += [(name, f"{path.rstrip('/')}/{name}") for name in children(files, path)]
    block = b""
    for index, (name, target) in enumerate(rows):
        text = name.encode()
        length = -(-(8 + len(text)) // 4) * 4 if index + 1 < len(rows) else BLOCK - len(block)
        head = struct.pack("<IHBB", numbers[target], length, len(text), FILE_TYPES[stat.S_IFMT(files[target].mode)])
        block += (head + text).ljust(length, b"\0")
    return block


def _attributes(node: Node, room: int) -> bytes:
    if not node.xattrs:
        return b""
    rows, values = b"", b""
    for name, value in node.xattrs.items():
        short = name.removeprefix("user.").encode()
        values = value + values
        row = struct.pack("<BBHIII", len(short), 1, room - 4 - len(values), 0, len(value), 0) + short
        rows += row.ljust(-(-len(row) // 4) * 4, b"\0")
    return struct.pack("<I", 0xEA020000) + rows + bytes(room - 4 - len(rows) - len(values)) + values
