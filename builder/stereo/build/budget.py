"""How large the cache may become: above its limit what was not used for longest goes, once a build has added to it.

Images, package trees and tools trees count; downloads are what locks need, and frames have a limit of their own.

What a build uses it marks as used now, and holds until its process ends (see `holding`); so nothing is taken from under
a running build, a booting machine or a sandbox. All of it can be made again.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stereo.build.workspace import workspace
from stereo.errors import UsageError, shown
from stereo.holding import hold, seize
from stereo.model.units import parse_size
from stereo.paths import Cache
from stereo.report import Report

VARIABLE = "STEREO_CACHE_LIMIT"
_DEFAULT = 20_000_000_000
_STALE_SECONDS = 24 * 3600.0  # a download that nobody wrote to for a day has no owner
_held: dict[Path, int] = {}
_holding = threading.Lock()


@dataclass(frozen=True)
class Entry:
    """Something that the cache could do without. `used` is when it last was, in seconds; `size` in bytes."""

    path: Path
    used: float
    size: int


def cache_limit() -> int:
    """What images, trees and tools may take, in bytes. Raises UsageError."""
    text = os.environ.get(VARIABLE)
    if not text:
        return _DEFAULT
    try:
        return parse_size(int(text) if text.isdecimal() and len(text) < 20 else text)
    except ValueError as error:
        raise UsageError(f"{shown(text, 40)} {error}", where=VARIABLE) from None


def use(path: Path) -> bool:
    """Whether the cache has `path`. If so, it is marked as used now, and held until this process ends."""
    with _holding:
        if path not in _held or not _is_still(_held[path], path):
            descriptor = hold(path)
            if descriptor is None:
                return False
            if path in _held:
                os.close(_held[path])
            _held[path] = descriptor
        with suppress(OSError):  # a cache that is lent to us read-only
            os.utime(path)
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def entries(cache: Cache) -> list[Entry]:
    """What counts against the limit, used least recently first."""
    return sorted(_entries(cache), key=lambda entry: entry.used)


def _entries(cache: Cache) -> Iterator[Entry]:
    for room in (cache.images, cache.trees, cache.tools):
        for path in room.glob("*"):
            with suppress(FileNotFoundError):
                yield Entry(path, path.lstat().st_mtime, size_of(path))


def trim(cache: Cache, limit: int, report: Report) -> int:
    """Bring the cache under `limit` bytes, as far as nobody uses what is in it. Returns how many bytes that freed."""
    for path in leftovers(cache):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    found = entries(cache)
    over, freed = sum(entry.size for entry in found) - limit, 0
    if over <= 0:
        return 0
    with workspace(cache, "trim", report) as aside:  # if we are killed, the next build clears that
        for number, entry in enumerate(found):
            if freed < over and _taken(entry.path, aside / str(number)):
                freed += entry.size
    if freed:
        report.note(
            f"Took from the cache what was not used for longest: {freed / 1e9:.1f} GB; {VARIABLE} sets its limit"
        )
    return freed


def _taken(path: Path, aside: Path) -> bool:
    """Whether nobody uses `path`, and it is out of sight now."""
    descriptor = seize(path)
    if descriptor is None:
        return False
    try:
        path.rename(aside)
    except OSError:  # of another file system, or another's
        return False
    finally:
        os.close(descriptor)
    return True


def leftovers(cache: Cache) -> list[Path]:
    """What was still being written to the store when its owner was killed."""
    long_ago = time.time() - _STALE_SECONDS
    found = []
    for path in cache.store.glob("new/*"):
        with suppress(FileNotFoundError):
            if path.lstat().st_mtime < long_ago:
                found.append(path)
    return found


def size_of(path: Path) -> int:
    """Bytes that `path` takes on the disk, with all that is in it."""
    total = 0
    with suppress(OSError):
        total = path.lstat().st_blocks * 512
        if path.is_dir() and not path.is_symlink():
            with os.scandir(path) as entries:
                total += sum(size_of(Path(entry.path)) for entry in entries)
    return total
