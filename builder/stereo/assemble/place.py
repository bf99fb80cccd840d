"""Where a dist comes to be, and how it gets its name: whole, in one rename, or not at all.

Beside dist/NAME/VERSION/ARCH are two hidden things: a lock file, held for as long as somebody builds this very dist,
and the folder that is being filled. Whoever gets the lock knows that any such folder there is left from a build that
died.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stereo.assemble.files import settle_folder
from stereo.errors import StereoError
from stereo.report import Report

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def staging(dist: Path, report: Report) -> Iterator[Path]:
    """An empty folder beside `dist`, while no other build of it runs. It is gone afterwards, unless `publish` moved it.

    Waits for another build of the same dist to end. Raises OSError.
    """
    dist.parent.mkdir(parents=True, exist_ok=True)
    with locked(dist, report):
        prefix = f".{dist.name}.staging-"
        for leftover in dist.parent.glob(f"{prefix}*"):
            shutil.rmtree(leftover)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=dist.parent))
        try:
            folder.chmod(0o755)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, dist: Path) -> None:
    """Give a finished `folder` the name `dist`. What had the name is then in `folder`'s place. Raises OSError.

    Both are swapped in one step where the system can (renameat2(2), RENAME_EXCHANGE); else there is a moment without
    a dist, but never one with half of it.
    """
    if dist.is_symlink() or (dist.exists() and not dist.is_dir()):
        raise StereoError("is in the way of the dist and is no folder", where=str(dist), hint="remove it")
    settle_folder(folder)
    if not dist.exists():
        folder.rename(dist)
    elif not _exchange(folder, dist):
        aside = folder.with_name(f"{folder.name}.old")
        dist.rename(aside)
        folder.rename(dist)
        aside.rename(folder)
    settle_folder(dist.parent)


def refuse_what_is_no_link(link: Path) -> None:
    """Raises StereoError if `point_result` could not make `link`. To be asked before minutes of work, not after."""
    if link.exists() and not link.is_symlink():
        raise StereoError("is no symbolic link, so it is not replaced", where=str(link), hint="move it away")


def point_result(link: Path, dist: Path) -> None:
    """Make the symbolic link `link` (`result` in the working directory) lead to `dist`, in one step.

    Raises StereoError if something else than a link has that name.
    """
    refuse_what_is_no_link(link)
    place = link.parent.resolve()
    fresh = place / f".{link.name}.{os.getpid()}"
    with suppress(FileNotFoundError):
        fresh.unlink()
    fresh.symlink_to(os.path.relpath(dist.resolve(), place))
    fresh.replace(place / link.name)


@contextmanager
def locked(dist: Path, report: Report) -> Iterator[None]:
    """While nobody else makes or pulls this very dist; waits for them to end. Raises OSError."""
    path = dist.with_name(f".{dist.name}.lock")
    held = False
    while not held:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            _wait_for(fd, dist, report)
            with suppress(FileNotFoundError):  # who had the lock before us took the file away: then it is no lock
                held = os.path.samestat(os.fstat(fd), path.stat())
            if held:
                try:
                    yield
                finally:
                    with suppress(OSError):
                        path.unlink()
        finally:
            os.close(fd)


def _wait_for(fd: int, dist: Path, report: Report) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        report.note(f"somebody else makes {dist}; waiting for them to end")
        fcntl.flock(fd, fcntl.LOCK_EX)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False if the system or the file system cannot."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None, use_errno=True), "renameat2"):
        return False
    return bool(
        libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)) == 0
    )
