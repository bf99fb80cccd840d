"""What publishing a dist puts into a registry, to the last digest, computed before anything is sent.

Blobs are the files of the dist; documents name them (`registry.documents`); referrers say what else is known of it:
SBOMs, signed statements, checksums, the frames of its disks. The same dist always gives the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stereo.assemble.files import open_plain
from stereo.distribution import frames
from stereo.errors import StereoError, UsageError, shown
from stereo.model.manifest import (
    ATTESTATIONS,
    DISK_FILES,
    MANIFEST_FILE,
    MAX_BYTES,
    SIGNATURE_FILES,
    Manifest,
    is_release,
    parse_manifest,
)
from stereo.registry import media
from stereo.registry.documents import (
    EMPTY,
    Descriptor,
    describe,
    documents_of,
    index_entry,
    referrer,
)
from stereo.registry.strict import canonical
from stereo.trust import envelope, statement
from stereo.trust.dist import read_statements

_MAX_SMALL = 64 << 10
_SIGN_AGAIN = "sign it again: `stereo sign`"


@dataclass(frozen=True)
class Blob:
    """A blob, and where its bytes come from."""

    descriptor: Descriptor
    content: Path | bytes


@dataclass(frozen=True)
class Document:
    """A document that refers to another, and the blobs that it names."""

    data: bytes
    described: Descriptor
    blobs: tuple[Blob, ...]


@dataclass(frozen=True)
class Shipment:
    """Everything of one dist. `manifests` are by disk format, `entries` what an index says of them.

    `digests` is SHA-256 (hexadecimal) by file name of what the manifest names, the manifest's own, and by "oci:raw"
    and the like of its documents: what statements speak of. `statements` are (file name, envelope).
    """

    manifest: Manifest
    digests: Mapping[str, str]
    blobs: tuple[Blob, ...]
    manifests: Mapping[str, bytes]
    entries: tuple[Descriptor, ...]
    referrers: tuple[Document, ...]
    statements: tuple[tuple[str, bytes], ...]

    @property
    def subject(self) -> Descriptor:
        """What the referrers refer to: the raw manifest."""
        return self.entries[0]

    def all_blobs(self) -> tuple[Blob, ...]:
        """Each once, the largest first."""
        every = {blob.descriptor.digest: blob for one in self.referrers for blob in one.blobs}
        every |= {blob.descriptor.digest: blob for blob in self.blobs}
        return tuple(sorted(every.values(), key=lambda blob: (-blob.descriptor.size, blob.descriptor.digest)))


def shipment_of(dist: Path) -> Shipment:
    """What publishing the dist makes. Whether its files are what manifest and checksums say, the caller finds out.

    Raises UsageError for what must never be published, StereoError for statements about something else, OSError.
    """
    data = _small(dist / MANIFEST_FILE, MAX_BYTES)
    manifest = parse_manifest(data, str(dist / MANIFEST_FILE))
    refuse_unpublishable(dist, manifest)
    files, subjects = statement.file_digests(manifest, data), statement.subjects_of(manifest, data)
    sizes = {name: size for name, _, size in manifest.files()} | {MANIFEST_FILE: len(data)}
    documents = documents_of(manifest, files[MANIFEST_FILE], len(data))
    entries = tuple(index_entry(documents.manifests[name], name, manifest.arch) for name in media.FORMATS)
    titles = {title: kind for name in media.FORMATS for title, kind in media.layers_of(name).items()}
    blobs = [_file(dist, title, kind, files[title], sizes[title]) for title, kind in titles.items()]
    found, _ = read_statements(dist)  # what is none of them, `trust.dist.examine` names
    statements = [(Path(name).name, text) for name, text in found]
    for name, text in statements:
        _refuse_others_statement(name, text, files)
    sboms = [_file(dist, name, kind, files[name], sizes[name]) for name, kind in media.SBOMS.items()]
    referrers = [_document(entries[0], blob.descriptor.media_type, [blob]) for blob in sboms]
    referrers += _checksums(dist, entries[0])
    referrers += [statement_document(name, text, entries[0]) for name, text in statements]
    referrers += [_frames(dist / packed, entries[0]) for _, packed in DISK_FILES.values()]
    digests = {**subjects, **files}
    empty = Blob(EMPTY, media.EMPTY_BYTES)
    return Shipment(
        manifest, digests, (*blobs, empty), documents.manifests, entries, tuple(referrers), tuple(statements)
    )


def refuse_unpublishable(dist: Path, manifest: Manifest) -> None:
    """Raises UsageError for a dist that must never be published, and for one of which only a part is here."""
    release = "build a release: `stereo build MIXTAPE --version YYYY.MM.DD.N`"
    if manifest.dev:
        raise UsageError("is of a dev profile: it must never be published", where=str(dist), hint=release)
    if not is_release(manifest.version):
        what = f"has the version {manifest.version}, and only releases are published (YYYY.MM.DD.N)"
        raise UsageError(what, where=str(dist), hint=release)
    for name, _, _ in manifest.files():
        if not (dist / name).is_file():
            hint = "pull it again with `--format all`, or publish it from where it was built"
            raise UsageError(f"{name} is not here, and only a whole dist is published", where=str(dist), hint=hint)


def statement_document(name: str, data: bytes, subject: Descriptor) -> Document:
    """What carries a signed statement. Raises StereoError if it is none."""
    kind = envelope.parse_envelope(data, name).statement.predicate_type
    blob = Blob(describe(data, media.DSSE, title=name), data)
    return _document(subject, media.DSSE, [blob], {media.PREDICATE_TYPE: kind})


def cosign_tag(subject: Descriptor) -> str:
    """Under which tag cosign looks for the statements about a document."""
    return f"{subject.digest.replace(':', '-')}.att"


def cosign_layer(name: str, data: bytes) -> Descriptor:
    """A statement as cosign's document names it. It looks for both annotations; the signature is in the envelope."""
    kind = envelope.parse_envelope(data, name).statement.predicate_type
    return replace(
        describe(data, media.DSSE), annotations={"dev.cosignproject.cosign/signature": "", media.PREDICATE_TYPE: kind}
    )


