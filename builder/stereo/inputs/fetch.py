"""Brings what a lock names into the store: in parallel, resuming, from whichever source still has it.

Every byte is bounded by the size in the lock and proven by its digest, so no source needs to be trusted. What cannot
be had anywhere is reported once, all of it, when everything else is done.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from urllib3.response import BaseHTTPResponse

from stereo.errors import StereoError
from stereo.inputs.http import Http, HttpError, chunks
from stereo.inputs.sources import redacted
from stereo.inputs.store import CHUNK, Store, sha256_of
from stereo.report import Progress, Report

ATTEMPTS = 4  # at one source, as long as it fails in ways that may pass
BACKOFF = 0.5  # seconds before the second attempt, doubled for each further one
_SLOWEST = 1024  # bytes per second, over _PATIENCE seconds, or the source counts as stalled
_PATIENCE = 60.0


@dataclass(frozen=True)
class Wanted:
    """A file to be had. `urls` are its sources, best first; `integrity` is npm's sha512, checked as well."""

    label: str
    sha256: str
    size: int
    urls: tuple[str, ...]
    integrity: str | None = None
    headers: Callable[[str], Mapping[str, str]] = field(default=lambda _url: {}, compare=False)
    proxies: Mapping[str, str] = field(default_factory=dict, compare=False)


class InterruptedFetchError(StereoError):
    """The work was stopped from outside."""


class UnobtainableError(StereoError):
    """Some files are to be had nowhere. `failures` holds the reasons by label."""

    def __init__(self, failures: Mapping[str, str], hint: str) -> None:
        count = len(failures)
        lines = "\n".join(f"  {label}: {reason}" for label, reason in sorted(failures.items()))
        super().__init__(f"{count} locked {'file' if count == 1 else 'files'} cannot be obtained:\n{lines}", hint=hint)
        self.failures = dict(failures)


def fetch_all(wanted: Sequence[Wanted], store: Store, report: Report, *, http: Http, jobs: int = 8) -> dict[str, str]:
    """Fetch files that the store lacks; returns why, by label, for those that no source gave.

    An interruption or a full disk ends every download at once and raises; what has arrived is kept and resumed from.
    """
    if not wanted:
        return {}
    work = _Work(store, http)
    count = f"{len(wanted)} {'file' if len(wanted) == 1 else 'files'}"
    with report.progress(f"Fetching {count}", sum(item.size for item in wanted)) as progress:
        with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="fetch") as pool:
            futures: dict[Future[str | None], Wanted] = {
                pool.submit(work.fetch, item, progress): item for item in wanted
            }
            try:
                waiting = set(futures)
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            except BaseException:
                work.stop()
                pool.shutdown(cancel_futures=True)
                raise
        return {item.label: reason for future, item in futures.items() if (reason := future.result())}


