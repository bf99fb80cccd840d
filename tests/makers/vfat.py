"""A small FAT file system with long names. The number of clusters decides between FAT12, FAT16 and FAT32."""

from __future__ import annotations

import struct

from makers.node import Files, Node, children

SECTOR = 512
_DATE, _TIME = (2023 - 1980) << 9 | 11 << 5 | 14, 22 << 11 | 13 << 5 | 20 // 2


def _checksum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = ((total >> 1) | (total & 1) << 7) + byte & 0xFF
    return total


def _rows(name: str, number: int, cluster: int, node: Node) -> bytes:
    short = b"%-8s%-3s" % (b"FILE%04d" % number, b"BIN")
    units = name.encode("utf-16-le") + b"\0\0"
    units += b"\xff" * (-len(units) % 26)
    long = b""
    for part in reversed(range(len(units) // 26)):
        piece = units[part * 26 : part * 26 + 26]
        order = part + 1 | (0x40 if part + 1 == len(units) // 26 else 0)
        long += (
            bytes([order]) + piece[:10] + b"\x0f\0" + bytes([_checksum(short)]) + piece[10:22] + b"\0\0" + piece[22:]
        )
    return long + _short(short, cluster, node)


def _short(short: bytes, cluster: int, node: Node) -> bytes:
    attributes = (0x10 if node.is_directory else 0) | (0 if node.mode & 0o200 else 1)
    size = 0 if node.is_directory else len(node.content)
    return (
        short
        + bytes([attributes])
        + bytes(8)
        + struct.pack("<HHHHI", cluster >> 16, _TIME, _DATE, cluster & 0xFFFF, size)
    )


def make_vfat(files: Files, *, clusters: int = 200, per_cluster: int = 1) -> bytes:
    """Fewer than 4085 clusters are FAT12, fewer than 65525 FAT16."""
    bits = 12 if clusters < 4085 else 16 if clusters < 65525 else 32
    size = per_cluster * SECTOR
    chains: dict[int, int] = {}
    data = bytearray(clusters * size)
    last = (1 << min(bits, 28)) - 1
    free = 2

    def store(content: bytes) -> int:
        nonlocal free
        count = -(-len(content) // size)
        if not count:
            return 0
        first = free
        for cluster in range(first, first + count):
            chains[cluster] = cluster + 1 if cluster + 1 < first + count else last
        data[(first - 2) * size : (first - 2) * size + len(content)] = content
        free += count
        return first

    def listing(path: str) -> bytes:
        out = b"" if path == "/" else b"".join(_short(dots.ljust(11), 0, files["/"]) for dots in (b".", b".."))
        for number, name in enumerate(children(files, path)):
            below = f"{path.rstrip('/')}/{name}"
            node = files[below]
            out += _rows(name, number, store(listing(below) if node.is_directory else node.content), node)
        return out or bytes(32)

    root = listing("/")
    root_rows = 0 if bits == 32 else 512
    root_cluster = store(root) if bits == 32 else 0
    fat = bytearray(-(-(clusters + 2) * bits // 8 // SECTOR + 1) * SECTOR + SECTOR)
    for cluster, value in chains.items():
        if bits == 12:
            at, shift = cluster * 3 // 2, 4 * (cluster & 1)
            both = int.from_bytes(fat[at : at + 2], "little") & ~(0xFFF << shift) | value << shift
            fat[at : at + 2] = both.to_bytes(2, "little")
        else:
            fat[cluster * bits // 8 : (cluster + 1) * bits // 8] = value.to_bytes(bits // 8, "little")
    fat_sectors = len(fat) // SECTOR
    sectors = 1 + fat_sectors + root_rows * 32 // SECTOR + clusters * per_cluster
    fat16_sectors = 0 if bits == 32 else fat_sectors
    boot = struct.pack("<3s8sHBHBH", b"\xeb\x3c\x90", b"MAKER   ", SECTOR, per_cluster, 1, 1, root_rows)
    boot += struct.pack("<HBHHHII", 0, 0xF8, fat16_sectors, 0, 0, 0, sectors)
    boot += struct.pack("<IHHI", fat_sectors, 0, 0, root_cluster) if bits == 32 else b""
    boot = boot.ljust(82 if bits == 32 else 54, b"\0") + b"FAT%-5d" % bits
    boot = boot.ljust(510, b"\0") + b"\x55\xaa"
    return boot + bytes(fat) + (root.ljust(root_rows * 32, b"\0") if bits != 32 else b"") + bytes(data)
