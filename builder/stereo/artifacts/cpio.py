"""Lists and reads an initrd: `newc` archives, one after the other, plain or in zstd. See cpio(5) and the kernel's
driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from stereo.artifacts import zst
from stereo.artifacts.region import FormatError, Region
from stereo.artifacts.tree import LONGEST_PATH, Budget, Entry, Kind, child, kind_of, order, text

_MAGICS = (b"070701", b"070702")
_HEADER = 110
_TRAILER = b"TRAILER!!!"

LARGEST_CONTENT = 512 << 20
"""Bytes that a compressed initrd may unpack to."""

MOST_ENTRIES = 100_000
"""Of an initrd, all archives together: they are kept in memory, and a few bytes of zstd may hold millions."""


class Cpio:
    """An initrd. Later archives and later entries replace earlier ones, as in the kernel.

    What is compressed is unpacked to an unnamed temporary file; `close` it, or use it as a context manager.
    """

    def __init__(self, region: Region) -> None:
        """Raises FormatError when anything in it is damaged."""
        self.region = region
        self._unpacked: list[zst.Spool] = []
        self._entries: dict[str, Entry] = {}
        self._contents: list[Region] = []
        try:
            self._scan(region)
        except BaseException:
            self.close()
            raise
        self._sorted = sorted(self._entries.values(), key=lambda entry: order(entry.path))

    def entries(self) -> Iterator[Entry]:
        """Every entry, as `Tree` says."""
        return iter(self._sorted)

    def content(self, entry: Entry) -> Region:
        """The bytes of a regular file."""
        return self._contents[entry.handle].named(f"{self.region.name}: {entry.path}")

    def close(self) -> None:
        for spool in self._unpacked:
            spool.close()

    def __enter__(self) -> Cpio:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _scan(self, region: Region) -> None:
        """Archives follow each other, with zeros between them; the first compressed one reaches to the end."""
        at = 0
        while at < region.size:
            head = region.read(at, min(6, region.size - at))
            if head in _MAGICS:
                at = self._archive(region, at)
            elif head[:1] == b"\0":
                at = _after_zeros(region, at)
            elif head[:4] == zst.MAGIC:
                if self._unpacked:
                    raise region.fault("zstd inside zstd")
                spool = zst.Spool()
                self._unpacked.append(spool)
                self._scan(spool.fill(region.part(at, region.size - at), LARGEST_CONTENT))
                return
            else:
                what = zst.OTHERS.get(head[:2])
                raise region.fault(f"{what} is not supported" if what else f"neither cpio nor zstd at byte {at}")

    def _archive(self, region: Region, at: int) -> int:
        """Read one archive from `at` on; returns where it ends."""
        links: dict[tuple[int, int, int], list[str]] = {}
        budget = Budget(region, region.size // _HEADER, "entries")
        while True:
            budget.spend()
            fields = self._header(region, at)
            inode, mode, uid, gid, nlink, mtime, size, major, minor, rmajor, rminor, name_size, _ = fields
            if not 1 <= name_size <= LONGEST_PATH:
                raise region.fault(f"a file name of {name_size} bytes at {at}")
            name = region.read(at + _HEADER, name_size).split(b"\0", 1)[0]
            start = -(-(at + _HEADER + name_size) // 4) * 4
            end = start + size
            if name == _TRAILER:
                return min(end, region.size)
            if len(self._contents) == MOST_ENTRIES:
                raise region.fault(f"more than {MOST_ENTRIES} entries")
            path = self._path(name)
            kind = kind_of(mode, region, path)
            content = region.part(start, size) if size else region.part(0, 0)
            target = None
            if kind is Kind.SYMLINK:
                if size > LONGEST_PATH:
                    raise region.fault(f"{path}: a symbolic link of {size} bytes")
                target = text(content.read(0, size))
            rdev = (rmajor, rminor) if kind in (Kind.CHARACTER, Kind.BLOCK) else None
            shown = size if kind is Kind.FILE else 0
            self._entries[path] = Entry(
                path, kind, mode & 0o7777, uid, gid, shown, mtime, target, rdev, (), len(self._contents)
            )
            self._contents.append(content)
            if kind is Kind.FILE and nlink > 1:
                self._link(links.setdefault((major, minor, inode), []), path, shown)
            at = min(-(-end // 4) * 4, region.size)

    def _link(self, names: list[str], path: str, size: int) -> None:
        """Only one of several names for a file carries its bytes, usually the last; the others get them from there."""
        names.append(path)
        if size:
            for name in names:
                self._entries[name] = _resized(self._entries[name], size, self._entries[path].handle)
        else:
            first = self._entries[names[0]]
            self._entries[path] = _resized(self._entries[path], first.size, first.handle)

    def _header(self, region: Region, at: int) -> list[int]:
        raw = region.read(at, _HEADER)
        if raw[:6] not in _MAGICS:
            raise region.fault(f"no cpio header at byte {at}")
        try:
            return [int(raw[begin : begin + 8].decode("ascii"), 16) for begin in range(6, _HEADER, 8)]
        except ValueError:
            raise region.fault(f"a damaged cpio header at byte {at}") from None

    def _path(self, name: bytes) -> str:
        path = ""
        for part in name.split(b"/"):
            if part not in (b"", b"."):
                path = child(path, part, self.region)
        return path or "/"


def _resized(entry: Entry, size: int, handle: int) -> Entry:
    return Entry(
        entry.path, entry.kind, entry.mode, entry.uid, entry.gid, size, entry.mtime, None, None, entry.xattrs, handle
    )


def _after_zeros(region: Region, at: int) -> int:
    while at < region.size:
        block = region.read(at, min(64 << 10, region.size - at))
        rest = block.lstrip(b"\0")
        at += len(block) - len(rest)
        if rest:
            break
    return at


__all__ = ["LARGEST_CONTENT", "MOST_ENTRIES", "Cpio", "FormatError"]
