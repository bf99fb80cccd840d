"""The cache of compressed frames: what was compressed once, here or in an earlier build, is not compressed again.

A frame is found by the SHA-256 of its content, below a folder for the level and the version of zstd. It carries a seal
that binds it to that name, and is believed only after the seal was checked: a cache may rot or be cut short.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from stereo.assemble.worker import SEAL, seal
from stereo.errors import StereoError

_READ = 1 << 20
_LONGEST_WRITE = 3600.0  # seconds after which nobody writes a frame any more
_PARAMETERS = 1  # counts the changes of `worker.compress`


@dataclass(frozen=True)
class FrameUse:
    """Frames: how many, and their bytes together."""

    count: int
    size: int


class FrameCache:
    """Frames of one level in `root` (Cache.frames). Safe for several builds at once."""

    def __init__(self, root: Path, level: int) -> None:
        version = ".".join(map(str, zstandard.ZSTD_VERSION))
        self._folder = root / f"{level}-{version}-{_PARAMETERS}"
        self._folder.mkdir(parents=True, exist_ok=True)

    def path_of(self, name: str) -> Path:
        """Where the frame of the content with SHA-256 `name` is, or would be."""
        return self._folder / name

    def has(self, name: str) -> bool:
        """Whether a sound frame is there. A spoilt one is removed. Marks it as used."""
        path = self.path_of(name)
        try:
            self._read(name, None)
            os.utime(path)
        except FileNotFoundError:
            return False
        except ValueError:
            path.unlink(missing_ok=True)
            return False
        return True

    def copy(self, name: str, out: BinaryIO, digest: hashlib._Hash) -> int:
        """Append the frame to `out` and to `digest`; returns its size in bytes. Raises StereoError if it is gone."""
        try:
            return self._read(name, (out, digest))
        except (FileNotFoundError, ValueError) as error:
            raise StereoError(
                "a compressed frame vanished or changed during the build",
                where=str(self.path_of(name)),
                hint="build again; do not clean the cache while a build runs",
            ) from error

    def _read(self, name: str, copy: tuple[BinaryIO, hashlib._Hash] | None) -> int:
        frame_digest = hashlib.sha256()
        with self.path_of(name).open("rb") as file:
            size = left = os.fstat(file.fileno()).st_size - SEAL
            if size <= 0:
                raise ValueError("too short")
            while left:
                data = file.read(min(_READ, left))
                if not data:
                    raise ValueError("cut short while it was read")
                left -= len(data)
                frame_digest.update(data)
                if copy:
                    copy[0].write(data)
                    copy[1].update(data)
            if file.read(SEAL) != seal(name, frame_digest.digest()):
                raise ValueError("seal and frame differ")
        return size


def prune_frames(root: Path, limit: int, keep: Collection[str] = ()) -> FrameUse:
    """Remove the frames that were not used for longest until `limit` bytes are left; never those named in `keep`.

    What a worker was killed over goes in any case. Returns what was removed.
    """
    for path in root.glob("*/*.part"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _LONGEST_WRITE:
                path.unlink()
    held = sorted(_held(root))
    excess, count, freed = sum(size for _, size, _ in held) - limit, 0, 0
    for _, size, path in held:
        if freed >= excess:
            break
        if path.name not in keep:
            path.unlink(missing_ok=True)
            count, freed = count + 1, freed + size
    return FrameUse(count, freed)


def _held(root: Path) -> Iterator[tuple[int, int, Path]]:
    """(time of last use in ns, size in bytes, path) of every file."""
    for path in root.glob("*/*"):
        with suppress(FileNotFoundError):  # another build may prune at the same time
            status = path.stat()
            yield status.st_mtime_ns, status.st_size, path
