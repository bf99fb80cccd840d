"""Somebody at a terminal: a program on the far side of a pty(7), what it showed, and keys for it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from stereo.process import die_with_parent, end_group


class Terminal:
    """A running program and the terminal that it has."""

    def __init__(self, child: subprocess.Popen[bytes], keys: int) -> None:
        self._child, self._keys = child, keys
        self.shown = b""

    def sees(self, wanted: bytes, seconds: float = 60) -> bool:
        """Whether `wanted` is shown, now or within so many seconds."""
        end = time.monotonic() + seconds
        while wanted not in self.shown and time.monotonic() < end and self._read():
            pass
        return wanted in self.shown

    def _read(self) -> bool:
        try:
            data = os.read(self._keys, 1 << 16)
        except BlockingIOError:
            time.sleep(0.05)
            return True
        except OSError:  # the program has gone
            return False
        self.shown += data
        return bool(data)

    def types(self, text: bytes) -> None:
        """Press these keys."""
        os.write(self._keys, text)

    def is_sized(self, rows: int, columns: int) -> None:
        """Give the window this size."""
        _resize(self._keys, rows, columns)

    def status(self, seconds: float = 60) -> int:
        """The exit status of the program, once it has ended by itself."""
        end = time.monotonic() + seconds
        while (ended := self._child.poll()) is None:
            assert time.monotonic() < end, self.shown[-2000:].decode(errors="replace")
            if not self._read():
                time.sleep(0.05)
        return ended


def _resize(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextmanager
def terminal(
    argv: list[str], cwd: Path, env: Mapping[str, str], rows: int = 30, columns: int = 100
) -> Iterator[Terminal]:
    """Run a program on a terminal of its own for the length of a `with` block."""
    keys, screen = pty.openpty()

    def own_it() -> None:
        die_with_parent()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    try:
        _resize(keys, rows, columns)
        child = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**env, "TERM": "xterm"},
            stdin=screen,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
            preexec_fn=own_it,
        )
        os.close(screen)
        fcntl.fcntl(keys, fcntl.F_SETFL, os.O_NONBLOCK)
        try:
            yield Terminal(child, keys)
        finally:
            end_group(child)
    finally:
        os.close(keys)
