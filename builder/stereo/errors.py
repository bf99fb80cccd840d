"""Errors that a user meets: what happened, where, and what to do next.

Everything below the command line raises these and nothing prints; `cli` turns them into text and an exit status
(1 for `StereoError`, 2 for `UsageError`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def shown(text: str, limit: int = 300) -> str:
    """Text of unknown origin, fit for a terminal: no control characters, no broken ones, not endless."""
    plain = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return plain if len(plain) <= limit else plain[:limit] + "…"


class StereoError(Exception):
    """A failure that the user can understand and act on.

    `where` is a file, `file:line`, package or artifact name; `hint` is the next thing to do.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.hint})" if self.hint else text


MAKE_ROOM = "make room, for instance with `stereo clean`, and run again: nothing half-done was left"
"""What to do about a full disk."""


class UsageError(StereoError):
    """The request itself is wrong: an unknown name, an impossible option. Exit status 2."""


@dataclass(frozen=True, order=True)
class Problem:
    """One fault in a file that a person wrote."""

    file: str
    key: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.file}: {self.key}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


class ProblemsError(UsageError):
    """Everything that is wrong with some input, collected, so that one run shows all of it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = tuple(sorted(problems, key=str))
        super().__init__("\n".join(str(problem) for problem in self.problems))
