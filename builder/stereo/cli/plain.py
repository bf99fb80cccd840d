"""A reporter for logs: one line for what begins, one for what ended and how long it took, nothing that redraws."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread
from typing import TextIO

from stereo.cli.measure import duration, progress_line
from stereo.report import Progress

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_SIGNS = 30.0


class _Measure:
    """Counts, and says so now and then."""

    def __init__(self, say: Callable[[str], None], doing: str, total: int | None, unit: str) -> None:
        self._say, self._doing, self._total, self._unit = say, doing, total, unit
        self._lock = Lock()
        self._done = 0
        self._began = self._last = time.monotonic()

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            now = time.monotonic()
            due = now - self._last >= _SECONDS_BETWEEN_LINES
            if due:
                self._last = now
        if due:
            self._say(f"{self._doing}: {self.standing()}")

    def standing(self) -> str:
        return progress_line(self._done, self._total, self._unit, time.monotonic() - self._began)


class PlainReport:
    """Lines with a time of day. With `quiet` only warnings."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._lock = Lock()

    def _line(self, text: str) -> None:
        if not self._quiet:
            self._write(f"{time.strftime('%H:%M:%S')} {text}")

    def _write(self, text: str) -> None:
        with self._lock, suppress(OSError):  # nobody reads our log any more: no reason to fail the work
            print(text, file=self._stream, flush=True)

    @contextmanager
    def step(self, doing: str, done: str | None = None) -> Iterator[None]:
        began, over = time.monotonic(), Event()
        self._line(f"{doing}…")
        signs = Thread(target=self._give_signs, args=[doing, began, over], daemon=True)
        signs.start()
        try:
            yield
        finally:
            over.set()
            signs.join()
        self._line(f"{done or doing}: {duration(time.monotonic() - began)}")

    def _give_signs(self, doing: str, began: float, over: Event) -> None:
        """Say now and then that it goes on, so that nobody takes it for dead."""
        while not over.wait(_SECONDS_BETWEEN_SIGNS):
            self._line(f"{doing}: {duration(time.monotonic() - began)} so far")

    @contextmanager
    def progress(self, doing: str, total: int | None, unit: str = "B") -> Iterator[Progress]:
        began = time.monotonic()
        measure = _Measure(self._line, doing, total, unit)
        self._line(f"{doing}…")
        yield measure
        self._line(f"{doing}: {measure.standing()}, {duration(time.monotonic() - began)}")

    def note(self, text: str) -> None:
        self._line(text)

    def warn(self, text: str) -> None:
        self._write(f"{time.strftime('%H:%M:%S')} warning: {text}")
