"""Makes everything that a lock names present in the store, or says what is to be had nowhere any more."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from stereo.inputs.fetch import UnobtainableError, Wanted, fetch_all, missing_of
from stereo.inputs.http import Http, HttpError
from stereo.inputs.sources import Sources
from stereo.inputs.store import Store
from stereo.model.lock import Deb, Item, Lock, NpmPackage, UrlFile
from stereo.report import Report

# Debian's own names of its archives at a snapshot service.
_AT_SNAPSHOT = {"main": "debian", "security": "debian-security"}
# A snapshot is looked for at the lock's dates and somewhat later: mirrors publish after they sign.
_LATER = (datetime.timedelta(0), datetime.timedelta(days=1))


def obtain(lock: Lock, store: Store, sources: Sources, report: Report, *, offline: bool = False, jobs: int = 8) -> None:
    """Bring every item of a lock into the store. Raises UnobtainableError naming all that is missing."""
    wanted = [_wanted(lock, row, sources, offline=offline) for row in lock.items()]
    with report.step("Checking the store"):
        missing = missing_of(wanted, store, jobs=jobs)
    if not missing:
        return
    if offline:
        failures = {item.label: "is not in the store" for item in missing}
        raise UnobtainableError(failures, "run once without --offline")
    failures = fetch_all(missing, store, report, http=_client(sources, jobs), jobs=jobs)
    if failures:
        raise UnobtainableError(failures, _remedy(lock, sources))


def _remedy(lock: Lock, sources: Sources) -> str:
    relock = f"`stereo lock {lock.name}` takes what the mirrors have today"
    if sources.snapshot:
        return relock
    return f"{relock}; or name a snapshot archive with STEREO_SNAPSHOT"


def _client(sources: Sources, jobs: int) -> Http:
    return Http(sources.debian_proxies, connections=jobs)


def _wanted(lock: Lock, row: Item, sources: Sources, *, offline: bool) -> Wanted:
    urls: tuple[str, ...] = ()
    integrity = None
    headers = Wanted.headers
    if isinstance(row, NpmPackage):
        urls = () if offline else (sources.npm.tarball_url(row.name, row.version),)
        integrity, headers = row.integrity, sources.npm.headers_for
    elif isinstance(row, UrlFile):
        urls = (row.url,)
    elif isinstance(row, Deb) and not offline:
        urls = tuple(_deb_urls(lock, row, sources))
    return Wanted(row.label, row.sha256, row.size, urls, integrity, headers)


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
    """Labels of what no source offers any more (asked with HEAD, nothing is fetched). Empty if the lock still holds."""
    http = _client(sources, jobs)
    rows = [_wanted(lock, row, sources, offline=False) for row in lock.items()]

    def is_offered(item: Wanted) -> bool:
        for url in item.urls:
            try:
                with http.request(url, method="HEAD", headers=item.headers(url)) as response:
                    length = response.headers.get("Content-Length")
                    if length is None or length == str(item.size):
                        return True
            except HttpError:
                continue
        return False

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        offered = pool.map(is_offered, rows)
        return sorted(item.label for item, there in zip(rows, offered, strict=True) if not there)
