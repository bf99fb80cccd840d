"""The log of a gate: one JSON object per line, in a file that cannot fill the disk.

    {"time": 1763690000.1, "verdict": "allowed", "protocol": "connect", "host": "example.com", "port": 443,
     "address": "93.184.216.34", "reason": "rule example.com:443"}

`verdict` is "allowed", "refused", or "closed" for the end of what was allowed, with `bytes_in`, `bytes_out` (seen from
the guest) and `seconds`. `protocol` is "connect", "http", "tcp" or "dns".

Both files are opened at the start, and turning over copies from one to the other: the process may have no rights in
the folder any more. So NAME.old holds the bytes that NAME held, at the same places, and a reader loses none.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

LIMIT: Final = 8 << 20  # bytes; twice as much is kept
_LONGEST_TEXT: Final = 300
_LONGEST_LINE: Final = 1 << 14  # bytes; no row comes near
_POLL = 0.25  # seconds
_LATEST = 1e11  # seconds; a time that a calendar has
_CHUNK = 1 << 16


def old(path: Path) -> Path:
    """Where the lines go that were written before the ones in `path`."""
    return path.with_name(f"{path.name}.old")


class Log:
    """Appends rows to `path`, which only its owner can read."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._old = os.open(old(path), flags, 0o600)
        self._current = os.open(path, flags | os.O_APPEND, 0o600)
        self._size = os.fstat(self._current).st_size
        self._limit = limit

    def write(self, verdict: str, protocol: str, host: str, port: int, reason: str, **rest: Any) -> None:
        """Append a row. Raises OSError, and then nothing of it is in the file."""
        row = {
            "time": round(time.time(), 3),
            "verdict": verdict,
            "protocol": protocol,
            "host": host[:_LONGEST_TEXT],
            "port": port,
            **rest,
            "reason": reason[:_LONGEST_TEXT],
        }
        line = json.dumps(row).encode() + b"\n"
        if self._size and self._size + len(line) > self._limit:
            self._turn_over()
        try:
            written = os.write(self._current, line)
            if written != len(line):
                raise OSError("the disk is full")
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._current, self._size)
            raise
        self._size += written

    def _turn_over(self) -> None:
        os.ftruncate(self._old, 0)
        at = 0
        while data := os.pread(self._current, _CHUNK, at):
            os.pwrite(self._old, data, at)
            at += len(data)
        os.ftruncate(self._current, 0)
        self._size = 0

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._current)
        os.close(self._old)


def read_log(path: Path, follow: bool = False, lines: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a log, oldest first, only the last `lines` of them if given; with `follow` also those to come.

    A log that is not there has no rows. Lines that are no rows, as a power cut may leave them, are passed over.
    """
    parts = _Follower(path)
    there: Iterable[dict[str, Any]] = parts.rows()
    yield from there if lines is None else deque(there, maxlen=lines)
    while follow:
        time.sleep(_POLL)
        yield from parts.rows()


class _Follower:
    """Reads what was appended since it was last asked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._first = b""  # line of `path`: another one means that it was turned over
        self._at = 0  # bytes of `path` that were read

    def rows(self) -> Iterator[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                first = file.readline(_LONGEST_LINE)
        except OSError:
            return
        if first != self._first and first.endswith(b"\n"):
            yield from (row for row, _ in _rows(old(self._path), self._at) if row is not None)
            self._first, self._at = first, 0
        for row, end in _rows(self._path, self._at):
            self._at = end
            if row is not None:
                yield row


def _rows(path: Path, at: int) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """Each whole line from `at` on as a row (None: it is none), and where it ends."""
    try:
        file: BinaryIO = path.open("rb")
    except OSError:
        return
    with file:
        file.seek(at)
        for line in file:
            if not line.endswith(b"\n"):
                return
            at += len(line)
            yield _row(line), at


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    needed: dict[str, type | tuple[type, ...]] = {
        "time": (int, float),
        "verdict": str,
        "protocol": str,
        "host": str,
        "port": int,
    }
    good = isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in needed.items())
    return row if good and 0 <= row["time"] < _LATEST else None
