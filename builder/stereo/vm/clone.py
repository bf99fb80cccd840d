"""A disk image of one's own, made of another's: without copying where the file system can share, and there at once."""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
from pathlib import Path

from stereo.errors import StereoError

_FICLONE = 0x40049409  # linux/fs.h
_CHUNK = 1 << 20


def clone(source: Path, target: Path, size: int | None = None) -> None:
    """Make `target`, of `size` bytes (default: as large), whose beginning is what `source` is now; for its owner alone.

    It appears whole or not at all, and neither is ever changed by writing to the other. Raises StereoError.
    """
    half = target.with_name(f".{target.name}.new")
    try:
        half.unlink(missing_ok=True)  # of somebody who was killed over it
        if not _clone_file(source, half):
            _copy(source, half)
        half.chmod(0o600)
        there = half.stat().st_size
        if size is not None and size < there:
            raise StereoError(f"a disk of {size >> 20} MiB is too small for an image of {there >> 20} MiB")
        with half.open("r+b") as file:
            file.truncate(size or there)
        half.replace(target)
    except OSError as error:
        raise StereoError(f"cannot be cloned: {error.strerror}", where=str(source)) from error
    finally:
        half.unlink(missing_ok=True)


def _clone_file(source: Path, target: Path) -> bool:
    """Whether the file system shares the blocks of both: clonefile(2) of macOS, FICLONE of Linux (ioctl_ficlone(2))."""
    if sys.platform == "darwin":
        return bool(ctypes.CDLL(None).clonefile(os.fsencode(source), os.fsencode(target), ctypes.c_uint32(0)) == 0)
    with source.open("rb") as old, target.open("xb") as new:
        try:
            fcntl.ioctl(new, _FICLONE, old.fileno())
        except OSError:
            pass
        else:
            return True
    target.unlink()
    return False


def _copy(source: Path, target: Path) -> None:
    """Byte by byte, with a hole for what is zero."""
    zeros = bytes(_CHUNK)
    with source.open("rb") as old, target.open("xb") as new:
        while chunk := old.read(_CHUNK):
            if chunk == zeros[: len(chunk)]:
                new.seek(len(chunk), os.SEEK_CUR)
            else:
                new.write(chunk)
        new.truncate(old.tell())
