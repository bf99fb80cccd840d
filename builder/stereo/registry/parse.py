"""The OCI documents of a published mixtape, read: whatever the bytes are, either a frozen model or `Malformed`.

Bounded everywhere, and as strict as clients need: titles are file names of ours and nothing else, no two layers claim
one file, sizes are possible ones. What we do not know of elsewhere in a document is left alone, so that others may add.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stereo.errors import shown
from stereo.model.architecture import Architecture
from stereo.model.manifest import MANIFEST_FILE, MAX_BYTES, MAX_FILE
from stereo.registry import media
from stereo.registry.documents import Descriptor, Platform
from stereo.registry.errors import Malformed
from stereo.registry.strict import read_json

MAX_DOCUMENT = 4 << 20
"""Bytes. OCI's distribution-spec has registries accept manifests of at least this size."""
MAX_ENTRIES = 1024
MAX_LAYERS = 64
MAX_ANNOTATIONS = 64
MAX_TEXT = 4096
MAX_KEY = 256
MAX_BOOT_FILE = 1 << 30
MAX_LINE_FILE = 1 << 16  # cmdline and init
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_LARGEST = {media.KERNEL: MAX_BOOT_FILE, media.INITRD: MAX_BOOT_FILE, media.CMDLINE: MAX_LINE_FILE}
_LARGEST |= {media.INIT: MAX_LINE_FILE, media.MIXTAPE_MANIFEST: MAX_BYTES}


