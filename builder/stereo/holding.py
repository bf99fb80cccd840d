"""Keeping what is in use from being removed: dists, tools trees, images, by flock(2) on the very folder or file.

Who uses one holds a shared lock, which dies with its owner; who wants to remove it needs the exclusive one, and has it
while taking the thing out of sight by a rename. Nothing is altered in place: what is made anew gets the name by a
rename, and who has the old one open keeps it whole.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stereo.errors import StereoError


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Keep `path` from being removed. Raises StereoError if it is not there."""
    descriptor = hold(path)
    if descriptor is None:
        raise StereoError("is not there, or was replaced just now", where=str(path), hint="run again")
    try:
        yield
    finally:
        os.close(descriptor)


def hold(path: Path) -> int | None:
    """A descriptor that keeps `path` from being removed for as long as it is open; None if it is not there."""
    return _locked(path, fcntl.LOCK_SH)  # whoever has it against us needs it for a rename: no long wait


def seize(path: Path) -> int | None:
    """A descriptor that holds `path` against all others; None if somebody uses it, or it is not there."""
    return _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Whether anybody holds or has seized `path` right now. What is not there, nobody holds."""
    return _refused(path, fcntl.LOCK_EX)


def is_seized(path: Path) -> bool:
    """Whether somebody has `path` against all others right now; who asks this at the same time does not count."""
    return _refused(path, fcntl.LOCK_SH)


def _refused(path: Path, how: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _locked(path: Path, how: int) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, how)
        if os.path.samestat(os.fstat(descriptor), path.stat()):  # while we waited another may have come there
            return descriptor
    except OSError:  # somebody has it, or it has gone
        pass
    os.close(descriptor)
    return None
