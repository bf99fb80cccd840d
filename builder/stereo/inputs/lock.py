"""Makes locks and tells how two of them differ.

A lock changes only when the set of packages does: a mirror that signs the same packages again, with a newer date,
leaves the text as it is.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from debian.debian_support import Version
from pydantic import ValidationError

from stereo.errors import StereoError
from stereo.inputs import apt
from stereo.inputs.discover import Found, download
from stereo.inputs.http import Http
from stereo.inputs.npm import resolve as resolve_npm
from stereo.inputs.pypi import resolve as resolve_pypi
from stereo.inputs.sources import Sources
from stereo.inputs.store import Store
from stereo.model.architecture import Architecture
from stereo.model.lock import Deb, Item, Lock, UrlFile, requested_as, sorted_lock
from stereo.report import Report
from stereo.scratch import scratch_folder

_Row = TypeVar("_Row", bound=Item)


def make_lock(
    name: str,
    arch: Architecture,
    groups: Mapping[str, Sequence[str]],
    *,
    sources: Sources,
    report: Report,
    store: Store | None = None,
    npm: Sequence[str] = (),
    pypi: Sequence[str] = (),
    urls: Sequence[tuple[str, str]] = (),
    previous: Lock | None = None,
) -> Lock:
    """Resolve what is asked for to exact packages.

    `groups` are Debian package names (or apt patterns) by group, each resolved as a system of its own;
    `npm` are NAME or NAME@VERSION, `pypi` NAME or NAME==VERSION, `urls` pairs of address and SHA-256.
    What had to be downloaded to be locked is left in `store`. Returns `previous` itself if nothing has changed.
    Raises ProblemsError for packages that do not exist, StereoError if a source fails.
    """
    try:
        lock = _resolved(name, arch, groups, sources, report, store, npm, pypi, urls, previous)
    except ValidationError as error:  # a source says something that a lock cannot hold
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise StereoError(f"cannot be locked: {fault['msg']} ({str(fault['input'])[:200]!r})", where=where) from error
    return previous if previous is not None and _content(previous) == _content(lock) else lock


def _resolved(
    name: str,
    arch: Architecture,
    groups: Mapping[str, Sequence[str]],
    sources: Sources,
    report: Report,
    store: Store | None,
    npm: Sequence[str],
    pypi: Sequence[str],
    urls: Sequence[tuple[str, str]],
    previous: Lock | None,
) -> Lock:
    with _store_or_temporary(store) as room, Http() as http:
        with report.step(f"Resolving Debian packages of {name}"), apt.opened(arch, sources) as resolver:
            suites = resolver.suites()
            debian = {group: resolver.resolve(wanted) for group, wanted in groups.items()}
        known = previous.npm if previous else ()
        lock = Lock(
            name=name,
            arch=arch,
            epoch=max(_seconds(suite.date) for suite in suites),
            requested=requested_as(groups, npm, pypi),
            suites=suites,
            debian=debian,
            npm=resolve_npm(npm, arch, config=sources.npm, http=http, store=room, report=report, known=known),
            wheels=resolve_pypi(pypi, arch, store=room, report=report),
            urls=_url_files(urls, previous, http=http, store=room, report=report),
        )
    return sorted_lock(lock)


@contextmanager
def _store_or_temporary(store: Store | None) -> Iterator[Store]:
    if store is not None:
        yield store
        return
    with scratch_folder("stereo-lock-") as folder:
        yield Store(folder)


def _url_files(
    urls: Sequence[tuple[str, str]], previous: Lock | None, *, http: Http, store: Store, report: Report
) -> tuple[UrlFile, ...]:
    known = {(row.url, row.sha256): row for row in (previous.urls if previous else ())}
    unknown = [pair for pair in dict.fromkeys(urls) if pair not in known]
    if unknown:
        with report.progress("Fetching files to lock them", None) as progress, ThreadPoolExecutor(4) as pool:

            def measured(pair: tuple[str, str]) -> Found:
                return download(pair[0], pair[0], http=http, store=store, progress=progress, sha256=pair[1])

            try:
                for (url, sha256), found in zip(unknown, pool.map(measured, unknown), strict=True):
                    known[url, sha256] = UrlFile(url=url, size=found.size, sha256=sha256)
            except BaseException:
                http.stop()
                raise
    return tuple(known[pair] for pair in dict.fromkeys(urls))


def _seconds(date: str) -> int:
    return int(datetime.datetime.fromisoformat(date).timestamp())


def _content(lock: Lock) -> Lock:
    """The lock without what says when it was made."""
    undated = tuple(suite.model_copy(update={"date": ""}) for suite in lock.suites)
    return sorted_lock(lock).model_copy(update={"epoch": 0, "suites": undated})


def diff_locks(old: Lock, new: Lock) -> list[str]:
    """What an update from `old` to `new` changes, one line per package, grouped; empty if nothing."""
    lines: list[str] = []
    for group in sorted({*old.debian, *new.debian}):
        lines += _differences(
            group, {row.name: row for row in old.group(group)}, {row.name: row for row in new.group(group)}
        )
    lines += _differences("npm", {row.path: row for row in old.npm}, {row.path: row for row in new.npm})
    lines += _differences("wheels", {row.name: row for row in old.wheels}, {row.name: row for row in new.wheels})
    lines += _differences("urls", {row.url: row for row in old.urls}, {row.url: row for row in new.urls})
    return lines


def _differences(group: str, old: Mapping[str, _Row], new: Mapping[str, _Row]) -> list[str]:
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if after is None:
            lines.append(f"{group}: {key} {_version(before)} is no longer needed")
        elif before is None:
            lines.append(f"{group}: {key} {_version(after)} is new")
        elif _version(before) != _version(after):
            lines.append(f"{group}: {key} {_version(before)} → {_version(after)}{_remark(before, after)}")
        elif before.sha256 != after.sha256:
            lines.append(f"{group}: {key} {_version(after)} has other content under the same version")
        else:
            lines.append(f"{group}: {key} {_version(after)} has moved")
    return lines


def _version(row: Item | None) -> str:
    return getattr(row, "version", "") or (row.sha256[:12] if row else "")


def _remark(before: Item, after: Item) -> str:
    if not (isinstance(before, Deb) and isinstance(after, Deb)):
        return ""
    if Version(after.version) < Version(before.version):
        return " (a downgrade)"
    return " (security)" if after.archive == "security" else ""
