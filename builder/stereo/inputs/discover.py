"""Downloads that no lock describes yet: what `stereo lock` must have in its hands to write down size and digest.

What arrives is proven by what its source states (npm's integrity, a SHA-256 in the mixtape) and kept in the store, so
that the build after it need not fetch it again.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stereo.errors import StereoError
from stereo.inputs.fetch import ATTEMPTS, BACKOFF, integrity_of
from stereo.inputs.http import Http, HttpError, chunks
from stereo.inputs.sources import redacted
from stereo.inputs.store import Store
from stereo.model.lock import MAX_BLOB
from stereo.report import Progress


@dataclass(frozen=True)
class Found:
    """What a download turned out to be. `size` is in bytes."""

    sha256: str
    size: int


def download(
    url: str,
    label: str,
    *,
    http: Http,
    store: Store,
    progress: Progress,
    headers: Mapping[str, str] | None = None,
    sha256: str | None = None,
    integrity: str | None = None,
) -> Found:
    """Fetch a file of unknown size into the store. Raises StereoError if it is not what its source says it is."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(BACKOFF * 2 ** (attempt - 1))
        with tempfile.TemporaryDirectory(prefix="lock-", dir=store.room("new")) as name:
            file = Path(name) / "file"
            try:
                found = _received(url, file, http, headers or {}, progress)
            except HttpError as error:
                if error.is_gone or attempt == ATTEMPTS - 1:
                    raise StereoError(f"{redacted(url)} {error.what}", where=label) from error
                continue
            if sha256 is not None and found.sha256 != sha256:
                raise StereoError(
                    f"{redacted(url)} has SHA-256 {found.sha256}, not {sha256}",
                    where=label,
                    hint="the file has changed, or the mixtape has the wrong digest",
                )
            if integrity is not None:
                with file.open("rb") as stream:
                    if integrity_of(stream) != integrity:
                        raise StereoError(f"{redacted(url)} does not fit the registry's integrity", where=label)
            store.adopt(file, found.sha256)
            return found
    raise AssertionError("unreachable")


def _received(url: str, file: Path, http: Http, headers: Mapping[str, str], progress: Progress) -> Found:
    digest, size = hashlib.sha256(), 0
    with http.request(url, headers=headers) as response, file.open("xb") as target:
        for chunk in chunks(response):
            size += len(chunk)
            if size > MAX_BLOB:
                raise HttpError(f"sends more than {MAX_BLOB} bytes", status=400)
            digest.update(chunk)
            target.write(chunk)
            progress.advance(len(chunk))
    if size == 0:
        raise HttpError("sends nothing")
    return Found(digest.hexdigest(), size)
