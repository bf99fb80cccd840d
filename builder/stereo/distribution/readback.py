"""Reads back what was published and compares it: only then does a tag come to name it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stereo.distribution.parallel import side_by_side
from stereo.distribution.shipment import Blob
from stereo.registry.documents import Descriptor, digest_of
from stereo.registry.errors import DigestMismatch, NotFound, RegistryError
from stereo.registry.remote import Advance, Remote, checked_blob
from stereo.report import Report

_AGAIN = "publish again: what is missing is sent again, and no tag names it before"


def refuse_lost_blobs(remote: Remote, blobs: Iterable[Blob], report: Report, *, jobs: int) -> None:
    """Raises RegistryError unless every blob is there: in a folder all are read, elsewhere asked for by digest.

    A registry holds blobs against their digests when it takes them; a disk does not.
    """
    descriptors = [blob.descriptor for blob in blobs]
    reads = remote.reference.kind == "layout"

    def check(blob: Descriptor, advance: Advance) -> None:
        if reads:
            for _ in checked_blob(remote, blob, advance):
                pass
            return
        if not remote.has_blob(blob):
            raise NotFound(f"blob {blob.digest} is gone again", where=str(remote.reference), hint=_AGAIN)
        advance(blob.size)

    total = sum(blob.size for blob in descriptors)
    side_by_side("Reading back", total, descriptors, check, report, jobs=jobs)


def refuse_lost_documents(remote: Remote, documents: Iterable[bytes]) -> None:
    """Raises RegistryError unless each document comes back under its digest, byte for byte."""
    for document in documents:
        digest = digest_of(document)
        _, found = remote.get_manifest(digest)
        if found != document:
            raise DigestMismatch(f"gives something else for {digest}", where=str(remote.reference), hint=_AGAIN)


def refuse_lost_referrers(remote: Remote, subject: Descriptor, wanted: Mapping[str, str]) -> None:
    """Raises RegistryError unless each of `wanted` (artifact type by digest) is among what refers to `subject`."""
    listed = {one.digest for one in remote.referrers(subject.digest)}
    for digest, kind in wanted.items():
        if digest not in listed:
            what = f"does not list {kind} ({digest}) among what refers to {subject.digest}"
            raise RegistryError(what, where=str(remote.reference), hint=_AGAIN)
