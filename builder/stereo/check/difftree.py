"""Two file trees, walked side by side: what is only in one, and what differs in what is in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from stereo.artifacts.region import FormatError, Region
from stereo.artifacts.tree import Entry, Kind, Tree, order
from stereo.check.differences import Difference, Level, against, content_difference, inside

Descend = Callable[[Region, Region, str], Iterator[Difference]]
"""Compares two files that differ, for those that have something inside."""


def tree_differences(a: Tree, b: Tree, level: Level, where: str, descend: Descend) -> Iterator[Difference]:
    """Every entry that differs, in one line each. What is below a directory that only one has is not listed."""
    for left, right in _pairs(a.entries(), b.entries()):
        if left is None or right is None:
            entry, side = (left, "A") if left else (right, "B")
            assert entry is not None
            yield Difference(level, inside(where, entry.path), f"only in {side} ({entry.kind})")
            continue
        place = inside(where, left.path)
        told = _attributes(left, right)
        if told:
            yield Difference(level, place, ", ".join(told))
        if left.kind is right.kind is Kind.FILE:
            yield from _contents(a, b, left, right, place, descend)


def _pairs(a: Iterator[Entry], b: Iterator[Entry]) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Entries of the same path together, alone what has no partner; each side in the order of `order`."""
    left, right = next(a, None), next(b, None)
    while left or right:
        place_a, place_b = (order(left.path) if left else None), (order(right.path) if right else None)
        if left and right and place_a == place_b:
            yield left, right
            left, right = next(a, None), next(b, None)
        elif place_b is None or (place_a is not None and place_a < place_b):
            assert left is not None
            yield left, None
            left = _beyond(a, left)
        else:
            assert right is not None
            yield None, right
            right = _beyond(b, right)


def _beyond(entries: Iterator[Entry], lonely: Entry) -> Entry | None:
    """The next entry that is not below one that only one side has."""
    below = lonely.path.rstrip("/") + "/"
    return next((entry for entry in entries if lonely.path == "/" or not entry.path.startswith(below)), None)


def _attributes(a: Entry, b: Entry) -> list[str]:
    if a.kind is not b.kind:
        return [f"{a.kind} against {b.kind}"]
    told = []
    if a.mode != b.mode:
        told.append(f"mode {a.mode:04o} against {b.mode:04o}")
    if (a.uid, a.gid) != (b.uid, b.gid):
        told.append(f"owner {a.uid}:{a.gid} against {b.uid}:{b.gid}")
    if a.mtime != b.mtime:
        told.append(f"time {_moment(a.mtime)} against {_moment(b.mtime)}")
    if a.target != b.target:
        told.append(f"points to {against(a.target, b.target)}")
    if a.rdev != b.rdev:
        told.append(f"device {against(a.rdev, b.rdev)}")
    if a.xattrs != b.xattrs:
        left, right = dict(a.xattrs), dict(b.xattrs)
        names = [name for name in sorted({*left, *right}) if left.get(name) != right.get(name)]
        told += [f"attribute {name} {against(_hex(left.get(name)), _hex(right.get(name)))}" for name in names[:3]]
    return told


def _hex(value: bytes | None) -> str:
    return "none" if value is None else value.hex() or "empty"


def _moment(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s"


def _contents(a: Tree, b: Tree, left: Entry, right: Entry, place: str, descend: Descend) -> Iterator[Difference]:
    try:
        one, other = a.content(left), b.content(right)
        told = content_difference(one, other)
        if told:
            found = list(descend(one, other, place))
            yield from found or [Difference(Level.FILE, place, told)]
    except FormatError as error:
        yield Difference(Level.FILE, place, f"cannot be read: {error}")
