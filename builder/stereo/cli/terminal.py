"""A reporter for people: a live region with what is going on, and above it a line for each thing that is done.

What is nested shows while it runs and leaves no line of its own, so that a build's lines are the build's steps. rich
honours NO_COLOR (no-color.org).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from stereo.cli.measure import duration, progress_line
from stereo.report import Progress


class _Measure:
    def __init__(self, bars: Bars, task: TaskID, total: int | None, unit: str) -> None:
        self._bars, self._task, self._total, self._unit = bars, task, total, unit
        self._lock = RLock()
        self._done = 0
        self._began = time.monotonic()

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            self._bars.update(self._task, completed=self._done, standing=self.standing())

    def standing(self) -> str:
        return progress_line(self._done, self._total, self._unit, time.monotonic() - self._began)


class TerminalReport:
    """Draws on stderr, or on `console` (for tests)."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._bars = Bars(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[indent]}{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[standing]}"),
            console=self._console,
            transient=True,
        )
        self._lock = RLock()
        self._depth = 0
        self._told: BaseException | None = None

    @contextmanager
    def _task(self, doing: str, total: int | None, *, bar: bool) -> Iterator[TaskID]:
        with self._lock:
            if self._depth == 0:
                self._bars.start()
            indent = "  " * self._depth
            self._depth += 1
        task = self._bars.add_task(escape(doing), total=total if bar else None, indent=indent, standing="")
        try:
            yield task
        except BaseException as error:
            if error is not self._told:  # the innermost task says it; those around it fail for the same reason
                self._told = error
                self._line("✗", "red", doing, "")
            raise
        finally:
            self._bars.remove_task(task)
            with self._lock:
                self._depth -= 1
                if self._depth == 0:
                    self._bars.stop()

    def _line(self, mark: str, style: str, text: str, detail: str) -> None:
        self._console.print(Text.assemble((mark, style), " ", text, "  " if detail else "", (detail, "dim")))

    @contextmanager
    def step(self, doing: str, done: str | None = None) -> Iterator[None]:
        began = time.monotonic()
        with self._task(doing, None, bar=False):
            yield
        if self._depth == 0:
            self._line("✓", "green", done or doing, duration(time.monotonic() - began))

    @contextmanager
    def progress(self, doing: str, total: int | None, unit: str = "B") -> Iterator[Progress]:
        began = time.monotonic()
        with self._task(doing, total, bar=True) as task:
            measure = _Measure(self._bars, task, total, unit)
            yield measure
        if self._depth == 0:
            self._line("✓", "green", doing, f"{measure.standing()}, {duration(time.monotonic() - began)}")

    def note(self, text: str) -> None:
        self._line("·", "cyan", text, "")

    def warn(self, text: str) -> None:
        self._line("!", "yellow", text, "")
