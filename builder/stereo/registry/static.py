"""An OCI layout that any web server offers as plain files: read only, with nothing but GET and HEAD."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from stereo.errors import UsageError
from stereo.registry.documents import Descriptor, digest_of
from stereo.registry.errors import DigestMismatch, NotFound
from stereo.registry.hosts import permitted_hosts
from stereo.registry.layout_index import INDEX_FILE, VERSION_FILE, LayoutIndex, check_version, manifest_named
from stereo.registry.reference import Reference
from stereo.registry.remote import Advance, BlobStream, Limits
from stereo.registry.transport import Transport

_MOST_READ = 1000
"""Documents that are fetched to learn what they refer to: each costs a request."""


class StaticRemote:
    """`Remote` on a web server."""

    def __init__(
        self, reference: Reference, *, plain_http: bool, redirect_hosts: Sequence[str], limits: Limits
    ) -> None:
        self.reference = replace(reference, tag=None, digest=None)
        self._way = Transport(self.reference, plain_http, permitted_hosts(redirect_hosts), limits)

    def tags(self) -> list[str]:
        try:
            return sorted(self._index().tags())
        except NotFound:
            return []

    def get_manifest(self, version: str) -> tuple[Descriptor, bytes]:
        return manifest_named(version, self._index, self._document, self.reference.name)

    def open_blob(
        self, blob: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[BlobStream]:
        return self._way.blob(self._blob_url(blob.digest), blob, offset, length)

    def has_blob(self, blob: Descriptor) -> bool:
        return self._way.has_blob(self._blob_url(blob.digest), blob.size)

    def put_blob(self, blob: Descriptor, content: Path | bytes, advance: Advance = lambda count: None) -> bool:
        self._read_only()

    def put_manifest(self, document: bytes, media_type: str, tag: str | None = None) -> Descriptor:
        self._read_only()

    def remove(self, digest: str) -> None:
        self._read_only()

    def sweep(self, age: float) -> int:
        self._read_only()

    def referrers(self, digest: str) -> list[Descriptor]:
        return self._index().referrers(digest, lambda entry: self._document(entry.digest), most_read=_MOST_READ)

    def catalog(self) -> list[str]:
        raise UsageError("a web server does not say what it has", where=str(self.reference), hint="name a mixtape")

    def _read_only(self) -> NoReturn:
        hint = "publish to an OCI layout (oci:PATH), and copy that to where the web server has its files"
        raise UsageError("a web server only gives", where=str(self.reference), hint=hint)

    def _url(self, path: str) -> str:
        below = f"{self.reference.path}/" if self.reference.path else ""
        return f"{self._way.hosts.base}/{below}{path}"

    def _blob_url(self, digest: str) -> str:
        return self._url(f"blobs/sha256/{digest.removeprefix('sha256:')}")

    def _index(self) -> LayoutIndex:
        version, index = self._url(VERSION_FILE), self._url(INDEX_FILE)
        check_version(self._way.get(version).content, version)
        return LayoutIndex.parse(self._way.get(index).content, index)

    def _document(self, digest: str) -> bytes:
        document = self._way.get(self._blob_url(digest)).content
        if (found := digest_of(document)) != digest:
            raise DigestMismatch(f"asked for {digest}, gives {found}", where=str(self.reference))
        return document