def is_digest(text: str) -> bool:
    """Whether `text` is a digest of the one kind that we take, "sha256:" and 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True)
class Index:
    """An image index: what a version tag names."""

    entries: tuple[Descriptor, ...]
    artifact_type: str | None
    annotations: Mapping[str, str]

    def of_architecture(self, architecture: str) -> dict[str, Descriptor]:
        """By disk format, the manifests for linux on `architecture` ("amd64") that say their format."""
        found: dict[str, Descriptor] = {}
        for entry in self.entries:
            disk_format = entry.annotations.get(media.FORMAT)
            if entry.platform == Platform("linux", architecture) and disk_format in media.FORMATS:
                found.setdefault(disk_format, entry)
        return found

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        """Those that it has a disk for, x86_64 first."""
        return tuple(arch for arch in Architecture if self.of_architecture(arch.debian))


@dataclass(frozen=True)
class Artifact:
    """Any image manifest, such as one that refers to another by its `subject`."""

    artifact_type: str | None
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class MixtapeManifest:
    """The image manifest of a mixtape in one disk format. `layers` are its six, by title, the disk first."""

    disk_format: str
    layers: Mapping[str, Descriptor]
    annotations: Mapping[str, str]

    @property
    def disk(self) -> Descriptor:
        return next(iter(self.layers.values()))

    @property
    def manifest(self) -> Descriptor:
        """The layer with mixtape.toml."""
        return self.layers[MANIFEST_FILE]


def parse_index(data: bytes, what: str = "index", *, limit: int = MAX_DOCUMENT, most: int = MAX_ENTRIES) -> Index:
    """Read an image index of at most `limit` bytes and `most` entries. `what` is how messages name it.

    Raises `Malformed`.
    """
    table = _document(data, media.IMAGE_INDEX, what, limit)
    entries = _list(table, "manifests", most, what)
    parsed = tuple(_descriptor(one, f"{what}: manifests[{at}]") for at, one in enumerate(entries))
    return Index(parsed, _media_type(table, "artifactType", what), _annotations(table, what))


def parse_artifact(data: bytes, what: str = "manifest") -> Artifact:
    """Read any image manifest. Raises `Malformed`."""
    table = _document(data, media.IMAGE_MANIFEST, what)
    layers = _list(table, "layers", MAX_LAYERS, what)
    config = _descriptor(table.get("config"), f"{what}: config")
    artifact_type = _media_type(table, "artifactType", what)
    if artifact_type is None and config.media_type != media.EMPTY:
        artifact_type = config.media_type  # as image-spec 1.1 wants those of 1.0 to be read
    return Artifact(
        artifact_type,
        config,
        tuple(_descriptor(one, f"{what}: layers[{at}]") for at, one in enumerate(layers)),
        _descriptor(table["subject"], f"{what}: subject") if "subject" in table else None,
        _annotations(table, what),
    )


def parse_manifest(data: bytes, what: str = "manifest") -> MixtapeManifest:
    """Read the image manifest of a mixtape. Raises `Malformed` if it has not exactly one each of the six layers.

    Layers of types that are not ours may follow; they are left out.
    """
    artifact = parse_artifact(data, what)
    formats = [name for name, kind in media.DISKS.items() for layer in artifact.layers if layer.media_type == kind]
    if len(formats) != 1:
        raise Malformed(f"has {len(formats)} disk layers instead of one", where=what)
    wanted = media.layers_of(formats[0])
    ours = set(wanted.values())
    layers: dict[str, Descriptor] = {}
    for title, media_type in wanted.items():
        found = [layer for layer in artifact.layers if layer.media_type == media_type]
        if len(found) != 1:
            raise Malformed(f"has {len(found)} layers of type {media_type} instead of one", where=what)
        if found[0].title != title:
            said = "none" if found[0].title is None else repr(shown(found[0].title, 80))
            raise Malformed(f"the title of {media_type} is {said}, not {title!r}", where=what)
        if not 0 < found[0].size <= _LARGEST.get(media_type, MAX_FILE):
            raise Malformed(f"{title} cannot have {found[0].size} bytes", where=what)
        layers[title] = found[0]
    for layer in artifact.layers:
        if layer.media_type not in ours and layer.title in wanted:
            raise Malformed(f"a second layer claims to be {layer.title}", where=what)
    return MixtapeManifest(formats[0], layers, artifact.annotations)


def media_type_of(data: bytes, what: str) -> str:
    """What a document says it is. Raises `Malformed`."""
    table = _object(read_json(data, limit=MAX_DOCUMENT, what=what), what)
    said = _media_type(table, "mediaType", what)
    if said is None:  # optional in image-spec 1.0
        return media.IMAGE_INDEX if "manifests" in table else media.IMAGE_MANIFEST
    return said


def _document(data: bytes, media_type: str, what: str, limit: int = MAX_DOCUMENT) -> dict[str, Any]:
    table = _object(read_json(data, limit=limit, what=what), what)
    if type(table.get("schemaVersion")) is not int or table["schemaVersion"] != 2:
        raise Malformed("schemaVersion is not 2", where=what)
    said = _media_type(table, "mediaType", what)
    if said not in (None, media_type):
        raise Malformed(f"is a {said}, not a {media_type}", where=what)
    return table


def _descriptor(value: object, what: str) -> Descriptor:
    table = _object(value, what)
    media_type, size = _media_type(table, "mediaType", what), table.get("size")
    if media_type is None:
        raise Malformed("has no mediaType", where=what)
    digest = _text(table, "digest", what)
    if digest is None or not is_digest(digest):
        raise Malformed("has no digest of the form sha256:HEX", where=what)
    if type(size) is not int or not 0 <= size <= MAX_FILE:
        raise Malformed("has no possible size", where=what)
    platform = None
    if table.get("platform") is not None:
        inner = _object(table["platform"], f"{what}: platform")
        words = [_text(inner, key, what) or "" for key in ("os", "architecture")]
        if not all(_WORD.fullmatch(word) for word in words):
            raise Malformed("has a platform without a plausible os and architecture", where=what)
        platform = Platform(*words)
    artifact_type = _media_type(table, "artifactType", what)
    return Descriptor(media_type, digest, size, _annotations(table, what), artifact_type, platform)


def _annotations(table: dict[str, Any], what: str) -> dict[str, str]:
    content = _object(table.get("annotations") or {}, f"{what}: annotations")
    if len(content) > MAX_ANNOTATIONS:
        raise Malformed(f"has more than {MAX_ANNOTATIONS} annotations", where=what)
    if any(len(key) > MAX_KEY or not _sound(key) for key in content):
        raise Malformed("has an annotation whose name is none", where=what)
    return {key: _text(content, key, f"{what}: annotations") or "" for key in content}


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed("is not an object", where=what)
    return value


def _list(table: dict[str, Any], key: str, most: int, what: str) -> list[Any]:
    value = table.get(key)
    if not isinstance(value, list):
        raise Malformed(f"has no list of {key}", where=what)
    if len(value) > most:
        raise Malformed(f"has more than {most} {key}", where=what)
    return value


def _text(table: dict[str, Any], key: str, what: str) -> str | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_TEXT or not _sound(value):
        raise Malformed(f"{shown(key, 80)} is not a text of at most {MAX_TEXT} characters", where=what)
    return value


def _sound(text: str) -> bool:
    """Whether it is Unicode: JSON can also spell halves of characters, which nothing could write again."""
    return not any(0xD800 <= ord(char) <= 0xDFFF for char in text)


def _media_type(table: dict[str, Any], key: str, what: str) -> str | None:
    value = _text(table, key, what)
    if value in (None, ""):
        return None
    if _MEDIA_TYPE.fullmatch(str(value)) is None:
        raise Malformed(f"{key} {shown(str(value), 80)!r} is no media type", where=what)
    return value
