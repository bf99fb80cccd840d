"""A repository of an OCI registry: the requests of OCI's distribution-spec 1.1.

Registries that have no referrers API (docker-registry 2.8 is one) keep them under the tag sha256-HEX, as the spec's
"referrers tag schema" says. Blobs go in one PUT with a body streamed from the file.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar, cast
from urllib.parse import urlencode, urlsplit

import oras.container  # type: ignore[import-untyped]
import requests

from stereo.assemble.files import failures_explained, open_plain
from stereo.errors import shown
from stereo.registry import media
from stereo.registry.documents import Descriptor, digest_of
from stereo.registry.errors import DigestMismatch, Malformed, NotFound, RegistryError, no_version
from stereo.registry.hosts import permitted_hosts
from stereo.registry.layout_index import entry_of
from stereo.registry.parse import MAX_DOCUMENT, is_digest, media_type_of, parse_index
from stereo.registry.reference import TAG, Reference
from stereo.registry.remote import MAX_REFERRERS, MAX_REPOSITORIES, MAX_TAGS, Advance, BlobStream, Limits
from stereo.registry.strict import canonical, read_json
from stereo.registry.transport import Transport

Row = TypeVar("Row")
PAGE = 1000
_ACCEPT = {"Accept": f"{media.IMAGE_INDEX}, {media.IMAGE_MANIFEST}"}
_RACES = 5
_NAME = re.compile(r"[a-z0-9._/-]{1,255}")


class HttpRemote:
    """`Remote` in a registry."""

    def __init__(
        self, reference: Reference, *, plain_http: bool, redirect_hosts: Sequence[str], limits: Limits
    ) -> None:
        self.reference = replace(reference, tag=None, digest=None)
        self._way = Transport(self.reference, plain_http, permitted_hosts(redirect_hosts), limits)
        self._has_referrers: bool | None = None
        self._listing = threading.Lock()

    def tags(self) -> list[str]:
        try:
            return sorted(self._listed(self._url("tags/list"), "tags", TAG, MAX_TAGS))
        except NotFound:
            return []

    def get_manifest(self, version: str) -> tuple[Descriptor, bytes]:
        try:
            response = self._way.get(self._url(f"manifests/{version}"), _ACCEPT)
        except NotFound as error:
            raise no_version(version, self.reference.name) from error
        document, digest = response.content, digest_of(response.content)
        if is_digest(version) and digest != version:
            raise DigestMismatch(f"asked for {version}, gives {digest}", where=str(self.reference))
        if (said := response.headers.get("Docker-Content-Digest", digest)) != digest:
            raise DigestMismatch(f"calls {digest} {shown(said, 80)}", where=str(self.reference))
        return Descriptor(media_type_of(document, digest), digest, len(document)), document

    def open_blob(
        self, blob: Descriptor, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[BlobStream]:
        return self._way.blob(self._url(f"blobs/{blob.digest}"), blob, offset, length)

    def has_blob(self, blob: Descriptor) -> bool:
        return self._way.has_blob(self._url(f"blobs/{blob.digest}"), blob.size)

    def put_blob(self, blob: Descriptor, content: Path | bytes, advance: Advance = lambda count: None) -> bool:
        if self.has_blob(blob):
            return False
        if isinstance(content, bytes):
            self._way.patiently(lambda: self._upload(blob, _Body(BytesIO(content), blob, advance)))
            return True
        with failures_explained("cannot be published", content.parent), open_plain(content) as file:
            self._way.patiently(lambda: self._upload(blob, _Body(cast(BinaryIO, file), blob, advance)))
        return True

    def put_manifest(self, document: bytes, media_type: str, tag: str | None = None) -> Descriptor:
        described = Descriptor(media_type, digest_of(document), len(document))
        if len(document) > MAX_DOCUMENT:
            raise Malformed(f"is larger than {MAX_DOCUMENT} bytes", where=described.digest)
        if tag is not None:
            self.reference.with_tag(tag)  # refuses what is none
        entry = entry_of(document, described)
        response = self._put_document(document, media_type, tag or described.digest)
        subject = entry.annotations.get(media.SUBJECT)
        if subject and "OCI-Subject" not in response.headers:
            told = {key: text for key, text in entry.annotations.items() if key != media.SUBJECT}
            with self._listing:
                self._refer(subject, replace(entry, annotations=told))
        return described

    def referrers(self, digest: str) -> list[Descriptor]:
        if self._has_referrers is not False:
            try:
                found = list(self._pages(self._url(f"referrers/{digest}"), _entries, MAX_REFERRERS))
                self._has_referrers = True
                return found
            except RegistryError as error:
                if self._has_referrers or not isinstance(error, NotFound | Malformed):
                    raise
                self._has_referrers = False  # also where something else answers than the API
        return self._fallback(digest)

    def remove(self, digest: str) -> None:
        try:
            self._way.patiently(lambda: self._way.ask("DELETE", self._url(f"manifests/{digest}"), accept=(202,)))
        except NotFound:
            return

    def sweep(self, age: float) -> int:
        return 0

    def catalog(self) -> list[str]:
        below = f"{self.reference.repository}/" if self.reference.repository else ""
        names = self._listed(f"{self._way.hosts.base}/v2/_catalog", "repositories", _NAME, MAX_REPOSITORIES)
        return sorted(name.removeprefix(below) for name in names if name.startswith(below))

    # Reading

    def _url(self, path: str) -> str:
        host = urlsplit(self._way.hosts.base).netloc
        prefix = oras.container.Container(self.reference.repository, registry=host).api_prefix
        return f"{self._way.hosts.base}/v2/{prefix}/{path}"

    def _listed(self, url: str, key: str, form: re.Pattern[str], most: int) -> set[str]:
        def read(response: requests.Response) -> list[str]:
            table = read_json(response.content, limit=MAX_DOCUMENT, what=f"list of {key}")
            names = (table.get(key) or []) if isinstance(table, dict) else None
            if not isinstance(names, list) or not all(isinstance(name, str) and form.fullmatch(name) for name in names):
                raise Malformed(f"gives a list of {key} with others in it", where=self.reference.host)
            return names

        return set(self._pages(f"{url}?{urlencode({'n': PAGE})}", read, most))

    def _pages(self, url: str, read: Callable[[requests.Response], list[Row]], most: int) -> Iterator[Row]:
        """The rows of all pages, by the Link header of RFC 5988. Raises `Malformed` when they have no end."""
        seen, before = set[str](), -1
        while len(seen) > before:
            before = len(seen)
            response = self._way.get(url, {"Accept": f"{media.IMAGE_INDEX}, application/json"})
            rows = read(response)
            seen.update(map(repr, rows))
            if len(seen) > most:
                raise Malformed(f"gives a list of more than {most}", where=self.reference.host)
            yield from rows
            following = response.links.get("next", {}).get("url")
            if following is None:
                return
            url = self._way.hosts.own(url, following, "the next page of a list")
        raise Malformed("gives a list that does not end", where=self.reference.host)

    def _fallback(self, digest: str) -> list[Descriptor]:
        try:
            _, document = self.get_manifest(digest.replace(":", "-"))
        except NotFound:
            return []
        return list(parse_index(document, f"referrers of {digest}").entries)

    # Writing

    def _put_document(self, document: bytes, media_type: str, version: str) -> requests.Response:
        def put() -> requests.Response:
            headers = {"Content-Type": media_type}
            return self._way.ask(
                "PUT", self._url(f"manifests/{version}"), headers=headers, body=document, accept=(201,)
            )

        return self._way.patiently(put)

    def _refer(self, subject: str, entry: Descriptor) -> None:
        """Have the tag of `subject` list `entry` too. Another writer's list may replace ours, so it is read again."""
        for _ in range(_RACES):
            there = self._fallback(subject)
            if any(one.digest == entry.digest for one in there):
                return
            listed = [one.as_json() for one in (*there, entry)]
            document = canonical({"schemaVersion": 2, "mediaType": media.IMAGE_INDEX, "manifests": listed})
            self._put_document(document, media.IMAGE_INDEX, subject.replace(":", "-"))
        raise RegistryError("does not keep what refers to another document", where=str(self.reference))

    def _upload(self, blob: Descriptor, body: _Body) -> None:
        start = self._url("blobs/uploads/")
        begun = self._way.ask("POST", start, headers={"Content-Length": "0"}, accept=(202,))
        location = self._way.hosts.own(start, begun.headers.get("Location", ""), "the place for an upload")
        url = f"{location}{'&' if urlsplit(location).query else '?'}{urlencode({'digest': blob.digest})}"
        try:
            self._way.ask("PUT", url, headers={"Content-Type": media.OCTETS}, body=body, accept=(201,))
        except RegistryError:
            body.rewind()
            raise


class _Body:
    """Exactly the bytes that a blob declares, as requests reads them. `rewind` takes back what was told of them."""

    def __init__(self, file: BinaryIO, blob: Descriptor, advance: Advance) -> None:
        self._file, self._blob, self._advance = file, blob, advance
        self._sent = 0
        file.seek(0)

    def __len__(self) -> int:
        return self._blob.size

    def read(self, size: int = -1) -> bytes:
        left = self._blob.size - self._sent
        piece = self._file.read(left if size < 0 else min(size, left))
        if left and not piece:
            raise DigestMismatch("became shorter while it was sent", where=self._blob.digest)
        self._sent += len(piece)
        self._advance(len(piece))
        return piece

    def rewind(self) -> None:
        """Begin again."""
        self._advance(-self._sent)
        self._sent = 0
        self._file.seek(0)


def _entries(response: requests.Response) -> list[Descriptor]:
    return list(parse_index(response.content, "referrers").entries)
