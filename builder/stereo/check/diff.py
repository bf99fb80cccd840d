"""Where two builds part: from the dist down to the first difference that can be named, in one line each.

The artifacts come in the order of cause and effect: the disk before what is derived from it, the manifest last. What
signing and pulling lay beside them is no part of what is compared.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from stereo.artifacts import zst
from stereo.artifacts.region import FormatError, OpenFile, Region, first_difference
from stereo.check.diffdisk import differences, kind_of
from stereo.check.differences import Difference, Level, against, content_difference, inside, limited
from stereo.errors import UsageError, shown
from stereo.model.manifest import ADDED_LATER, CYCLONEDX_FILE, MANIFEST_FILE, MAX_BYTES, SPDX_FILE
from stereo.report import Report

_ORDER = ("stereos.img", "bzImage", "initrd", "cmdline", "init", "stereos.qcow2")
_MOST_NAMES = 1000
_MOST_LINES = 100
_LARGEST_DISK = 16 << 30
_LARGEST_CMDLINE = 64 << 10
_WHAT_TO_GIVE = "give two dist directories, or two artifact files of one kind"


def diff(a: Path, b: Path, report: Report) -> list[Difference]:
    """How A and B differ, an empty list if they do not. Both are dist directories, or both files.

    Raises UsageError when they are not, StereoError when they cannot be read.
    """
    for path in (a, b):
        if not path.exists():
            raise UsageError("is not there", where=str(path))
    if a.is_dir() != b.is_dir():
        raise UsageError(f"{a} and {b} are not of one kind", hint=_WHAT_TO_GIVE)
    for path in (a, b):
        if not path.is_dir() and not path.is_file():
            raise UsageError("is not a regular file", where=str(path), hint=_WHAT_TO_GIVE)
    found = _folders(a, b, report) if a.is_dir() else _pair(a, b, report)
    return list(limited(found, Level.DIST, "", _MOST_LINES))


def _pair(a: Path, b: Path, report: Report) -> Iterator[Difference]:
    with OpenFile(a.resolve()) as one, OpenFile(b.resolve()) as other, report.step(f"Comparing {a} and {b}"):
        pairs = ((a, one.region), (b, other.region))
        kinds = ["zst" if path.name.endswith(".zst") else kind_of(region) for path, region in pairs]
        if kinds[0] != kinds[1] and all(kinds):  # what has no known kind may be a damaged one: that is a difference
            raise UsageError(f"{a} is {kinds[0]}, {b} is {kinds[1]}", hint=_WHAT_TO_GIVE)
        yield from _files(a.name, one.region, other.region, "")


def _folders(a: Path, b: Path, report: Report) -> Iterator[Difference]:
    names_a, names_b = _names(a), _names(b)
    for folder, names in ((a, names_a), (b, names_b)):
        if names.isdisjoint((MANIFEST_FILE, *_ORDER)):
            raise UsageError("is no dist: none of its files is there", where=str(folder), hint=_WHAT_TO_GIVE)
    for name in sorted(names_a ^ names_b):
        yield Difference(Level.DIST, shown(name), "only in A" if name in names_a else "only in B")
    common = sorted(names_a & names_b, key=_place)
    differing: dict[str, list[Difference]] = {}
    with report.progress("Comparing", len(common), "files") as progress:
        for name in common:
            found = list(_artifacts(name, a, b, differing))
            if found:
                differing[name] = found
            yield from found
            progress.advance(1)


def _names(folder: Path) -> set[str]:
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise UsageError(f"cannot be listed: {error.strerror}", where=str(folder)) from error
    if len(names) > _MOST_NAMES:
        raise UsageError(f"holds {len(names)} names, it is no dist", where=str(folder))
    return names - ADDED_LATER


def _place(name: str) -> tuple[int, str]:
    """The manifest comes last, compressed files before it, others in the order of `_ORDER`."""
    if name == MANIFEST_FILE:
        return len(_ORDER) + 2, name
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER) + name.endswith(".zst")), name


def _artifacts(name: str, a: Path, b: Path, before: dict[str, list[Difference]]) -> Iterator[Difference]:
    """Compare one artifact of two dists; `before` has the differences of those that it may be derived from."""
    where = shown(name)
    with ExitStack() as stack:
        try:
            one, other = (stack.enter_context(OpenFile(folder / name, name=name)).region for folder in (a, b))
            if name.endswith(".zst") and name.removesuffix(".zst") in before:
                if first_difference(one, other) is not None:
                    yield Difference(Level.ZSTD, where, f"differs as {shown(name.removesuffix('.zst'))} does")
                return
            found = list(_files(name, one, other, where))
        except FormatError as error:
            yield Difference(Level.DIST, where, f"cannot be compared: {error.what}")
            return
    if name == "stereos.qcow2" and found:
        same = [(row.level, row.where.replace(name, "stereos.img", 1), row.message) for row in found]
        if same == [(row.level, row.where, row.message) for row in before.get("stereos.img", [])]:
            found = [Difference(Level.QCOW2, where, "its disk differs as stereos.img does")]
    yield from found


def _files(name: str, a: Region, b: Region, where: str) -> Iterator[Difference]:
    if name == MANIFEST_FILE:
        yield from limited(_manifests(a, b, where), Level.MANIFEST, where, 20)
    elif name in (CYCLONEDX_FILE, SPDX_FILE):
        if told := content_difference(a, b):
            yield Difference(Level.FILE, where, f"{told}; `stereo sbom --diff A B` says which software is another")
    elif name == "cmdline":
        yield from _words(a, b, where)
    elif name.endswith(".zst"):
        yield from _packed(a, b, where)
    else:
        yield from differences(a, b, where)


def _words(a: Region, b: Region, where: str) -> Iterator[Difference]:
    if first_difference(a, b) is None:
        return
    left, right = (region.read(0, min(region.size, _LARGEST_CMDLINE)).decode("utf-8", "replace") for region in (a, b))
    only_a = [word for word in left.split() if word not in right.split()]
    only_b = [word for word in right.split() if word not in left.split()]
    told = [f"only in {side}: {shown(' '.join(words))}" for side, words in (("A", only_a), ("B", only_b)) if words]
    if told:
        yield Difference(Level.FILE, where, "; ".join(told))
    else:
        yield from differences(a, b, where)


def _packed(a: Region, b: Region, where: str) -> Iterator[Difference]:
    """Two compressed files: unpack them and compare what comes out."""
    at = first_difference(a, b)
    if at is None:
        return
    try:
        with closing(zst.Spool()) as one, closing(zst.Spool()) as other:
            found = list(differences(one.fill(a, _LARGEST_DISK), other.fill(b, _LARGEST_DISK), where))
    except FormatError as error:
        found = [Difference(Level.ZSTD, where, f"cannot be looked into: {error}; differs at byte {at}")]
    yield from found or [Difference(Level.ZSTD, where, f"the same content, compressed differently from byte {at} on")]


def _manifests(a: Region, b: Region, where: str) -> Iterator[Difference]:
    """Key by key. A manifest that is no TOML is compared as text."""
    if first_difference(a, b) is None:
        return
    try:
        left, right = (
            dict(_flat(tomllib.loads(region.read(0, min(region.size, MAX_BYTES)).decode()))) for region in (a, b)
        )
    except (ValueError, RecursionError):
        yield from differences(a, b, where)
        return
    found = False
    for key in {**left, **right}:
        if left.get(key) != right.get(key):
            found = True
            if key in left and key in right:
                yield Difference(Level.MANIFEST, inside(where, key), against(left[key], right[key]))
            else:
                yield Difference(Level.MANIFEST, inside(where, key), "only in A" if key in left else "only in B")
    if not found:
        yield from differences(a, b, where)


def _flat(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _flat(below, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, below in enumerate(value):
            yield from _flat(below, f"{key}[{number}]")
    else:
        yield key, str(value)
