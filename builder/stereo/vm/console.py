"""What the guest writes to its serial console: passed on as it comes, and its last lines kept for an error message."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable

from stereo.vm.control import printable

Sink = Callable[[bytes], None]

_CHUNK = 1 << 16
_LINE = 400  # characters of one line that are kept
_WINDOW = 4096  # bytes in which an expected text is looked for
_PANIC = b"Kernel panic - not syncing"  # what Linux says before the machine ends
# ECMA-48 control sequences, and the strings that set a terminal's title and the like.
_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]P^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")


class Console:
    """Reads the console to its end. `sink` gets every byte as it came, escape sequences included."""

    def __init__(self, reader: asyncio.StreamReader, sink: Sink | None = None, *, keep: int = 30) -> None:
        self._reader = reader
        self._sink = sink
        self._lines: deque[bytes] = deque(maxlen=keep)
        self._partial = b""
        self._window = b""
        self._expected: bytes | None = None
        self._seen = asyncio.Event()
        self._panic = b""

    async def pump(self) -> None:
        """Pass on until the console is closed."""
        while data := await self._reader.read(_CHUNK):
            if self._sink:
                self._sink(data)
            self._look(data)
            *complete, self._partial = (self._partial + data).split(b"\n")
            self._lines.extend(line[-_LINE:] for line in complete)
            self._panic = next((line[:_LINE] for line in complete if _PANIC in line), self._panic)
            self._partial = self._partial[-_LINE:]

    async def wait_for(self, text: str) -> None:
        """Return once `text` has been written; it may have been just now."""
        self._expected = text.encode()
        self._look(b"")
        await self._seen.wait()

    def _look(self, data: bytes) -> None:
        if self._expected is None:
            self._window = (self._window + data)[-_WINDOW:]
            return
        window = self._window + data
        if self._expected in window:
            self._seen.set()
        self._window = window[-max(_WINDOW, len(self._expected)) :]

    def tail(self) -> str:
        """The last lines, fit for a terminal and for an error message."""
        lines = [*self._lines, *([self._partial] if self._partial.strip() else [])]
        return "\n".join(line for line in map(_plain, lines) if line.strip())

    @property
    def panic(self) -> str:
        """The line in which the guest's kernel gave up; empty if it did not. The lines after it may be many."""
        return _plain(self._panic)


def _plain(line: bytes) -> str:
    return printable(_ESCAPES.sub(b"", line).decode(errors="replace").strip("\r"), _LINE)