def cosign_document(layers: Iterable[Descriptor]) -> bytes:
    """What cosign finds under `cosign_tag`: the statements `layers`, in the order of their digests."""
    every = {layer.digest: layer for layer in layers}
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": media.IMAGE_MANIFEST,
            "artifactType": media.DSSE,
            "config": EMPTY.as_json(),
            "layers": [every[digest].as_json() for digest in sorted(every)],
        }
    )


def _file(dist: Path, name: str, media_type: str, sha256: str, size: int) -> Blob:
    return Blob(Descriptor(media_type, f"sha256:{sha256}", size, {media.TITLE: name}), dist / name)


def _document(
    subject: Descriptor, artifact_type: str, blobs: Sequence[Blob], annotations: Mapping[str, str] | None = None
) -> Document:
    data = referrer(subject, artifact_type, [blob.descriptor for blob in blobs], annotations or {})
    described = replace(describe(data, media.IMAGE_MANIFEST), artifact_type=artifact_type)
    return Document(data, described, tuple(blobs))


def _checksums(dist: Path, subject: Descriptor) -> Iterator[Document]:
    """SHA256SUMS with what of its signatures is there; nothing for a dist that nobody signed."""
    text, *signatures = SIGNATURE_FILES
    if not (dist / text).exists():
        return
    here = [text, *(name for name in signatures if (dist / name).exists())]
    contents = {name: _small(dist / name, _MAX_SMALL) for name in here}
    kinds = {name: media.OCTETS if name.endswith(".gpg") else media.PLAIN_TEXT for name in here}
    blobs = [Blob(describe(contents[name], kinds[name], title=name), contents[name]) for name in here]
    yield _document(subject, media.CHECKSUMS, blobs)


def _frames(packed: Path, subject: Descriptor) -> Document:
    data = frames.render(frames.frames_of(packed))
    return _document(
        subject, media.FRAMES, [Blob(describe(data, media.FRAMES, title=f"{packed.name}.frames.json"), data)]
    )


def _refuse_others_statement(name: str, data: bytes, files: Mapping[str, str]) -> None:
    """Raises StereoError for a statement that does not speak of exactly these files."""
    where = f"{ATTESTATIONS}/{shown(name, 80)}"
    said = envelope.parse_envelope(data, where).statement.subjects
    if {key: digest for key, digest in said.items() if not key.startswith("oci:")} != dict(files):
        raise StereoError("is a statement about other files than those of this dist", where=where, hint=_SIGN_AGAIN)


def _small(path: Path, limit: int) -> bytes:
    with open_plain(path) as file:
        data = file.read(limit + 1) or b""
    if len(data) > limit:
        raise StereoError(f"is larger than {limit} bytes", where=str(path))
    return data
