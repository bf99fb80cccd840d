"""A log file that cannot fill the disk: when it is full it becomes NAME.old, in place of the one before."""

from __future__ import annotations

import os
from pathlib import Path

LIMIT = 1 << 20  # bytes


class BoundedFile:
    """Appends to `path`, for its owner to read; at most twice `limit` bytes are kept. Not for several threads."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self.descriptor).st_size

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        if self._size and self._size + len(data) > self._limit:
            self._path.replace(self._path.with_name(f"{self._path.name}.old"))
            full = self.descriptor
            self._open()  # first: if that fails, what is written goes on into the old one, and not into any file
            os.close(full)
        self._size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)
