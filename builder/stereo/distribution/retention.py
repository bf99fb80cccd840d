"""Removes published versions that nobody needs any more, and nothing that a tag which stays leads to.

What stays is the newest releases, and whatever a floating tag (`latest`) names. A version goes index first, so that no
tag ever names what is half gone; then what only it had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from stereo.distribution.merge import release_number, version_of
from stereo.distribution.shipment import cosign_tag
from stereo.errors import UsageError
from stereo.model.manifest import is_release
from stereo.registry import media
from stereo.registry.documents import Descriptor
from stereo.registry.errors import Malformed, RegistryError
from stereo.registry.parse import parse_index
from stereo.registry.remote import Remote
from stereo.report import Report

DAY = 86_400.0
_BOOKS = "sha256-"  # tags under which registries and cosign keep what refers to a document


@dataclass(frozen=True)
class Retired:
    """What was removed: versions, the oldest first, and the bytes that this freed, as far as is known."""

    versions: tuple[str, ...]
    freed: int


def retire(remote: Remote, keep: int, *, report: Report, age: float = DAY) -> Retired:
    """Remove all releases but the newest `keep` (at least 1) and those that floating tags name.

    What a folder holds beyond that goes when nobody sent it, or counted on it, for `age` seconds: somebody may be
    publishing now. Raises UsageError, StereoError, and RegistryError, as when a registry lets nobody remove anything.
    """
    if keep < 1:
        raise UsageError("at least one version stays", where=f"keep {keep}")
    tags = remote.tags()
    named = {tag: remote.get_manifest(tag) for tag in tags if not tag.startswith(_BOOKS)}
    leaving = _leaving({tag: document for tag, (_, document) in named.items()}, keep)
    if leaving:
        there = {tag: remote.get_manifest(tag)[0].digest for tag in tags if tag.startswith(_BOOKS)}
        kept = {digest for tag in named.keys() - {*leaving} for digest in _documents(remote, *named[tag], there)}
        gone = [digest for tag in leaving for digest in _documents(remote, *named[tag], there)]
        with report.step(f"Removing {', '.join(leaving)}"):
            for digest in dict.fromkeys(gone):
                if digest not in kept:
                    _remove(remote, digest)
    return Retired(leaving, remote.sweep(age))


def _leaving(named: Mapping[str, bytes], keep: int) -> tuple[str, ...]:
    """Which of these tags (with what they name) shall go, the oldest first."""
    releases = sorted(filter(is_release, named), key=release_number)
    floating = [named[tag] for tag in named if not is_release(tag)]
    said = {version_of(document) for document in floating}
    return tuple(tag for tag in releases[:-keep] if tag not in said and named[tag] not in floating)


def _remove(remote: Remote, digest: str) -> None:
    try:
        remote.remove(digest)
    except RegistryError as error:
        if type(error) is not RegistryError or "405" not in error.what:
            raise
        hint = "docker-registry does with REGISTRY_STORAGE_DELETE_ENABLED=true"
        raise RegistryError("lets nobody remove anything", where=str(remote.reference), hint=hint) from error


def _documents(remote: Remote, described: Descriptor, document: bytes, there: dict[str, str]) -> Iterator[str]:
    """The digests of all documents of a version, its index first. `there` is digest by tag, of the books."""
    yield described.digest
    yield from _books(described, there)
    entries: Iterable[Descriptor] = (described,)
    if described.media_type == media.IMAGE_INDEX:
        try:
            entries = parse_index(document).entries
        except Malformed:  # no mixtape, so only the document itself is known
            return
    for entry in entries:
        yield entry.digest
        yield from (one.digest for one in remote.referrers(entry.digest))
        yield from _books(entry, there)


def _books(subject: Descriptor, there: dict[str, str]) -> Iterator[str]:
    for tag in (subject.digest.replace(":", "-"), cosign_tag(subject)):
        if tag in there:
            yield there[tag]
