"""The OCI documents of a published mixtape, written: pure, and the same bytes for everyone, so that their digests can
be signed before anything is pushed. OCI image-spec 1.1: manifest.md, image-index.md, descriptor.md.

A mixtape is an index with one manifest per architecture and disk format, each with the same six layers that clients of
the original expect. All else (SBOMs, signed statements, checksums) refers to the raw manifest of its architecture.
`parse.py` is the other direction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stereo.model.architecture import Architecture
from stereo.model.manifest import DISK_FILES, MANIFEST_FILE, Manifest
from stereo.registry import media
from stereo.registry.strict import canonical

OS = "linux"


@dataclass(frozen=True)
class Platform:
    """What a manifest runs on, in OCI's (Go's) words: "linux", and "amd64" or "arm64"."""

    os: str
    architecture: str


@dataclass(frozen=True)
class Descriptor:
    """Points at a blob or document. `digest` is "sha256:HEX", `size` bytes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None
    platform: Platform | None = None

    @property
    def title(self) -> str | None:
        """The file name that it claims."""
        return self.annotations.get(media.TITLE)

    def as_json(self) -> dict[str, Any]:
        """As documents hold it."""
        content: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            content["annotations"] = dict(self.annotations)
        if self.artifact_type is not None:
            content["artifactType"] = self.artifact_type
        if self.platform is not None:
            content["platform"] = {"os": self.platform.os, "architecture": self.platform.architecture}
        return content


def digest_of(data: bytes) -> str:
    """OCI's name for `data`: "sha256:HEX"."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def describe(data: bytes, media_type: str, *, title: str | None = None) -> Descriptor:
    """The descriptor of `data`, under the file name `title` when given."""
    annotations = {} if title is None else {media.TITLE: title}
    return Descriptor(media_type, digest_of(data), len(data), annotations)


EMPTY = describe(media.EMPTY_BYTES, media.EMPTY)
"""The config of every manifest of ours. Registries want its blob (`media.EMPTY_BYTES`) to be there."""


def platform_of(arch: str) -> Platform:
    """The platform of a mixtape.toml's `arch`, as "x86_64-linux"."""
    return Platform(OS, Architecture.from_system(arch).debian)  # Debian and Go name these two alike


def image_manifest(manifest: Manifest, manifest_digest: str, manifest_size: int, disk_format: str) -> bytes:
    """The OCI manifest of one disk format ("raw" or "qcow2") of the dist that `manifest` describes.

    `manifest_digest` is the SHA-256 (hexadecimal) of its mixtape.toml, `manifest_size` the bytes of that.
    """
    known = {name: (digest, size) for name, digest, size in manifest.files()}
    known[MANIFEST_FILE] = (manifest_digest, manifest_size)
    layers = []
    for title, media_type in media.layers_of(disk_format).items():
        digest, size = known[title]
        layers.append(Descriptor(media_type, f"sha256:{digest}", size, {media.TITLE: title}))
    annotations = {
        media.TITLE: manifest.name,
        media.VERSION: manifest.version,
        media.CREATED: _timestamp(manifest.build.epoch),
        media.REVISION: manifest.build.source_revision,
    }
    return _manifest(media.MIXTAPE, layers, annotations)


def index_entry(document: bytes, disk_format: str, arch: str) -> Descriptor:
    """What an index says of an image manifest; `arch` as in mixtape.toml."""
    return Descriptor(
        media.IMAGE_MANIFEST,
        digest_of(document),
        len(document),
        {media.FORMAT: disk_format},
        artifact_type=media.MIXTAPE,
        platform=platform_of(arch),
    )


def image_index(name: str, version: str, entries: Sequence[Descriptor]) -> bytes:
    """The index of a version: amd64 before arm64, and of each raw before qcow2, in whatever order `entries` come.

    They are what `index_entry` made, or what `parse_index` read of an index of ours (platform and format are said).
    """

    def place(entry: Descriptor) -> tuple[str, int]:
        assert entry.platform is not None
        return entry.platform.architecture, media.FORMATS.index(entry.annotations[media.FORMAT])

    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": media.IMAGE_INDEX,
            "artifactType": media.MIXTAPE,
            "manifests": [entry.as_json() for entry in sorted(entries, key=place)],
            "annotations": {media.TITLE: name, media.VERSION: version},
        }
    )


def referrer(
    subject: Descriptor, artifact_type: str, layers: Sequence[Descriptor], annotations: Mapping[str, str]
) -> bytes:
    """A manifest that says something about `subject`; its layers hold what it says."""
    plain = Descriptor(subject.media_type, subject.digest, subject.size)
    return _manifest(artifact_type, layers, annotations, subject=plain)


@dataclass(frozen=True)
class Documents:
    """All OCI documents of one dist. `index` is that of a version with this one architecture."""

    manifests: Mapping[str, bytes]
    index: bytes

    def subjects(self) -> dict[str, str]:
        """SHA-256 (hexadecimal) by the name under which statements speak of them."""
        documents = {**self.manifests, "index": self.index}
        return {f"oci:{name}": hashlib.sha256(data).hexdigest() for name, data in documents.items()}


def documents_of(manifest: Manifest, manifest_digest: str, manifest_size: int) -> Documents:
    """The documents that publishing this dist makes, from its mixtape.toml alone."""
    manifests = {name: image_manifest(manifest, manifest_digest, manifest_size, name) for name in DISK_FILES}
    entries = [index_entry(data, name, manifest.arch) for name, data in manifests.items()]
    return Documents(manifests, image_index(manifest.name, manifest.version, entries))


def _manifest(
    artifact_type: str,
    layers: Sequence[Descriptor],
    annotations: Mapping[str, str],
    subject: Descriptor | None = None,
) -> bytes:
    content: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media.IMAGE_MANIFEST,
        "artifactType": artifact_type,
        "config": EMPTY.as_json(),
        "layers": [layer.as_json() for layer in layers],
    }
    if annotations:
        content["annotations"] = dict(annotations)
    if subject is not None:
        content["subject"] = subject.as_json()
    return canonical(content)


def _timestamp(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
