"""What diff says: one difference, the level it was found at, and how many lines are enough."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from stereo.artifacts.region import Region, first_difference
from stereo.errors import shown

_LARGEST_TEXT = 64 << 10
_MOST_OF_A_LINE = 60


class Level(StrEnum):
    """How far down a difference was found."""

    DIST = "dist"
    MANIFEST = "manifest"
    ZSTD = "zstd"
    QCOW2 = "qcow2"
    DISK = "disk"
    PARTITION = "partition"
    VERITY = "verity"
    PE_SECTION = "PE section"
    CPIO = "cpio"
    FILE_TREE = "file tree"
    FILE = "file"


@dataclass(frozen=True)
class Difference:
    """One line: where, from the outside in, and what A has against what B has."""

    level: Level
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


def inside(where: str, name: str) -> str:
    """A place inside another; names come from artifacts, so they are made fit to print."""
    return f"{where}: {shown(name)}" if where else shown(name)


def against(a: object, b: object) -> str:
    """`a` against `b`, fit to print."""
    return f"{shown(str(a), 100)} against {shown(str(b), 100)}"


def limited(found: Iterable[Difference], level: Level, where: str, most: int) -> Iterator[Difference]:
    """The first `most`, then how many more there are."""
    more = 0
    for count, difference in enumerate(found):
        if count < most:
            yield difference
        else:
            more += 1
    if more:
        yield Difference(level, where, f"and {more} more")


def content_difference(a: Region, b: Region) -> str | None:
    """Where the bytes part, and the line if it is text; None if they are equal. Sizes are in bytes."""
    at = first_difference(a, b)
    if at is None:
        return None
    sizes = f"of {a.size}" if a.size == b.size else f"({a.size} against {b.size} bytes)"
    line = _line(a, b, at)
    return f"content differs at byte {at} {sizes}" + (f", line {line}" if line else "")


def _line(a: Region, b: Region, at: int) -> str | None:
    """`3: "one" against "two"` when both are short texts."""
    if max(a.size, b.size) > _LARGEST_TEXT:
        return None
    left, right = (region.read(0, region.size).rstrip(b"\0") for region in (a, b))  # .cmdline of a UKI ends in a NUL
    try:
        if "\0" in left.decode() + right.decode():
            return None
    except UnicodeDecodeError:
        return None
    number = left.count(b"\n", 0, at)
    lines = [data.split(b"\n")[number:][:1] for data in (left, right)]
    start = at - (left.rfind(b"\n", 0, at) + 1)
    skip = max(start - _MOST_OF_A_LINE // 2, 0)
    words = []
    for line in lines:
        if not line:
            words.append("nothing")
            continue
        text = line[0][skip:].decode("utf-8", "replace")
        words.append(f'"{"…" if skip else ""}{shown(text, _MOST_OF_A_LINE)}"')
    return f"{number + 1}: {words[0]} against {words[1]}"
