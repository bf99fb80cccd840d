"""The long reads of verify: each file goes by once, and everyone who wants its bytes gets them then.

Where two files must agree their bytes are compared, which costs a tenth of hashing them again; the work is in hashlib,
zstandard and memcmp, which let other threads run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from stereo.artifacts import verity, zst
from stereo.artifacts.qcow2 import Qcow2, Run
from stereo.artifacts.region import CHUNK, FormatError, Region
from stereo.model.manifest import Manifest, Partition

Tick = Callable[[int], None]
"""Called with the number of bytes that went by. May raise to end a pass."""

_ZEROS = bytes(CHUNK)


@dataclass
class Seen:
    """What a pass over one file found. `differs` says where it parts from its reference, if they were compared."""

    sha256: str = ""
    differs: str | None = None
    partitions: dict[str, str] = field(default_factory=dict)
    """SHA-256 by partition UUID."""
    root_hash: str | None = None
    root_fault: str | None = None


def plain_pass(region: Region, tick: Tick) -> Seen:
    """Hash a file."""
    whole = hashlib.sha256()
    for chunk in region.chunks():
        whole.update(chunk)
        tick(len(chunk))
    return Seen(whole.hexdigest())


def raw_pass(disk: Region, manifest: Manifest, root: Partition | None, hashes: Partition | None, tick: Tick) -> Seen:
    """Hash the raw disk, each of its partitions, and the root partition as dm-verity does."""
    seen, whole, tree = Seen(), hashlib.sha256(), None
    if root and hashes:
        try:
            stored = disk.part(hashes.offset, hashes.size, f"partition {hashes.label}")
            tree = verity.TreeCheck(verity.read_superblock(stored), stored)
        except FormatError as error:
            seen.root_fault = str(error)
    for start, end, partition in _segments(disk.size, manifest.image.partition):
        own = hashlib.sha256()
        for chunk in disk.part(start, end - start).chunks():
            whole.update(chunk)
            if partition:
                own.update(chunk)
                if partition is root and tree:
                    tree.feed(chunk)
            tick(len(chunk))
        if partition:
            seen.partitions[partition.uuid] = own.hexdigest()
    if tree:
        tree.finish()
        seen.root_hash, seen.root_fault = tree.root, tree.fault
    seen.sha256 = whole.hexdigest()
    return seen


def _segments(size: int, partitions: tuple[Partition, ...]) -> Iterator[tuple[int, int, Partition | None]]:
    at = 0
    for partition in sorted(partitions, key=lambda row: row.offset):
        yield at, partition.offset, None
        yield partition.offset, partition.end, partition
        at = partition.end
    yield at, size, None


def qcow2_pass(image: Region, raw: Region | None, tick: Tick) -> Seen:
    """Hash a qcow2 file and, as its clusters go by, hold them against the raw disk."""
    seen, whole, at = Seen(), hashlib.sha256(), 0
    runs: list[Run] = []
    if raw:
        try:
            runs = _runs(image, raw)
        except FormatError as error:
            seen.differs = str(error)
    index = 0
    for chunk in image.chunks():
        whole.update(chunk)
        end = at + len(chunk)
        while raw and not seen.differs and index < len(runs):
            run = runs[index]
            host = run.host or 0
            begin, until = max(host, at), min(host + run.size, end)
            if begin < until:
                guest = run.guest + begin - host
                if chunk[begin - at : until - at] != raw.read(guest, until - begin):
                    seen.differs = f"differs from {raw.name} in the {until - begin} bytes from {guest} on"
            if host + run.size > end:
                break
            index += 1
        at = end
        tick(len(chunk))
    seen.sha256 = whole.hexdigest()
    return seen


def _runs(image: Region, raw: Region) -> list[Run]:
    """What is allocated, by place in the file. Raises FormatError where the raw disk has data and this has none."""
    disk = Qcow2(image)
    if disk.size != raw.size:
        raise image.fault(f"is a disk of {disk.size} bytes, {raw.name} of {raw.size}")
    allocated = []
    for run in disk.runs():
        if run.host is None:
            for at in range(run.guest, run.guest + run.size, CHUNK):
                length = min(CHUNK, run.guest + run.size - at)
                if raw.read(at, length) != (_ZEROS if length == CHUNK else _ZEROS[:length]):
                    raise image.fault(f"differs from {raw.name} in the {length} bytes from {at} on")
        else:
            allocated.append(run)
    allocated.sort(key=lambda run: run.host or 0)
    reached = 0
    for run in allocated:
        if (run.host or 0) < reached:
            raise image.fault(f"uses the cluster at {run.host} twice")
        reached = (run.host or 0) + run.size
    return allocated


def zst_pass(packed: Region, original: Region | None, tick: Tick) -> Seen:
    """Hash a compressed file and, while it is decompressed, hold the result against the original."""
    seen, whole, taken = Seen(), hashlib.sha256(), 0

    def take(data: bytes) -> None:
        nonlocal taken
        taken += len(data)
        whole.update(data)
        tick(len(data))

    if original:
        try:
            seen.differs = _compare(packed, original, take)
        except FormatError as error:
            seen.differs = str(error)
    for chunk in packed.part(taken, packed.size - taken).chunks():
        take(chunk)
    seen.sha256 = whole.hexdigest()
    return seen


def _compare(packed: Region, original: Region, take: Callable[[bytes], None]) -> str | None:
    at = 0
    for data in zst.decompressed(packed, original.size, seen=take):
        if data != original.read(at, len(data)):
            return f"its content differs from {original.name} in the {len(data)} bytes from {at} on"
        at += len(data)
    return None if at == original.size else f"holds {at} bytes, {original.name} has {original.size}"


def content_digest(chunks: Iterator[bytes], tick: Tick) -> str:
    """SHA-256 of what streams by: the slow way, for when there is no sound original to compare with."""
    whole = hashlib.sha256()
    for chunk in chunks:
        whole.update(chunk)
        tick(0)
    return whole.hexdigest()
