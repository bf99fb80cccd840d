"""How the working parts tell what they are doing, without knowing who listens.

`cli` passes in a reporter that draws on a terminal, writes plain lines in CI or keeps quiet for `--json`; tests pass
`Silent()`. Nothing else in the package prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """A running measure of one task. Thread-safe: workers may advance it side by side."""

    def advance(self, amount: int) -> None:
        """Add `amount` units (bytes, files) to what is done."""


class Report(Protocol):
    """What a reporter must offer."""

    def step(self, doing: str, done: str | None = None) -> AbstractContextManager[None]:
        """Name a piece of work ("Installing packages"); time it; say `done` when it ends well."""

    def progress(self, doing: str, total: int | None, unit: str = "B") -> AbstractContextManager[Progress]:
        """A piece of work whose size is known. `unit` is "B" for bytes, else a plural noun ("packages")."""

    def note(self, text: str) -> None:
        """Something that the user should know, not a fault."""

    def warn(self, text: str) -> None:
        """Something that the user should look at."""


class _NoProgress:
    def advance(self, amount: int) -> None:
        return


class Silent:
    """A reporter that says nothing."""

    @contextmanager
    def step(self, doing: str, done: str | None = None) -> Iterator[None]:
        yield

    @contextmanager
    def progress(self, doing: str, total: int | None, unit: str = "B") -> Iterator[Progress]:
        yield _NoProgress()

    def note(self, text: str) -> None:
        return

    def warn(self, text: str) -> None:
        return
