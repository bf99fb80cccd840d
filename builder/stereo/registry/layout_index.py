"""index.json of an OCI layout: which documents are there, and under which tags. Pure; image-spec 1.1, image-layout.md.

An entry with the annotation `org.opencontainers.image.ref.name` is a tag. All other documents are listed too, as oras
does: so that it and others find what refers to what, and can be asked for a document by its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from stereo.registry import media
from stereo.registry.documents import Descriptor
from stereo.registry.errors import Malformed, no_version
from stereo.registry.parse import MAX_DOCUMENT, is_digest, media_type_of, parse_artifact, parse_index
from stereo.registry.remote import MAX_REFERRERS
from stereo.registry.strict import canonical, read_json

INDEX_FILE = "index.json"
VERSION_FILE = "oci-layout"
VERSION = {"imageLayoutVersion": "1.0.0"}
MAX_INDEX = MAX_DOCUMENT
MAX_ENTRIES = 20_000
TOLD = (media.PREDICATE_TYPE, media.TITLE, media.CREATED)
"""Annotations of what refers to another, that `referrers` tells."""


def check_version(data: bytes, where: str) -> None:
    """Raises `Malformed` unless `data` is an `oci-layout` file of the version that we know."""
    table = read_json(data, limit=4096, what=where)
    if not isinstance(table, dict) or table.get("imageLayoutVersion") != VERSION["imageLayoutVersion"]:
        raise Malformed("is no OCI layout of version 1.0.0", where=where)


def manifest_named(
    version: str, index: Callable[[], LayoutIndex], read: Callable[[str], bytes], where: str
) -> tuple[Descriptor, bytes]:
    """The document that `version` (a tag or digest) names, of a layout wherever it is; `read` checks the digest.

    Raises NotFound, and whatever `index` and `read` raise.
    """
    digest = version
    if not is_digest(version):
        named = index().tags().get(version)
        if named is None:
            raise no_version(version, where)
        digest = named.digest
    document = read(digest)
    return Descriptor(media_type_of(document, digest), digest, len(document)), document


@dataclass(frozen=True)
class LayoutIndex:
    """What index.json says."""

    entries: tuple[Descriptor, ...] = ()

    @classmethod
    def parse(cls, data: bytes, where: str) -> LayoutIndex:
        """Read one from anywhere. Raises `Malformed`."""
        return cls(parse_index(data, where, limit=MAX_INDEX, most=MAX_ENTRIES).entries)

    def render(self) -> bytes:
        """As the file holds it."""
        entries = [entry.as_json() for entry in self.entries]
        return canonical({"schemaVersion": 2, "mediaType": media.IMAGE_INDEX, "manifests": entries})

    def tags(self) -> dict[str, Descriptor]:
        """By tag, what it names. Of two with one tag, the first."""
        found: dict[str, Descriptor] = {}
        for entry in self.entries:
            if tag := entry.annotations.get(media.REF_NAME):
                found.setdefault(tag, entry)
        return found

    def tagged(self, entry: Descriptor, tag: str) -> LayoutIndex:
        """With `tag` naming `entry`. What it named before stays in, if it is not there under another tag."""
        rest = [one for one in self.entries if one.annotations.get(media.REF_NAME) != tag]
        there = {one.digest for one in rest} | {entry.digest}
        before = [one for one in self.entries if one.annotations.get(media.REF_NAME) == tag]
        kept = [_without(one, media.REF_NAME) for one in before if one.digest not in there]
        unnamed = [one for one in rest if one.digest != entry.digest or media.REF_NAME in one.annotations]
        fresh = replace(entry, annotations={**entry.annotations, media.REF_NAME: tag})
        return LayoutIndex((*unnamed, *kept, fresh))

    def listed(self, entry: Descriptor) -> LayoutIndex:
        """With `entry` in it, tagged or not."""
        return self if any(one.digest == entry.digest for one in self.entries) else LayoutIndex((*self.entries, entry))

    def without(self, digests: Collection[str]) -> LayoutIndex:
        """Without these documents, whatever tags they have."""
        return LayoutIndex(tuple(entry for entry in self.entries if entry.digest not in digests))

    def needed(self, read: Callable[[str], bytes]) -> set[str]:
        """The digests of all that the tags lead to: documents, what refers to them, and blobs. `read` gets a document.

        Raises what `read` raises, and `Malformed`.
        """
        referring: dict[str, list[Descriptor]] = {}
        for entry in self.entries:
            if entry.media_type == media.IMAGE_MANIFEST:
                referring.setdefault(_subject_of(entry, read), []).append(entry)
        found: set[str] = set()
        open_ends = list(self.tags().values())
        while open_ends:
            entry = open_ends.pop()
            if entry.digest in found:
                continue
            found.add(entry.digest)
            document = read(entry.digest)
            if entry.media_type == media.IMAGE_INDEX:
                open_ends += parse_index(document, entry.digest).entries
            else:
                artifact = parse_artifact(document, entry.digest)
                found |= {blob.digest for blob in (artifact.config, *artifact.layers)}
            open_ends += referring.get(entry.digest, ())
        return found

    def referrers(
        self, digest: str, read: Callable[[Descriptor], bytes], *, most_read: int = MAX_ENTRIES
    ) -> list[Descriptor]:
        """What refers to `digest`. `read` gets the document of an entry of which the index does not say it.

        Raises `Malformed`, also when more than `most_read` documents had to be read, and what `read` raises.
        """
        found: dict[str, Descriptor] = {}
        silent = {one.digest for one in self.entries if _is_silent(one)}
        if len(silent) > most_read:
            what = f"does not say of {len(silent)} documents what they refer to: more than anybody reads"
            raise Malformed(what, where=INDEX_FILE, hint="what `stereo publish` wrote does")
        for entry in self.entries:
            if entry.media_type != media.IMAGE_MANIFEST or entry.digest in found:
                continue
            said = entry.annotations.get(media.SUBJECT)
            if said == digest:
                found[entry.digest] = _without(entry, media.SUBJECT, media.REF_NAME)
            elif said is None and (stranger := _referring(entry, digest, read)) is not None:
                found[entry.digest] = stranger
            if len(found) > MAX_REFERRERS:
                raise Malformed(f"more than {MAX_REFERRERS} documents refer to {digest}")
        return list(found.values())


def entry_of(document: bytes, described: Descriptor) -> Descriptor:
    """How the index lists a document. Raises `Malformed`.

    Of a document's own annotations only harmless ones: one might call itself a tag.
    """
    if described.media_type != media.IMAGE_MANIFEST:
        return described
    artifact = parse_artifact(document, described.digest)
    own = {key: artifact.annotations[key] for key in artifact.annotations if key in TOLD}
    own[media.SUBJECT] = artifact.subject.digest if artifact.subject else ""
    return replace(described, artifact_type=artifact.artifact_type, annotations=own)


def _referring(entry: Descriptor, digest: str, read: Callable[[Descriptor], bytes]) -> Descriptor | None:
    """The entry with what its document says of itself, if that refers to `digest`."""
    artifact = parse_artifact(read(entry), entry.digest)
    if artifact.subject is None or artifact.subject.digest != digest:
        return None
    return replace(entry, artifact_type=artifact.artifact_type, annotations=artifact.annotations)


def _subject_of(entry: Descriptor, read: Callable[[str], bytes]) -> str:
    """The digest that a document refers to; "" if to none."""
    if not _is_silent(entry):
        return entry.annotations[media.SUBJECT]
    subject = parse_artifact(read(entry.digest), entry.digest).subject
    return subject.digest if subject else ""


def _is_silent(entry: Descriptor) -> bool:
    return entry.media_type == media.IMAGE_MANIFEST and media.SUBJECT not in entry.annotations


def _without(entry: Descriptor, *names: str) -> Descriptor:
    annotations: Mapping[str, str] = {key: text for key, text in entry.annotations.items() if key not in names}
    return replace(entry, annotations=annotations)
