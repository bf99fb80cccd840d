"""Files that are replaced as a whole or not at all."""

from __future__ import annotations

import posix

MOST_BYTES = 1 << 20


def replace(path: str, content: bytes, mode: int) -> None:
    """Let `path` hold `content`, by one rename. Raises OSError.

    The file is new at every time: what others hold open keeps the old content, and no link is followed.
    """
    new = path + ".new"
    try:
        posix.unlink(new)
    except FileNotFoundError:
        pass
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    descriptor = posix.open(new, flags, 0o600)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[posix.write(descriptor, rest) :]
        posix.fchmod(descriptor, mode)
        posix.rename(new, path)
    except OSError:
        posix.unlink(new)
        raise
    finally:
        posix.close(descriptor)


def read(path: str, most: int = MOST_BYTES) -> str:
    """The text of a file, at most `most` bytes of it. Raises OSError."""
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        found = b""
        while len(found) < most and (more := posix.read(descriptor, most - len(found))):
            found += more
        return found.decode(errors="replace")
    finally:
        posix.close(descriptor)
