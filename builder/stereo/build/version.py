"""The version that an image gets, and the revision of the source that it is named after.

A release is named by a person, in calendar form; anything else is named after the source that it was built from, so
that a development image can never pass for a release.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stereo.errors import StereoError, UsageError
from stereo.process import run

VARIABLE = "STEREO_VERSION"
_CALVER = re.compile(r"(\d{4})\.(\d{2})\.(\d{2})\.(0|[1-9]\d{0,4})", re.ASCII)
_SHORT = 12


@dataclass(frozen=True)
class Revision:
    """A state of the source: 40 hexadecimal digits, and whether files differ from that commit."""

    commit: str
    dirty: bool

    def __str__(self) -> str:
        return self.commit + ("-dirty" if self.dirty else "")

    @property
    def short(self) -> str:
        return self.commit[:_SHORT] + ("-dirty" if self.dirty else "")


def revision_of(checkout: Path) -> Revision | None:
    """The state of a checkout; None where there is no git or no repository (an unpacked archive). See git(1)."""
    # The owner of the checkout may be another user than we are (a container, sudo): git refuses that by default. Its
    # code is running already, so what is left to keep out is programs that its git configuration names.
    git: list[str | Path] = ["git", "-C", checkout, "-c", f"safe.directory={checkout}", "-c", "core.fsmonitor=false"]
    try:
        top = run([*git, "rev-parse", "--show-toplevel", "HEAD"], timeout=30).stdout.split("\n")
        if Path(top[0]).resolve() != checkout.resolve():
            return None
        changes = run([*git, "status", "--porcelain", "--untracked-files=normal"], timeout=60).stdout
    except StereoError:
        return None
    return Revision(top[1], bool(changes.strip()))


def image_version(option: str | None, env: Mapping[str, str], revision: Callable[[], Revision | None]) -> str:
    """The version of an image: `option`, else STEREO_VERSION, else `dev-<short revision>[-dirty]`.

    Raises UsageError when the first two are no calendar version YYYY.0M.0D.N.
    """
    for given, where in ((option, "--version"), (env.get(VARIABLE) or None, VARIABLE)):
        if given is not None:
            return _calendar_version(given, where)
    found = revision()
    return f"dev-{found.short}" if found else "dev-unknown"


def _calendar_version(text: str, where: str) -> str:
    hint = "a release is YYYY.MM.DD.N, such as 2026.01.31.0, where N counts the releases of that day from 0"
    matched = _CALVER.fullmatch(text)
    if not matched:
        raise UsageError(f"{text!r} is no version", where=where, hint=hint)
    try:
        datetime.date(*(int(part) for part in matched.groups()[:3]))
    except ValueError as error:
        raise UsageError(f"{text!r} is on no day of the calendar", where=where, hint=hint) from error
    return text
