"""Taking an entry out of the store: out of sight in one rename, and only then to pieces.

Whoever sees an entry sees all of it. What a killed removal leaves lies in a hidden folder, where the next one finds it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from stereo.dists import Entry
from stereo.dists.use import Users, in_use
from stereo.errors import StereoError
from stereo.holding import seize

_ASIDE = ".removed"


def remove(entry: Entry, store: Path, users: Users) -> None:
    """Take `entry` out of `store`: a link alone, or a dist with all its files. Nothing, if it is gone already.

    Raises StereoError if it is in use, OSError.
    """
    if who := in_use(entry.place, users):
        raise StereoError(f"is in use by {who}", where=str(entry.place), hint="end that first")
    if entry.place.is_symlink():
        entry.place.unlink(missing_ok=True)
    elif (descriptor := seize(entry.place)) is not None:
        try:
            aside = store / _ASIDE / secrets.token_hex(8)
            aside.parent.mkdir(exist_ok=True)
            entry.place.rename(aside)
            shutil.rmtree(aside)
        finally:
            os.close(descriptor)
    elif entry.place.exists():
        raise StereoError("is in use by a running program", where=str(entry.place), hint="end that first")
    for folder in (entry.place.parent, entry.place.parent.parent):
        with suppress(OSError):  # others are in it
            folder.rmdir()


def finish(store: Path) -> int:
    """Delete what killed removals left. Returns how many there were. Raises OSError."""
    finished = 0
    for aside in sorted((store / _ASIDE).glob("*")):
        if (descriptor := seize(aside)) is not None:  # else somebody is at it
            try:
                shutil.rmtree(aside)
                finished += 1
            finally:
                os.close(descriptor)
    return finished
