"""Small disks: GPT, dm-verity, qcow2, PE and cpio."""

from __future__ import annotations

import hashlib
import struct
import zlib
from uuid import UUID

from makers.node import Files

SECTOR = 512
ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
ROOT_VERITY = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
DISK_UUID = "11111111-2222-3333-4444-555555555555"


def make_gpt(partitions: list[tuple[str, str, str, bytes]], *, align: int = 4096) -> bytes:
    """A disk of (label, type, uuid, content), each at a multiple of `align` bytes."""
    body, rows = bytearray(34 * SECTOR), b""
    for label, kind, uuid, content in partitions:
        body += bytes(-len(body) % align)
        first = len(body) // SECTOR
        body += content + bytes(-len(content) % SECTOR)
        last = len(body) // SECTOR - 1
        names = label.encode("utf-16-le").ljust(72, b"\0")
        rows += struct.pack("<16s16sQQQ72s", UUID(kind).bytes_le, UUID(uuid).bytes_le, first, last, 0, names)
    body += bytes(-len(body) % align)
    rows = rows.ljust(128 * 128, b"\0")
    end = len(body) // SECTOR + 32  # where the backup header goes

    def header(own: int, other: int, entries: int) -> bytes:
        fields = (own, other, 34, end - 33, UUID(DISK_UUID).bytes_le, entries, 128, 128, zlib.crc32(rows))
        raw = struct.pack("<8s4sIIIQQQQ16sQIII", b"EFI PART", b"\0\0\1\0", 92, 0, 0, *fields)
        return (raw[:16] + struct.pack("<I", zlib.crc32(raw)) + raw[20:]).ljust(SECTOR, b"\0")

    mbr = bytearray(SECTOR)
    mbr[450], mbr[510:] = 0xEE, b"\x55\xaa"
    body[: 2 * SECTOR] = mbr + header(1, end, 2)
    body[2 * SECTOR : 34 * SECTOR] = rows
    return bytes(body) + rows + header(end, 1, end - 32)


def make_verity(data: bytes, salt: bytes = b"salt", block: int = 4096) -> tuple[bytes, str]:
    """The hash partition of `data`, and the root hash."""

    def digest(piece: bytes) -> bytes:
        return hashlib.sha256(salt + piece).digest()

    def blocks(piece: bytes) -> list[bytes]:
        return [piece[at : at + block].ljust(block, b"\0") for at in range(0, len(piece), block)]

    levels: list[bytes] = []
    level = blocks(data)
    while len(level) > 1:
        level = blocks(b"".join(map(digest, level)))
        levels.insert(0, b"".join(level))
    superblock = struct.pack(
        "<8sII16s32sIIQH6x256s168x",
        b"verity\0\0",
        1,
        1,
        b"V" * 16,
        b"sha256",
        block,
        block,
        len(data) // block,
        len(salt),
        salt,
    )
    return superblock.ljust(block, b"\0") + b"".join(levels), digest(level[0]).hex()


def make_qcow2(disk: bytes, *, version: int = 3, bits: int = 12, zero_flag: bool = False) -> bytes:
    """A qcow2 image whose empty clusters are not allocated (or, with `zero_flag`, marked as zeros)."""
    size = 1 << bits
    rows = size // 8
    clusters = [disk[at : at + size] for at in range(0, len(disk), size)]
    tables = -(-len(clusters) // rows)
    l1_at, l2_at = size, 2 * size
    assert tables <= rows
    out = bytearray(l2_at + tables * size)
    for index, cluster in enumerate(clusters):
        entry = 1 if zero_flag else 0
        if any(cluster):
            entry = len(out) | 1 << 63
            out += cluster.ljust(size, b"\0")
        struct.pack_into(">Q", out, l2_at + index * 8, entry)
    for index in range(tables):
        struct.pack_into(">Q", out, l1_at + index * 8, (l2_at + index * size) | 1 << 63)
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, 0, 0, bits, len(disk), 0, tables, l1_at, 0, 0, 0, 0)
    head += struct.pack(">QQQII", 0, 0, 0, 4, 104)
    out[: len(head)] = head
    return bytes(out)


def make_pe(sections: list[tuple[str, bytes]], *, align: int = 512, machine: int = 0x8664) -> bytes:
    """A PE image of the named sections, each padded to `align`."""
    optional = 240
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    head += b"PE\0\0" + struct.pack("<HHIIIHH", machine, len(sections), 0, 0, 0, optional, 0x22) + bytes(optional)
    table, body = b"", b""
    start = -(-(len(head) + 40 * len(sections)) // align) * align
    for name, content in sections:
        stored = content + bytes(-len(content) % align)
        where = start + len(body)
        table += struct.pack(
            "<8sIIIIIIHHI", name.encode(), len(content), where, len(stored), where, 0, 0, 0, 0, 0x40000040
        )
        body += stored
    return (head + table).ljust(start, b"\0") + body


def make_cpio(files: Files) -> bytes:
    """A newc archive."""
    out = b""
    rows = [(path.lstrip("/") or ".", node) for path, node in files.items()]
    for number, (name, node) in enumerate(rows, 1):
        size = 0 if node.is_directory else len(node.content)
        out += _cpio_row(
            name, [number, node.mode, node.uid, node.gid, 1, node.mtime, size, 0, 0, *node.rdev], node.content
        )
    return out + _cpio_row("TRAILER!!!", [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], b"")


def _cpio_row(name: str, fields: list[int], content: bytes) -> bytes:
    text = name.encode() + b"\0"
    head = b"070701" + b"".join(b"%08x" % value for value in [*fields, len(text), 0]) + text
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
