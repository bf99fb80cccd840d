"""Makes everything that a lock names present in the store, or says what is to be had nowhere any more."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from stereo.inputs import pypi
from stereo.inputs.fetch import UnobtainableError, Wanted, fetch_all
from stereo.inputs.http import Http, HttpError
from stereo.inputs.sources import Sources
from stereo.inputs.store import Store
from stereo.model.lock import Deb, Item, Lock, NpmPackage, UrlFile, Wheel
from stereo.report import Report

# Debian's own names of its archives at a snapshot service.
_AT_SNAPSHOT = {"main": "debian", "security": "debian-security"}
# A snapshot is looked for at the lock's dates and somewhat later: mirrors publish after they sign.
_LATER = (datetime.timedelta(0), datetime.timedelta(days=1))


def obtain(lock: Lock, store: Store, sources: Sources, report: Report, *, offline: bool = False, jobs: int = 8) -> None:
    """Bring every item of a lock into the store, whose blobs are all read and checked for it.

    Raises UnobtainableError naming all that is missing.
    """
    with report.step("Checking the store"):
        missing = missing_of(lock, store, jobs=jobs)
    if not missing:
        return
    if offline:
        raise UnobtainableError({row.label: "is not in the store" for row in missing}, "run once without --offline")
    wheels = [row for row in missing if isinstance(row, Wheel)]
    wanted = [_wanted(lock, row, sources) for row in missing if not isinstance(row, Wheel)]
    with Http(connections=jobs) as http:
        failures = fetch_all(wanted, store, report, http=http, jobs=jobs)
    failures |= pypi.fetch(wheels, lock.arch, store=store, report=report)
    if failures:
        raise UnobtainableError(failures, _remedy(lock, sources, failures))


def missing_of(lock: Lock, store: Store, *, jobs: int = 8) -> list[Item]:
    """What the store does not hold intact. Every blob is read; a damaged one is removed."""
    rows = list(lock.items())
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        present = pool.map(lambda row: store.has(row.sha256), rows)
        return [row for row, there in zip(rows, present, strict=True) if not there]


def _remedy(lock: Lock, sources: Sources, failures: Mapping[str, str]) -> str:
    if not any(word in reason for reason in failures.values() for word in ("answers", "sends", "pip")):
        return "no source could be reached: check the network, proxies and mirrors, and try again"
    relock = f"`stereo lock {lock.name}` takes what the mirrors have today"
    if sources.snapshot:
        return relock
    return f"{relock}; or name a snapshot archive with STEREO_SNAPSHOT"


def _wanted(lock: Lock, row: Deb | NpmPackage | UrlFile, sources: Sources) -> Wanted:
    if isinstance(row, NpmPackage):
        url = sources.npm.tarball_url(row.name, row.version)
        return Wanted(row.label, row.sha256, row.size, (url,), row.integrity, sources.npm.headers_for)
    if isinstance(row, UrlFile):
        return Wanted(row.label, row.sha256, row.size, (row.url,))
    urls = tuple(_deb_urls(lock, row, sources))
    return Wanted(row.label, row.sha256, row.size, urls, None, sources.debian_headers, sources.debian_proxies)


def _deb_urls(lock: Lock, deb: Deb, sources: Sources) -> Iterator[str]:
    # "+" is escaped as apt does it: some mirrors take a bare one for a space.
    path = quote(deb.path, safe="/~")
    for root in sources.archive(deb.archive):
        yield root + path
    dates = [datetime.datetime.fromisoformat(suite.date) for suite in lock.suites if suite.archive == deb.archive]
    if sources.snapshot and dates:
        for later in _LATER:
            stamp = (max(dates) + later).strftime("%Y%m%dT%H%M%SZ")
            yield f"{sources.snapshot}/archive/{_AT_SNAPSHOT[deb.archive]}/{stamp}/{path}"


def lock_still_fetchable(lock: Lock, sources: Sources, *, jobs: int = 8) -> list[str]:
    """Labels of what no source offers any more; empty if the lock still holds.

    Asks with HEAD and fetches nothing. Wheels are left out: only pip knows where it would find them.
    """
    rows = [_wanted(lock, row, sources) for row in lock.items() if not isinstance(row, Wheel)]
    with Http(connections=jobs) as http, ThreadPoolExecutor(max_workers=jobs) as pool:
        offered = pool.map(lambda row: any(_is_offered(row, url, http) for url in row.urls), rows)
        return sorted(row.label for row, there in zip(rows, offered, strict=True) if not there)


def _is_offered(item: Wanted, url: str, http: Http) -> bool:
    if urlsplit(url).scheme in ("file", "copy"):
        return Path(unquote(urlsplit(url).path)).is_file()
    try:
        with http.request(url, method="HEAD", headers=item.headers(url), proxies=item.proxies) as response:
            return response.headers.get("Content-Length", str(item.size)) == str(item.size)
    except HttpError:
        return False
