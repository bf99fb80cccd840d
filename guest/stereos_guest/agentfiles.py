"""How agentd reads what others wrote: whole files or none, within bounds, and led astray by no link."""

from __future__ import annotations

import posix
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_CHUNK = 1 << 16


def read(path: str, most: int) -> bytes | None:
    """A small file, None if it is not there. Raises OSError, also for one of more than `most` bytes."""
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK)
    except FileNotFoundError:
        return None
    return _read(descriptor, most)


def read_unlinked(path: str, most: int) -> bytes:
    """A regular file that no symbolic link leads to.

    Root reads it in folders that an agent may write to: by a link, the agent would have it read what it may not itself.
    Raises OSError.
    """
    descriptor = posix.open("/", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        posix.close(descriptor)
        raise OSError(22, "not a plain path")
    for place, part in enumerate(parts):
        kind = posix.O_DIRECTORY if place < len(parts) - 1 else posix.O_NONBLOCK
        try:
            inner = posix.open(part, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | kind, dir_fd=descriptor)
        finally:
            posix.close(descriptor)
        descriptor = inner
    return _read(descriptor, most)


def _read(descriptor: int, most: int) -> bytes:
    data = bytearray()
    try:
        if not stat.S_ISREG(posix.fstat(descriptor).st_mode):
            raise OSError(22, "not a regular file")
        while more := posix.read(descriptor, _CHUNK):
            data += more
            if len(data) > most:
                raise OSError(27, f"longer than {most} bytes")
    finally:
        posix.close(descriptor)
    return bytes(data)


def make(path: str) -> None:
    """Make sure of a file for root alone. Raises OSError."""
    posix.close(posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_NOFOLLOW | posix.O_CLOEXEC, 0o600))


def folder(path: str, mode: int = 0o700) -> None:
    """Make sure of a folder. Raises OSError."""
    try:
        posix.mkdir(path, mode)
    except FileExistsError:
        pass


def names(path: str) -> list[str]:
    """What is in a folder, sorted, but for hidden and unfinished files; nothing if there is none."""
    try:
        found = posix.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in found if not name.startswith(".") and not name.endswith((".tmp", ".new")))


def remove(paths: Iterable[str]) -> None:
    """Have these files gone."""
    for path in paths:
        try:
            posix.unlink(path)
        except FileNotFoundError:
            pass


def remove_folder(path: str) -> None:
    """Have a folder gone with all that is in it; what lies outside stays. Raises OSError."""
    for entry in posix.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            remove_folder(entry.path)
        else:
            posix.unlink(entry.path)
    posix.rmdir(path)


def mount_points(text: str) -> set[str]:
    """The mount points of /proc/self/mounts, with what fstab(5) escapes put back."""
    found = set()
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) > 1:
            point = fields[1]
            for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                point = point.replace(code, letter)
            found.add(point)
    return found
