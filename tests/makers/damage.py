"""Copies of a dist's disk that something happened to, and where that is seen from inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stereo.artifacts.erofs import Erofs
from stereo.artifacts.gpt import Partition, partition_region, read_gpt
from stereo.artifacts.region import OpenFile
from stereo.artifacts.tree import find

BLOCK = 4096


@dataclass(frozen=True)
class Damaged:
    """A file of the root, and the offset in it of a block of which a bit was flipped; `before` is the block before."""

    file: str
    offset: int
    before: bytes


def root_partition(disk: Path) -> Partition:
    with OpenFile(disk) as opened:
        return next(row for row in read_gpt(opened.region).partitions if row.label == "root")


def flip(disk: Path, offset: int) -> None:
    """Flip the lowest bit of one byte."""
    with disk.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


def flip_superblock(disk: Path) -> None:
    """So that the root is no erofs, and no longer what its hash says."""
    flip(disk, root_partition(disk).offset + 1024)


def flip_in_file(disk: Path, link: str) -> Damaged:
    """Flip a bit in the middle of the program that `link`, a path in the root, leads to."""
    with OpenFile(disk) as opened:
        partition = root_partition(disk)
        root = Erofs(partition_region(opened.region, partition))
        found = find(root, link)
        assert found
        assert found.target
        entry = find(root, found.target)
        assert entry
        content = root.content(entry)
        # A block in the middle, full of code: one of zeros would be found in many places.
        inside = next(
            at
            for at in range(content.size // 2 // BLOCK * BLOCK, content.size, BLOCK)
            if len(set(content.read(at, BLOCK))) > 128
        )
        needle, sound = content.read(inside, BLOCK), content.read(inside - BLOCK, BLOCK)
    flip(disk, _place(disk, partition, needle) + 100)
    return Damaged(found.target, inside, sound)


def _place(disk: Path, partition: Partition, block: bytes) -> int:
    """The offset on the disk of the only block with this content."""
    with disk.open("rb") as stream:
        stream.seek(partition.offset)
        found = []
        for at in range(0, partition.size, 1 << 20):
            data = stream.read(min(1 << 20, partition.size - at))
            found += [partition.offset + at + i for i in range(0, len(data), BLOCK) if data[i : i + BLOCK] == block]
    assert len(found) == 1
    return found[0]
