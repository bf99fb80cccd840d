"""A dm-verity hash partition: its superblock, and whether tree and data belong together.

See cryptsetup's docs/on-disk-format (veritysetup) and the kernel's admin-guide/device-mapper/verity.rst.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from stereo.artifacts.region import Region

MAGIC = b"verity\0\0"
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")
_ALGORITHMS = ("sha256", "sha512", "sha1")


@dataclass(frozen=True)
class Superblock:
    """What the tree was made with. Block sizes in bytes."""

    uuid: str
    algorithm: str
    data_block: int
    hash_block: int
    data_blocks: int
    salt: bytes


def read_superblock(region: Region) -> Superblock:
    """Raises FormatError when there is none, or one that the kernel would not take either."""
    magic, version, kind, uuid, name, data_block, hash_block, blocks, salt_size, salt = region.unpack(_SUPERBLOCK, 0)
    algorithm = name.split(b"\0", 1)[0].decode("ascii", "replace")
    if magic != MAGIC or version != 1 or kind != 1:
        raise region.fault("no dm-verity superblock of version 1")
    if algorithm not in _ALGORITHMS or salt_size > 256 or not blocks:
        raise region.fault(f"dm-verity with {algorithm}, {blocks} blocks and {salt_size} bytes of salt")
    if any(size not in (512, 1024, 2048, 4096) for size in (data_block, hash_block)):
        raise region.fault(f"dm-verity with blocks of {data_block} and {hash_block} bytes")
    return Superblock(uuid.hex(), algorithm, data_block, hash_block, blocks, salt[:salt_size])


class TreeCheck:
    """Hashes data as it streams by and holds the result against the stored tree. Memory does not grow with the data.

    `feed` it all data blocks in order, then `finish`. `fault` then says where data and tree part, and `root` is the
    root hash of the *data*, whatever the stored tree says.
    """

    def __init__(self, superblock: Superblock, hashes: Region) -> None:
        """`hashes` is the hash partition. Raises FormatError when it is too small for its own tree."""
        self._superblock = superblock
        self._hashes = hashes
        self._start = hashlib.new(superblock.algorithm, superblock.salt)
        self._padding = bytes((1 << (self._start.digest_size - 1).bit_length()) - self._start.digest_size)
        self._per_block = superblock.hash_block // (self._start.digest_size + len(self._padding))
        counts = []  # hash blocks of each level, leaves first
        blocks = superblock.data_blocks
        while blocks > 1:
            blocks = -(-blocks // self._per_block)
            counts.append(blocks)
        at = superblock.hash_block  # the superblock has a block of its own; then the levels, top first
        self._at = [0] * len(counts)
        for level in reversed(range(len(counts))):
            self._at[level] = at
            at += counts[level] * superblock.hash_block
        hashes.part(0, at)
        self._open = [bytearray() for _ in counts]
        self._full = [0] * len(counts)
        self._left = superblock.data_blocks
        self.root: str | None = None
        self.fault: str | None = None

    def feed(self, data: bytes) -> None:
        """The next blocks, whole ones. What comes after the last block is not part of the tree and is ignored."""
        view, size, start, padding = memoryview(data), self._superblock.data_block, self._start, self._padding
        count = min(len(data) // size, self._left)
        self._left -= count
        if not self._open:
            self._top(bytes(view[:size]))
            return
        leaves, most = self._open[0], self._superblock.hash_block
        for offset in range(0, count * size, size):
            one = start.copy()
            one.update(view[offset : offset + size])
            leaves += one.digest() + padding
            if len(leaves) == most:
                self._close(0)

    def finish(self) -> None:
        """Close the tree. `root` stays None when there was less data than the superblock says."""
        if self._left:
            self.fault = self.fault or f"{self._left} data blocks are missing"
            return
        for level, block in enumerate(self._open):
            if block:
                self._close(level)

    def _close(self, level: int) -> None:
        block = bytes(self._open[level]).ljust(self._superblock.hash_block, b"\0")
        self._open[level].clear()
        number = self._full[level]
        self._full[level] += 1
        stored = self._hashes.read(self._at[level] + number * len(block), len(block))
        if stored != block and not self.fault:
            self.fault = self._explain(level, number, block, stored)
        if level + 1 == len(self._open):
            self._top(block)
            return
        one = self._start.copy()
        one.update(block)
        above = self._open[level + 1]
        above += one.digest() + self._padding
        if len(above) == self._superblock.hash_block:
            self._close(level + 1)

    def _top(self, block: bytes) -> None:
        one = self._start.copy()
        one.update(block)
        self.root = one.hexdigest()

    def _explain(self, level: int, number: int, block: bytes, stored: bytes) -> str:
        width = self._superblock.hash_block // self._per_block
        index = next(
            (i for i in range(self._per_block) if block[i * width :][:width] != stored[i * width :][:width]), 0
        )
        row = number * self._per_block + index
        if level == 0:
            return f"data block {row} (byte {row * self._superblock.data_block}) does not match the hash tree"
        return f"hash block {row} of level {level - 1} does not match the level above it"


def root_hash(data: Region, hashes: Region) -> str:
    """The root hash of `data`, checked against the tree in `hashes`. Raises FormatError where they part."""
    check = TreeCheck(read_superblock(hashes), hashes)
    for chunk in data.chunks():
        check.feed(chunk)
    check.finish()
    if check.fault or check.root is None:
        raise data.fault(check.fault or "no data")
    return check.root
