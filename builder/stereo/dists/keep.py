"""What of the store is kept: what each entry costs, and which of them a policy gives up. Nothing is changed here.

A link costs nothing in the store, whatever it leads to: that lies where a build put it, and stays there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path

from stereo.dists import Entry
from stereo.dists.use import Users, in_use
from stereo.model.manifest import is_release


@dataclass(frozen=True)
class Cost:
    """Bytes: as long as the files say they are, and as much of the disk as they take (they have holes)."""

    apparent: int = 0
    allocated: int = 0


@dataclass(frozen=True)
class Row:
    """An entry as it is now. `since` is when it came into the store, in seconds; `user` says who uses it."""

    entry: Entry
    cost: Cost
    since: float
    user: str | None = None

    @property
    def broken(self) -> bool:
        """Whether it is a link that leads to no dist any more."""
        return self.entry.place.is_symlink() and not self.entry.there


@dataclass(frozen=True)
class Keeping:
    """A policy: the newest `keep` of each name and architecture stay, releases and others counted apart.

    Of the rest goes what is `older_than` that, and what came first for as long as more than `budget` bytes of the disk
    are taken; all of it, if neither is given. What is in use always stays, and what leads nowhere never does.
    """

    keep: int = 3
    older_than: timedelta | None = None
    budget: int | None = None


@dataclass(frozen=True)
class Given:
    """An entry that a policy gives up, and why, in words."""

    row: Row
    reason: str


def cost(place: Path) -> Cost:
    """What an entry of the store takes there."""
    if place.is_symlink():
        return Cost()
    apparent = allocated = 0
    seen: set[tuple[int, int]] = set()
    for found in _files(place):
        if (found.st_dev, found.st_ino) not in seen:  # a file of two names takes its space once
            seen.add((found.st_dev, found.st_ino))
            apparent += found.st_size
            allocated += found.st_blocks * 512
    return Cost(apparent, allocated)


def _files(folder: Path) -> Iterator[os.stat_result]:
    with suppress(OSError), os.scandir(folder) as found:
        for each in found:
            with suppress(OSError):
                if each.is_dir(follow_symlinks=False):
                    yield from _files(Path(each.path))
                elif stat.S_ISREG((status := each.stat(follow_symlinks=False)).st_mode):
                    yield status


def rows(entries: Iterable[Entry], users: Users) -> tuple[Row, ...]:
    """The entries with what they cost and who uses them, in the same order."""
    found = []
    for entry in entries:
        with suppress(FileNotFoundError):  # removed just now
            since = entry.place.lstat().st_mtime
            found.append(Row(entry, cost(entry.place), since, in_use(entry.place, users)))
    return tuple(found)


def given_up(rows: Sequence[Row], policy: Keeping, now: float) -> tuple[Given, ...]:
    """What `policy` gives up of `rows`, which are in the order of `dists.entries`; `now` is in seconds."""
    found = [Given(row, "leads nowhere") for row in rows if row.broken and not row.user]
    whole = [row for row in rows if not row.broken]
    # What is no dist was not put here by us: a person shall look at it.
    spare = [row for row in _beyond(whole, policy.keep) if not row.user and row.entry.there]
    left = sum(row.cost.allocated for row in whole)
    for row in sorted(spare, key=lambda row: row.since):
        days = int(now - row.since) // 86400
        if policy.older_than is not None and now - row.since > policy.older_than.total_seconds():
            reason = f"not among the newest {policy.keep}, and {days} days old"
        elif policy.budget is not None and left > policy.budget and row.cost.allocated:
            reason = f"not among the newest {policy.keep}, and more than fits"
        elif policy.older_than is None and policy.budget is None:
            reason = f"not among the newest {policy.keep}"
        else:
            continue
        left -= row.cost.allocated
        found.append(Given(row, reason))
    return tuple(found)


def _beyond(rows: Sequence[Row], keep: int) -> Iterator[Row]:
    """All but the newest `keep` of each kind."""

    def kind(row: Row) -> tuple[str, str, bool]:
        return row.entry.name, row.entry.arch, is_release(row.entry.version)

    for _, group in groupby(sorted(rows, key=kind), key=kind):  # sorting is stable: the newest stay first
        yield from list(group)[keep:]
