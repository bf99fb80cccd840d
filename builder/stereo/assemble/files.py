"""Small things done to files: opened without following links, copied and hashed in one pass, settled on the disk."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from stereo.errors import MAKE_ROOM, StereoError
from stereo.process import CommandFailed

_READ = 1 << 20


def open_plain(path: Path) -> FileIO:
    """Open a regular file for reading, links not followed. Raises StereoError for anything else, and OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StereoError("is a symbolic link, not a file", where=str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StereoError("is not a plain file", where=str(path))
    return FileIO(fd)


def copy_hashed(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file to a new one; returns SHA-256 and size in bytes."""
    digest, size = hashlib.sha256(), 0
    with open_plain(source) as file, target.open("xb") as out:
        while data := file.read(_READ):
            digest.update(data)
            size += out.write(data)
    return digest.hexdigest(), size


def settle(path: Path, epoch: int) -> None:
    """Give a finished file its mode (0644) and time (seconds since 1970) and bring it to the disk."""
    with path.open("rb") as file:
        os.fchmod(file.fileno(), 0o644)
        os.utime(file.fileno(), (epoch, epoch))
        os.fsync(file.fileno())


def settle_all(folder: Path, epoch: int) -> None:
    """Settle every file below a finished folder, and the folders in it.

    All get mode and time before the first is brought to the disk: the file system then writes its journal once.
    """
    below = sorted(folder.rglob("*"))
    files = [path for path in below if path.is_file()]
    for path in files:
        path.chmod(0o644)
        os.utime(path, (epoch, epoch))
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for path in below:
        if path.is_dir():
            settle_folder(path)


def settle_folder(path: Path) -> None:
    """Bring a folder's names to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def failures_explained(doing: str, folder: Path) -> Iterator[None]:
    """Turn an OSError, or a program's complaint of a full disk, into a StereoError that says what to do.

    `folder` is where things were written.
    """
    try:
        yield
    except OSError as error:
        where = str(error.filename) if error.filename else str(folder)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = MAKE_ROOM
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "see who may write there"
        else:
            hint = None
        raise StereoError(f"{doing}: {error.strerror or error}", where=where, hint=hint) from error
    except CommandFailed as error:
        if not error.out_of_space:
            raise
        raise StereoError(f"{doing}: {os.strerror(errno.ENOSPC)}", where=str(folder), hint=MAKE_ROOM) from error
    except EOFError as error:
        raise StereoError(f"{doing}: {error}", where=str(folder), hint="somebody changed it; run again") from error