class _Work:
    """The downloads of one run, which stop together."""

    def __init__(self, store: Store, http: Http) -> None:
        self._store = store
        self._http = http
        self._stopped = threading.Event()
        self._unreachable: dict[str, int] = {}  # by host: failures in a row without any answer

    def stop(self) -> None:
        self._stopped.set()
        self._http.stop()

    def fetch(self, item: Wanted, progress: Progress) -> str | None:
        """Bring one file into the store. Returns the reason if no source gives it."""
        gauge = _Gauge(progress)
        try:
            with self._claimed(self._store.part_of(item.sha256)) as part:
                if self._store.has(item.sha256):  # another process was first
                    gauge.reach(item.size)
                    return None
                return self._from_any_source(item, part, gauge)
        except OSError as error:
            raise StereoError(
                f"cannot write to the store: {error.strerror or error}",
                where=str(self._store.root),
                hint="make room with `stereo clean`, or choose another place with STEREO_CACHE",
            ) from error

    def _from_any_source(self, item: Wanted, part: Path, gauge: _Gauge) -> str | None:
        reasons = []
        for url in item.urls:
            reason = self._from_source(item, url, part, gauge)
            if reason is None:
                return None
            reasons.append(f"{redacted(url)} {reason}")
        if part.stat().st_size == 0:
            part.unlink()
        return "; ".join(reasons) or "no source is configured"

    def _from_source(self, item: Wanted, url: str, part: Path, gauge: _Gauge) -> str | None:
        host = urlsplit(url).netloc
        reason = ""
        attempt = 0
        while attempt < ATTEMPTS:
            if attempt and self._stopped.wait(BACKOFF * 2 ** (attempt - 1)):
                break
            attempt += 1
            resumed = part.stat().st_size > 0
            try:
                self._download(item, url, part, gauge)
            except HttpError as error:
                reason = error.what
                if self._stopped.is_set():
                    break
                if resumed and error.status in (206, 416):  # the part is of no use to this server
                    _empty(part)
                    continue
                if error.is_gone:
                    return reason
                if error.status == 0 and not resumed and part.stat().st_size == 0:
                    self._unreachable[host] = self._unreachable.get(host, 0) + 1
                    if self._unreachable[host] > ATTEMPTS * 2:  # the host is down: do not wait for it file by file
                        return reason
                continue
            self._unreachable[host] = 0
            wrong = _wrong_content(item, part)
            if wrong is None:
                self._store.adopt(part, item.sha256)
                gauge.reach(item.size)
                return None
            _empty(part)
            reason = wrong
            if not resumed:  # all of it was this source's, so it will not be better next time
                return reason
        if self._stopped.is_set():
            raise InterruptedFetchError("the download was interrupted")
        return reason

    def _download(self, item: Wanted, url: str, part: Path, gauge: _Gauge) -> None:
        """Complete the part. Raises HttpError if it breaks off, having kept what came."""
        have = part.stat().st_size
        if have > item.size:
            _empty(part)
            have = 0
        if have == item.size:
            return
        if urlsplit(url).scheme in ("file", "copy"):
            _copy(item, url, part)
            return
        headers = dict(item.headers(url))
        if have:
            headers["Range"] = f"bytes={have}-"
        with self._http.request(url, headers=headers, proxies=item.proxies) as response:
            start = _start_of(response, have, item.size)
            with part.open("r+b") as target:
                target.truncate(start)
                target.seek(start)
                gauge.reach(start)
                began, done = time.monotonic(), start
                for chunk in chunks(response):
                    if self._stopped.is_set():
                        raise HttpError("interrupted")
                    done += len(chunk)
                    if done > item.size:
                        target.truncate(0)
                        raise HttpError(f"sends more than the {item.size} bytes of the lock", status=400)
                    target.write(chunk)
                    gauge.reach(done)
                    spent = time.monotonic() - began
                    if spent > _PATIENCE and (done - start) / spent < _SLOWEST:
                        raise HttpError("has stalled")
        if done < item.size:
            raise HttpError(f"breaks off after {done} of {item.size} bytes")

    @contextmanager
    def _claimed(self, part: Path) -> Iterator[Path]:
        """The part file, held against every other process and thread that wants the same content."""
        while True:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                while not _locked(descriptor):
                    if self._stopped.wait(0.1):
                        raise InterruptedFetchError("the download was interrupted")
                if _is_still(part, descriptor):  # else its owner has moved it into the store meanwhile
                    yield part
                    return
            finally:
                os.close(descriptor)


class _Gauge:
    """Reports each byte of a file once, however often it must be fetched."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._highest = 0

    def reach(self, position: int) -> None:
        if position > self._highest:
            self._progress.advance(position - self._highest)
            self._highest = position


def _start_of(response: BaseHTTPResponse, have: int, size: int) -> int:
    """Where in the file the answer's body begins. Raises HttpError if it cannot be the rest of it."""
    if response.status == 200:
        start = 0  # the server does not do ranges, or was not asked for one
    elif response.status == 206 and have:
        stated = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", response.headers.get("Content-Range", ""))
        if not stated or int(stated[1]) != have or stated[3] not in ("*", str(size)):
            raise HttpError("sends another range than asked for", status=206)
        start = have
    else:
        raise HttpError(f"answers {response.status}", status=response.status)
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and len(length) < 20 and start + int(length) > size:
        raise HttpError(f"sends more than the {size} bytes of the lock", status=206 if start else 400)
    return start


def _wrong_content(item: Wanted, part: Path) -> str | None:
    with part.open("rb") as stream:
        found, size = sha256_of(stream)
        if (found, size) != (item.sha256, item.size):
            return "sends other bytes than the lock names"
        if item.integrity is not None:
            stream.seek(0)
            if integrity_of(stream) != item.integrity:
                return "sends bytes that npm's integrity does not fit"
    return None


def integrity_of(stream: Iterable[bytes]) -> str:
    """The sha512 of a stream in the form that npm gives it (subresource integrity)."""
    digest = hashlib.sha512()
    reader = getattr(stream, "read", None)
    for chunk in iter(lambda: reader(CHUNK), b"") if reader else stream:
        digest.update(chunk)
    return "sha512-" + base64.b64encode(digest.digest()).decode()


def _copy(item: Wanted, url: str, part: Path) -> None:
    path = Path(unquote(urlsplit(url).path))
    try:
        with path.open("rb") as source:
            content = source.read(item.size + 1)
    except OSError as error:
        raise HttpError(f"cannot be read: {error.strerror}", status=404) from error
    part.write_bytes(content)


def _empty(part: Path) -> None:
    os.truncate(part, 0)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        there = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
