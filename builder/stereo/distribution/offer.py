"""From a reference to what exactly would be pulled: documents, mixtape.toml and statements, all small and all checked.

A tag is read once; from there on everything goes by digest. What the OCI manifests promise must be what mixtape.toml
says, so that whoever believes that one file (or who signed it) knows the bytes of all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from stereo.distribution import frames
from stereo.distribution.frames import Frames
from stereo.errors import ProblemsError, StereoError, shown
from stereo.model.architecture import Architecture
from stereo.model.manifest import (
    DISK_FILES,
    MANIFEST_FILE,
    MAX_BYTES,
    SIGNATURE_FILES,
    Manifest,
    is_release,
    parse_manifest,
)
from stereo.model.pulled import Format
from stereo.registry import media
from stereo.registry.documents import Descriptor
from stereo.registry.errors import Malformed, NotFound
from stereo.registry.parse import MixtapeManifest, parse_artifact, parse_index
from stereo.registry.parse import parse_manifest as parse_image_manifest
from stereo.registry.remote import LATEST, Remote, small_blob

MAX_STATEMENT = 4 << 20
MAX_SAID = 32 << 20
"""Bytes of everything together that refers to a mixtape and is read into memory."""
MAX_SIGNATURE_FILE = 1 << 16
_MOST_REFERRERS = 300


@dataclass(frozen=True)
class Offer:
    """What a remote has. `digest` is that of the index, `subject` of the manifest that statements refer to.

    `blobs` has what there is to fetch by file name: the layers of the chosen formats, and the SBOMs. `size` is theirs.
    """

    digest: str
    subject: str
    manifest: Manifest
    manifest_bytes: bytes
    formats: tuple[Format, ...]
    blobs: Mapping[str, Descriptor]
    size: int = field(default=0)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 by name, of every file of the dist and the manifest itself."""
        known = {name: digest for name, digest, _ in self.manifest.files()}
        return {**known, MANIFEST_FILE: self.blobs[MANIFEST_FILE].digest.removeprefix("sha256:")}


@dataclass(frozen=True)
class Said:
    """What refers to an offer, none of it believed yet: statements by name; signature files by name, as often as it
    was signed.
    """

    statements: tuple[tuple[str, bytes], ...]
    signatures: tuple[Mapping[str, bytes], ...]
    frames: tuple[Descriptor, ...]


def read_offer(remote: Remote, version: str | None, arch: Architecture, formats: Sequence[Format]) -> Offer:
    """What `version` (a tag or digest; default: latest) is for `arch` in these disk formats.

    Raises RegistryError; StereoError when it is not there for this machine, or is not what it was asked for.
    """
    asked = version or LATEST
    where = str(remote.reference)
    described, document = remote.get_manifest(asked)
    if described.media_type != media.IMAGE_INDEX:
        raise Malformed(f"{shown(asked, 80)} is a {described.media_type}, not an index of a mixtape", where=where)
    index = parse_index(document)
    entries = index.of_architecture(arch.debian)
    if not entries:
        raise _only_for_others(asked, arch, index.architectures, where)
    missing = [name for name in (media.FORMATS[0], *formats) if name not in entries]
    if missing:
        what = f"{shown(asked, 80)} has no {missing[0]} disk for {arch}"
        raise NotFound(what, where=where, hint="`stereo inspect` lists what there is")
    images = {name: _image(remote, entries[name], name) for name in formats}
    layers = next(iter(images.values())).manifest
    text = small_blob(remote, layers, MAX_BYTES)
    try:
        manifest = parse_manifest(text, MANIFEST_FILE)
    except ProblemsError as error:
        raise Malformed(f"its {MANIFEST_FILE} is not valid: {error.problems[0]}", where=where) from error
    _refuse_another(manifest, asked, arch, where)
    blobs = {name: blob for image in images.values() for name, blob in image.layers.items()}
    _refuse_differing(manifest, images.values(), layers, where)
    for name, blob in _sboms(manifest):
        blobs[name] = blob
    size = sum(blob.size for blob in blobs.values())
    return Offer(described.digest, entries[media.FORMATS[0]].digest, manifest, text, tuple(formats), blobs, size)


