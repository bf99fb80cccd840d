"""A small erofs image: one inode after the other from the second block on, then whole data blocks."""

from __future__ import annotations

import stat
import struct

from makers.node import FILE_TYPES, Files, Node, children

BLOCK = 4096
_META = 1  # the first block of inodes


def _xattrs(node: Node) -> bytes:
    if not node.xattrs:
        return b""
    body = struct.pack("<IB7x", 0, 0)
    for name, value in node.xattrs.items():
        short = name.removeprefix("user.").encode()
        row = struct.pack("<BBH", len(short), 1, len(value)) + short + value
        body += row.ljust(-(-len(row) // 4) * 4, b"\0")
    return body


def _directory(names: list[tuple[str, int, int]]) -> bytes:
    """One block of (name, nid, type)."""
    rows, text = b"", b""
    first = 12 * len(names)
    for name, nid, kind in sorted(names):
        rows += struct.pack("<QHBB", nid, first + len(text), kind, 0)
        text += name.encode()
    assert len(rows + text) <= BLOCK
    return rows + text


def make_erofs(files: Files, *, extended: bool = False, layout: int = 2) -> bytes:
    """`layout` is that of files: 0 flat-plain, 2 flat-inline, 4 chunk-based with indexes, 1 claims to be compressed."""
    header = 64 if extended else 32
    places: dict[str, int] = {}
    at = 0

    def content_of(path: str, node: Node) -> bytes:
        if not node.is_directory:
            return node.content
        below = [(name, f"{path.rstrip('/')}/{name}") for name in children(files, path)]
        above = path.rsplit("/", 1)[0] or "/"
        names = [(".", path), ("..", above), *below]
        return _directory([(n, places.get(p, 0), FILE_TYPES[stat.S_IFMT(files[p].mode)]) for n, p in names])

    def pieces(path: str, node: Node) -> tuple[int, bytes, bytes, bytes]:
        """The layout of an inode, its extended attributes, its whole blocks and its inline end."""
        content = content_of(path, node)
        kind = layout if stat.S_ISREG(node.mode) and content else 2 if content else 0
        cut = (len(content) - 1) // BLOCK * BLOCK if kind == 2 else len(content)
        if len(content) - cut > BLOCK - header - 256:
            kind, cut = 0, len(content)
        return kind, _xattrs(node), content[:cut], content[cut:]

    for path, node in files.items():
        kind, xattrs, whole, tail = pieces(path, node)
        size = header + len(xattrs) + (len(tail) if kind == 2 else 8 * (len(whole) // BLOCK + 2) if kind == 4 else 0)
        at = -(-at // 32) * 32
        if at // BLOCK != (at + size - 1) // BLOCK:
            at = -(-at // BLOCK) * BLOCK
        places[path] = at // 32
        at += size
    meta = bytearray(-(-at // BLOCK) * BLOCK)
    data = bytearray()
    for number, (path, node) in enumerate(files.items(), 1):
        kind, xattrs, whole, tail = pieces(path, node)
        block = _META + (len(meta) + len(data)) // BLOCK
        union = block if whole else 0
        if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            union = (node.rdev[0] << 8) | node.rdev[1]
        form, size = kind << 1 | extended, len(whole + tail)
        after = xattrs + tail
        if kind == 4:
            union = 0x20
            after += bytes(-(header + len(after)) % 8)
            after += b"".join(struct.pack("<HHI", 0, 0, block + i) for i in range(-(-size // BLOCK)))
        count = (len(xattrs) - 12) // 4 + 1 if xattrs else 0
        if extended:
            row = struct.pack(
                "<HHHHQIIIIQII16x", form, count, node.mode, 0, size, union, number, node.uid, node.gid, node.mtime, 0, 1
            )
        else:
            row = struct.pack("<HHHHIIIIHHI", form, count, node.mode, 1, size, 0, union, number, node.uid, node.gid, 0)
        start = places[path] * 32
        meta[start : start + len(row + after)] = row + after
        data += whole.ljust(-(-len(whole) // BLOCK) * BLOCK, b"\0")
    total = _META + (len(meta) + len(data)) // BLOCK
    superblock = struct.pack(
        "<IIIBBHQQIIII16s16sIHHHBBI",
        0xE0F5E1E2, 0, 0, 12, 0, places["/"], len(files), 1_700_000_000, 0, total, _META, 0,
        b"U" * 16, b"", 4 if layout == 4 else 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
    return bytes(1024) + superblock.ljust(BLOCK - 1024, b"\0") + bytes(meta) + bytes(data)
