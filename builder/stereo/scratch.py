"""A private folder for one piece of work, such as a running machine. What a dead owner left is swept up by the next.

The owner holds a lock on its folder for as long as it lives, so that "dead" needs no guessing by process numbers.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder `prefix`... in `parent` (default: that for temporary files), gone at the end of the `with` block.

    Only its owner may look into it.
    """
    parent = parent or Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    for left in left_behind(prefix, parent):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).absolute()
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def left_behind(prefix: str, parent: Path) -> Iterator[Path]:
    """The folders of ours in `parent` whose owner is dead; each is held against all others until the next is asked for.

    One that is empty may be just made and not yet locked, and is not among them.
    """
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_uid == os.geteuid() and any(folder.iterdir()):
                    yield folder
            finally:
                os.close(descriptor)