def _only_for_others(asked: str, arch: Architecture, there: Sequence[Architecture], where: str) -> NotFound:
    """What to raise for a version that exists, but not for the machine that it is wanted for."""
    name = shown(asked, 80)
    if not there:
        return NotFound(f"{name} is not there for {arch}", where=where, hint="`stereo inspect` lists what there is")
    hint = f"`--arch {there[0]}` gets that one; `stereo tags {where}` tells which versions are there for {arch}"
    return NotFound(f"{name} is not there for {arch}, only for {', '.join(there)}", where=where, hint=hint)


def _image(remote: Remote, entry: Descriptor, disk_format: str) -> MixtapeManifest:
    _, document = remote.get_manifest(entry.digest)
    image = parse_image_manifest(document, f"the {disk_format} manifest")
    if image.disk_format != disk_format:
        raise Malformed(f"is of a {image.disk_format} disk", where=f"the {disk_format} manifest")
    return image


def _refuse_another(manifest: Manifest, asked: str, arch: Architecture, where: str) -> None:
    """What is named by a version must be it: tags are not signed."""
    if manifest.arch != arch.system:
        raise Malformed(f"says it is for {arch}, and its {MANIFEST_FILE} says {manifest.arch}", where=where)
    if is_release(asked) and manifest.version != asked:
        raise Malformed(f"the tag {asked} leads to {manifest.name} {manifest.version}", where=where)


def _refuse_differing(manifest: Manifest, images: Iterable[MixtapeManifest], own: Descriptor, where: str) -> None:
    known = {name: (f"sha256:{digest}", size) for name, digest, size in manifest.files()}
    known[MANIFEST_FILE] = (own.digest, own.size)
    for image in images:
        for name, blob in image.layers.items():
            if known[name] != (blob.digest, blob.size):
                what = f"the OCI manifest has {blob.digest} as {name}, and {MANIFEST_FILE} says {known[name][0]}"
                raise Malformed(what, where=where)


def _sboms(manifest: Manifest) -> Iterator[tuple[str, Descriptor]]:
    for one in (manifest.sbom.cyclonedx, manifest.sbom.spdx):
        yield one.file, Descriptor(media.SBOMS[one.file], f"sha256:{one.sha256}", one.size)


def read_said(remote: Remote, offer: Offer) -> Said:
    """What refers to the offer. Raises RegistryError, also when there is more than anybody reads."""
    statements: list[tuple[str, bytes]] = []
    signatures: list[Mapping[str, bytes]] = []
    indexes: list[Descriptor] = []
    left = MAX_SAID
    rows = [row for row in remote.referrers(offer.subject) if row.artifact_type in _READ]
    if len(rows) > _MOST_REFERRERS:
        raise Malformed(f"{len(rows)} statements refer to it: more than anybody reads", where=str(remote.reference))
    for number, row in enumerate(rows):
        artifact = parse_artifact(remote.get_manifest(row.digest)[1], "a referrer")
        if artifact.subject is None or artifact.subject.digest != offer.subject or artifact.artifact_type not in _READ:
            continue  # a list of referrers is signed by nobody, and may name what is not about this
        files: dict[str, bytes] = {}
        for layer in artifact.layers:
            if artifact.artifact_type == media.FRAMES:
                indexes.append(layer)
                continue
            if (left := left - layer.size) < 0:
                what = f"more than {MAX_SAID} bytes refer to it: more than anybody reads"
                raise Malformed(what, where=str(remote.reference))
            if artifact.artifact_type == media.DSSE and layer.media_type == media.DSSE:
                name = layer.title or f"statement {number + 1}"
                statements.append((name, small_blob(remote, layer, MAX_STATEMENT)))
            elif artifact.artifact_type == media.CHECKSUMS and layer.title in SIGNATURE_FILES:
                files[layer.title] = small_blob(remote, layer, MAX_SIGNATURE_FILE)
        if files:
            signatures.append(files)
    return Said(tuple(statements), tuple(signatures), tuple(indexes))


_READ = (media.DSSE, media.CHECKSUMS, media.FRAMES)


def read_frames(remote: Remote, said: Said, blob: Descriptor) -> Frames | None:
    """The frame index of a compressed disk, if the remote has one that fits. It is a hint: what is odd is left out."""
    names = {compressed for _, compressed in DISK_FILES.values()}
    for layer in said.frames[: 4 * len(names)]:
        if layer.title not in (None, blob.title, f"{blob.title}.frames.json"):
            continue
        try:
            index = frames.parse(small_blob(remote, layer, frames.MAX_BYTES), "frame index")
        except StereoError:
            continue
        if (f"sha256:{index.sha256}", index.size) == (blob.digest, blob.size):
            return index
    return None
