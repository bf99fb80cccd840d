"""What every place of published mixtapes can do, whether a registry, a folder or a web server; and how to open one.

Whoever reads gets only what was checked: a document has the digest it was asked for by, a blob never gives more bytes
than its descriptor declares. Whether a *whole* blob has its digest, the reader of the stream decides (`checked_blob`).
Errors are those of `errors.py`, from every method.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stereo.registry.documents import Descriptor
from stereo.registry.errors import DigestMismatch
from stereo.registry.reference import Reference

MAX_TAGS = 10_000
MAX_REPOSITORIES = 10_000
MAX_REFERRERS = 1000
LATEST = "latest"

Advance = Callable[[int], object]
"""Told of bytes as they go, such as `Progress.advance`."""


@dataclass(frozen=True)
class BlobStream:
    """The bytes of a blob as they come. `offset` is where they begin: 0 if the range that was asked for was ignored."""

    offset: int
    pieces: Iterator[bytes]


class Remote(Protocol):
    """One repository. Its methods may be called from several threads at once."""

    reference: Reference
    """The place, without tag and digest."""

    def tags(self) -> list[str]:
        """All tags, sorted; none when the repository is not there. At most MAX_TAGS."""

    def get_manifest(self, version: str) -> tuple[Descriptor, bytes]:
        """The document (of at most parse.MAX_DOCUMENT bytes) that a tag or digest names, and what it says it is.

        The digest is that of the bytes that came; asked for by digest, another one raises `DigestMismatch`.
        """

    def open_blob(
        self, blob: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[BlobStream]:
        """The bytes of a blob from `offset` on, `length` of them or all. Raises as soon as there are too many or few.

        Who serves no ranges gives all from the start: see `BlobStream.offset`.
        """

    def has_blob(self, blob: Descriptor) -> bool:
        """Whether the blob is there, in its size."""

    def put_blob(self, blob: Descriptor, content: Path | bytes, advance: Advance = lambda count: None) -> bool:
        """Store a blob, if it is not there yet; says whether it was sent. A file is streamed."""

    def put_manifest(self, document: bytes, media_type: str, tag: str | None = None) -> Descriptor:
        """Store a document under its digest, and if `tag` is given, have that name it, in one step.

        One with a `subject` is found by `referrers` from then on.
        """

    def referrers(self, digest: str) -> list[Descriptor]:
        """What refers to the document of that digest, with artifact types and annotations as far as they are told.

        At most MAX_REFERRERS. What each really says is to be read from its document.
        """

    def remove(self, digest: str) -> None:
        """Take the document of that digest away, with every tag that names it; nothing happens where it is not."""

    def sweep(self, age: float) -> int:
        """Give back the bytes of what no tag leads to and nothing has been done to for `age` seconds; says how many.

        A registry does that by itself, and says 0.
        """

    def catalog(self) -> list[str]:
        """Names of all repositories of the registry; of a folder's root, of the layouts in it. Sorted.

        The one method that also a root (`parse_root`) has.
        """


@dataclass(frozen=True)
class Limits:
    """How patient to be. Seconds."""

    connect: float = 10
    stalled: float = 30
    answer: float = 300
    """For a whole answer that is not a blob: a few MB at most."""
    attempts: int = 4
    """How often a request that may be repeated is tried when nobody answers or the registry asks for time."""
    longest_wait: float = 30
    """Between two attempts, whatever Retry-After says."""


def open_remote(
    reference: Reference,
    *,
    plain_http: bool = False,
    redirect_hosts: Sequence[str] = (),
    limits: Limits = Limits(),
) -> Remote:
    """The remote that `reference` (or a root) names. Nothing is asked of it yet.

    `plain_http` allows http to hosts other than this machine; `redirect_hosts` are further hosts that may serve the
    blobs of this registry. Raises UsageError for what can never work.
    """
    match reference.kind:
        case "layout":
            from stereo.registry.layout import LayoutRemote

            return LayoutRemote(reference)
        case "static":
            from stereo.registry.static import StaticRemote

            return StaticRemote(reference, plain_http=plain_http, redirect_hosts=redirect_hosts, limits=limits)
        case "registry":
            from stereo.registry.http import HttpRemote

            return HttpRemote(reference, plain_http=plain_http, redirect_hosts=redirect_hosts, limits=limits)


def checked_blob(remote: Remote, blob: Descriptor, advance: Advance = lambda count: None) -> Iterator[bytes]:
    """All bytes of a blob. Raises `DigestMismatch` after the last if they were not those of its digest."""
    digest = hashlib.sha256()
    with remote.open_blob(blob) as stream:
        for piece in stream.pieces:
            digest.update(piece)
            advance(len(piece))
            yield piece
    if f"sha256:{digest.hexdigest()}" != blob.digest:
        found = f"sha256:{digest.hexdigest()}"
        raise DigestMismatch(f"blob {blob.digest} came with the digest {found}", where=str(remote.reference))


def small_blob(remote: Remote, blob: Descriptor, limit: int) -> bytes:
    """A whole small blob, checked. Raises `DigestMismatch` also if it declares more than `limit` bytes."""
    if blob.size > limit:
        raise DigestMismatch(
            f"blob {blob.digest} declares {blob.size} bytes, more than {limit}", where=str(remote.reference)
        )
    return b"".join(checked_blob(remote, blob))
