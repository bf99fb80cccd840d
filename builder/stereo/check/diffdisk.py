"""Two artifacts of one kind, taken apart until the difference is small: disks, partitions, images, kernel files.

What is compared is told by its own bytes, not by its name. Where nothing inside explains the difference, or the inside
cannot be read, the first byte that differs is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields

from stereo.artifacts import gpt, verity, zst
from stereo.artifacts.cpio import Cpio
from stereo.artifacts.erofs import Erofs
from stereo.artifacts.ext4 import Ext4
from stereo.artifacts.pe import Pe
from stereo.artifacts.qcow2 import Qcow2
from stereo.artifacts.region import FormatError, Region, first_difference
from stereo.artifacts.tree import Tree
from stereo.artifacts.vfat import Vfat
from stereo.check.differences import Difference, Level, against, content_difference, inside, limited
from stereo.check.difftree import tree_differences

MOST_LINES = 10
MOST_OF_A_DISK = 40
_DEEPEST = 6
"""A disk in a qcow2, a partition, a UKI in it, its initrd: five. Nothing honest goes further."""

Compare = Callable[[Region, Region, str, int], Iterator[Difference]]


def differences(a: Region, b: Region, where: str, depth: int = 0) -> Iterator[Difference]:
    """How two artifacts differ, nothing if their bytes are equal."""
    told = content_difference(a, b)
    if told is None:
        return
    kind, other = kind_of(a), kind_of(b)
    if kind != other:
        yield Difference(Level.FILE, where, f"{kind or 'data'} against {other or 'data'}; {told}")
        return
    found: list[Difference] = []
    level, compare = _COMPARE.get(kind, (Level.FILE, None))
    most = MOST_OF_A_DISK if kind in ("disk", "qcow2") else MOST_LINES
    if compare and depth < _DEEPEST:
        try:
            for difference in limited(compare(a, b, where, depth), level, where, most):
                found.append(difference)  # one by one: what came before an error is kept
        except FormatError as error:
            found.append(Difference(level, where, f"cannot be looked into further: {error}; {told}"))
    if not found:
        inner = "" if compare is None else f"the same {kind} inside, but "
        found.append(Difference(level, where, f"{inner}{told}"))
    yield from found


def kind_of(region: Region) -> str:
    """What something is by its first bytes; empty when it is nothing that can be taken apart."""
    head = region.read(0, min(region.size, 4096))
    if head[512:520] == b"EFI PART":
        return "disk"
    if head[1024:1028] == b"\xe2\xe1\xf5\xe0":
        return "erofs"
    if head[1080:1082] == b"\x53\xef":
        return "ext4"
    if head[510:512] == b"\x55\xaa" and head[:1] in (b"\xeb", b"\xe9") and b"FAT" in head[54:90]:
        return "FAT"
    starts = (
        (b"QFI\xfb", "qcow2"),
        (verity.MAGIC, "verity"),
        (b"MZ", "PE image"),
        (b"0707", "cpio"),
        (zst.MAGIC, "cpio"),
    )
    return next((kind for magic, kind in starts if head.startswith(magic)), "")


def _disks(a: Region, b: Region, where: str, depth: int) -> Iterator[Difference]:
    left, right = gpt.read_gpt(a), gpt.read_gpt(b)
    if left.disk_uuid != right.disk_uuid:
        yield Difference(Level.DISK, where, f"UUID {against(left.disk_uuid, right.disk_uuid)}")
    rows_a, rows_b = ({row.number: row for row in table.partitions} for table in (left, right))
    pairs = []
    for number in sorted({*rows_a, *rows_b}):
        one, other = rows_a.get(number), rows_b.get(number)
        if one is None or other is None:
            side, row = ("A", one) if one else ("B", other)
            assert row is not None
            yield Difference(Level.DISK, inside(where, f"partition {row.label or number}"), f"only in {side}")
            continue
        pairs.append((one, other))
    # The loader's partition holds the root hash, so it follows from the others and comes last.
    for one, other in sorted(pairs, key=lambda pair: pair[0].type == gpt.ESP):
        place = inside(where, f"partition {one.label or one.number}")
        content = list(differences(gpt.partition_region(a, one), gpt.partition_region(b, other), place, depth + 1))
        told = [
            f"{field.name} {against(getattr(one, field.name), getattr(other, field.name))}"
            for field in fields(gpt.Partition)
            if getattr(one, field.name) != getattr(other, field.name)
        ]
        yield from content
        if told:
            yield Difference(Level.PARTITION, place, ", ".join(told))


def _trees(read: Callable[[Region], Tree], level: Level) -> Compare:
    def compare(a: Region, b: Region, where: str, depth: int) -> Iterator[Difference]:
        def descend(one: Region, other: Region, place: str) -> Iterator[Difference]:
            if kind_of(one) == kind_of(other) == "PE image":  # a kernel; of other files the first byte says enough
                yield from differences(one, other, place, depth + 1)

        one, other = read(a), read(b)
        names = [getattr(tree, "uuid", None) or getattr(tree, "serial", None) for tree in (one, other)]
        yield from tree_differences(one, other, level, where, descend)
        if names[0] != names[1]:
            yield Difference(Level.PARTITION, where, f"UUID of the file system {against(*names)}")

    return compare


def _archives(a: Region, b: Region, where: str, depth: int) -> Iterator[Difference]:
    with closing(Cpio(a)) as one, closing(Cpio(b)) as other:
        yield from tree_differences(one, other, Level.CPIO, where, lambda *_: iter(()))


def _hashes(a: Region, b: Region, where: str, depth: int) -> Iterator[Difference]:
    one, other = verity.read_superblock(a), verity.read_superblock(b)
    told = []
    for field in fields(verity.Superblock):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if left != right:
            told.append(f"{field.name} {against(*(v.hex() if isinstance(v, bytes) else v for v in (left, right)))}")
    if told:
        yield Difference(Level.VERITY, where, ", ".join(told))
    else:
        at = first_difference(a, b) or 0
        yield Difference(Level.VERITY, where, f"the hash tree differs from byte {at} on: the data that it covers do")


def _images(a: Region, b: Region, where: str, depth: int) -> Iterator[Difference]:
    one, other = Pe(a), Pe(b)
    names_a, names_b = ([section.name for section in image.sections] for image in (one, other))
    if names_a != names_b:
        yield Difference(Level.PE_SECTION, where, f"sections {against(' '.join(names_a), ' '.join(names_b))}")
        return
    for left, right in zip(one.sections, other.sections, strict=True):
        if left.stored and right.stored:
            place = inside(where, f"section {left.name}")
            for found in differences(one.content(left), other.content(right), place, depth + 1):
                plain = found.level is Level.FILE and found.where == place
                yield Difference(Level.PE_SECTION, place, found.message) if plain else found


def _qcow2s(a: Region, b: Region, where: str, depth: int) -> Iterator[Difference]:
    one, other = Qcow2(a).content(), Qcow2(b).content()
    found = list(differences(one, other, where, depth + 1))
    yield from found
    if not found:
        at = first_difference(a, b)
        yield Difference(Level.QCOW2, where, f"the same disk, but laid out differently from byte {at} on")


_COMPARE: dict[str, tuple[Level, Compare | None]] = {
    "disk": (Level.DISK, _disks),
    "erofs": (Level.PARTITION, _trees(Erofs, Level.FILE_TREE)),
    "ext4": (Level.PARTITION, _trees(Ext4, Level.FILE_TREE)),
    "FAT": (Level.PARTITION, _trees(Vfat, Level.FILE_TREE)),
    "cpio": (Level.CPIO, _archives),
    "verity": (Level.VERITY, _hashes),
    "PE image": (Level.PE_SECTION, _images),
    "qcow2": (Level.QCOW2, _qcow2s),
}
