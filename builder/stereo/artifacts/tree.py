"""What every file system looks like to verify and diff: entries in one order, each with its content as a region."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from stereo.artifacts.region import FormatError, Region

DEEPEST = 128
"""Directories inside each other; nothing that we build comes near."""

LONGEST_PATH = 4096
"""PATH_MAX, also the longest symbolic link."""

LARGEST_SPARSE = 1 << 30
"""A file with holes may be larger than its file system, up to this; else a bomb would read zeros for days."""


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    CHARACTER = "character device"
    BLOCK = "block device"
    FIFO = "fifo"
    SOCKET = "socket"


_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a tree. Paths begin with a slash; the root is "/".

    `mode` is the permission bits (07777), `mtime` whole seconds since 1970, `size` bytes of content (0 for what has
    none), `rdev` the numbers of a device, `handle` what its reader needs to find the content again.
    """

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    target: str | None = None
    rdev: tuple[int, int] | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()
    handle: int = 0


class Tree(Protocol):
    """A file system or an archive."""

    def entries(self) -> Iterator[Entry]:
        """Every entry, the root included if the format has one, ordered by `order`. Raises FormatError."""

    def content(self, entry: Entry) -> Region:
        """The bytes of a regular file. Raises FormatError."""


def order(path: str) -> list[bytes]:
    """Sorts as a walk does that goes through each directory by name: `/a/b` stands before `/a.b`."""
    return path.strip("/").encode("utf-8", "surrogateescape").split(b"/")


def kind_of(mode: int, region: Region, what: str) -> Kind:
    """The kind that the type bits of a Unix mode say. Raises FormatError for none that exists."""
    try:
        return _KINDS[stat.S_IFMT(mode)]
    except KeyError:
        raise region.fault(f"{what}: mode {mode:o} is of no known type") from None


def text(name: bytes) -> str:
    """A file name as Python has it; bytes that are no UTF-8 survive."""
    return name.decode("utf-8", "surrogateescape")


def child(parent: str, name: bytes, region: Region) -> str:
    """The path of `name` in the directory `parent`. Raises FormatError for a name that could lead elsewhere."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name or len(name) > 255:
        raise region.fault(f"{parent}: a file name that cannot be: {name[:40]!r}")
    path = f"{parent.rstrip('/')}/{text(name)}"
    if len(path) > LONGEST_PATH or path.count("/") > DEEPEST:
        raise region.fault(f"{parent}: nested too deeply")
    return path


class Budget:
    """How many of something an image of this size can hold; a loop or a bomb runs out of it."""

    def __init__(self, region: Region, amount: int, what: str) -> None:
        self._region = region
        self._left = amount
        self._what = what

    def spend(self, amount: int = 1) -> None:
        """Raises FormatError when nothing is left."""
        self._left -= amount
        if self._left < 0:
            raise self._region.fault(f"more {self._what} than fit in it")


def walk(
    region: Region, root: int, visit: Callable[[str, int], tuple[Entry, Callable[[], Iterable[tuple[bytes, int]]]]]
) -> Iterator[Entry]:
    """The entries of a file system of inodes, from the inode number `root` on, in the order of `order`.

    `visit` gives the entry of an inode at a path, and what lists names and inode numbers if that is a directory. Raises
    FormatError for a root that is none, and for a directory in two places: a walk that would never end.
    """
    seen: set[int] = set()
    waiting = [("/", root)]
    while waiting:
        path, number = waiting.pop()
        entry, listing = visit(path, number)
        if path == "/" and entry.kind is not Kind.DIRECTORY:
            raise region.fault("the root is no directory")
        yield entry
        if entry.kind is Kind.DIRECTORY:
            if number in seen:
                raise region.fault(f"{path}: a directory in two places")
            seen.add(number)
            waiting += [(child(path, name, region), below) for name, below in sorted(listing(), reverse=True)]


def find(tree: Tree, path: str) -> Entry | None:
    """The entry at `path`, or None."""
    return next((entry for entry in tree.entries() if entry.path == path), None)


__all__ = [
    "DEEPEST",
    "LARGEST_SPARSE",
    "LONGEST_PATH",
    "Budget",
    "Entry",
    "FormatError",
    "Kind",
    "Tree",
    "child",
    "find",
    "kind_of",
    "order",
    "text",
    "walk",
]
