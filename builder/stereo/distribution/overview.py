"""What a remote says it has, told without pulling it. None of it is judged: `verify` and `pull` do that."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from stereo.distribution.merge import architectures_of, release_number, version_of
from stereo.distribution.parallel import side_by_side
from stereo.errors import StereoError, UsageError
from stereo.model.architecture import Architecture
from stereo.model.manifest import is_release
from stereo.registry import media
from stereo.registry.documents import Descriptor
from stereo.registry.errors import Denied, Malformed, NotFound, Unreachable
from stereo.registry.parse import Artifact, parse_artifact, parse_index, parse_manifest
from stereo.registry.reference import Reference
from stereo.registry.remote import LATEST, Advance, Remote, open_remote, small_blob
from stereo.report import Silent
from stereo.trust import envelope
from stereo.trust.statement import MalformedError

MOST_FLOATING = 100
MOST_LOOKED_INTO = 100
"""Releases, the newest first, of which the architectures are told."""
MOST_FOUND = 100
_MOST_READ = 300
_MOST_TOGETHER = 64 << 20
_JOBS = 8


@dataclass(frozen=True)
class Floating:
    """A tag that moves. `release` is None if it names no release of a mixtape."""

    tag: str
    digest: str
    release: str | None
    architectures: tuple[Architecture, ...]


@dataclass(frozen=True)
class Tags:
    """`releases` are the newest first. `architectures` says what each of the first `MOST_LOOKED_INTO` is there for."""

    releases: tuple[str, ...]
    architectures: Mapping[str, tuple[Architecture, ...]]
    floating: tuple[Floating, ...]


@dataclass(frozen=True)
class Signed:
    """A statement that somebody signed: its kind, or predicate type if it is none of ours, and what the keys call
    themselves."""

    kind: str
    keyids: tuple[str, ...]
    issued: datetime | None


@dataclass(frozen=True)
class Image:
    """One manifest of an index. `architecture` as OCI calls it; `layers` are (file name, size in bytes, digest)."""

    architecture: str
    disk_format: str
    digest: str
    layers: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True)
class Overview:
    """What a reference names. `sboms`, `signed` and `checksums` are by architecture."""

    digest: str
    name: str
    version: str
    images: tuple[Image, ...]
    sboms: Mapping[str, tuple[str, ...]]
    signed: Mapping[str, tuple[Signed, ...]]
    checksums: Mapping[str, tuple[str, ...]]


def tags_of(remote: Remote) -> Tags:
    """The tags of a repository, without those that registries and cosign keep their books with.

    Raises RegistryError, NotFound too when there is nothing.
    """
    every = [tag for tag in remote.tags() if not tag.startswith("sha256-")]
    if not every:
        hint = "`stereo search` lists what there is"
        raise NotFound("has no versions", where=str(remote.reference), hint=hint)
    releases = sorted(filter(is_release, every), key=release_number, reverse=True)
    others = [tag for tag in every if not is_release(tag)][:MOST_FLOATING]
    looked_into = releases[:MOST_LOOKED_INTO]
    asked = [*looked_into, *others]

    def ask(tag: str, _: Advance) -> tuple[Descriptor, bytes] | None:
        try:
            return remote.get_manifest(tag)
        except NotFound:  # removed just now, or lost by the registry: no reason to hide the others
            return None

    answers = zip(asked, side_by_side("Asking", 0, asked, ask, Silent(), jobs=_JOBS), strict=True)
    named = {tag: answer for tag, answer in answers if answer}
    releases = [tag for tag in releases if tag in named or tag not in looked_into]
    there = {tag: _sorted(architectures_of(document)) for tag, (_, document) in named.items()}
    floating = [
        Floating(tag, named[tag][0].digest, version_of(named[tag][1]), there[tag]) for tag in others if tag in named
    ]
    return Tags(tuple(releases), {tag: there[tag] for tag in looked_into if tag in named}, tuple(floating))


def _sorted(architectures: Collection[Architecture]) -> tuple[Architecture, ...]:
    return tuple(arch for arch in Architecture if arch in architectures)


def overview_of(remote: Remote, version: str | None) -> Overview:
    """What a tag or digest (default: latest) names. Raises RegistryError; Malformed for what is no mixtape."""
    described, document = remote.get_manifest(version or LATEST)
    if described.media_type != media.IMAGE_INDEX:
        what = f"is a {described.media_type}, not the index of a mixtape"
        raise Malformed(what, where=f"{remote.reference}@{described.digest}")
    index = parse_index(document)
    images, told = [], dict[str, "_Told"]()
    for entry in index.entries[:_MOST_READ]:
        image = parse_manifest(remote.get_manifest(entry.digest)[1], entry.digest)
        architecture = entry.platform.architecture if entry.platform else "unknown"
        layers = tuple((title, layer.size, layer.digest) for title, layer in image.layers.items())
        images.append(Image(architecture, image.disk_format, entry.digest, layers))
        if image.disk_format == media.FORMATS[0] and architecture not in told:
            told[architecture] = _Told(remote, entry)
    title, said = (index.annotations.get(key, "") for key in (media.TITLE, media.VERSION))
    return Overview(
        described.digest,
        title,
        said,
        tuple(images),
        {arch: tuple(one.sboms) for arch, one in told.items()},
        {arch: tuple(one.signed) for arch, one in told.items()},
        {arch: tuple(one.checksums) for arch, one in told.items()},
    )


class _Told:
    """What refers to a manifest."""

    def __init__(self, remote: Remote, subject: Descriptor) -> None:
        self.sboms: list[str] = []
        self.signed: list[Signed] = []
        self.checksums: list[str] = []
        room = _MOST_TOGETHER
        for artifact in _referring(remote, subject):
            match artifact.artifact_type:
                case media.CYCLONEDX | media.SPDX:
                    self.sboms += _titles(artifact)
                case media.CHECKSUMS:
                    self.checksums += _titles(artifact)
                case media.DSSE:
                    for layer in artifact.layers:
                        room -= layer.size
                        if room < 0:
                            raise Malformed("more is said of it than anybody reads", where=subject.digest)
                        self.signed.append(_signed(remote, layer))


def _referring(remote: Remote, subject: Descriptor) -> Iterator[Artifact]:
    for one in remote.referrers(subject.digest)[:_MOST_READ]:
        if one.media_type != media.IMAGE_MANIFEST:
            continue
        artifact = parse_artifact(remote.get_manifest(one.digest)[1], one.digest)
        if artifact.subject and artifact.subject.digest == subject.digest:
            yield artifact


def _titles(artifact: Artifact) -> list[str]:
    return [layer.title or layer.media_type for layer in artifact.layers]


def _signed(remote: Remote, layer: Descriptor) -> Signed:
    try:
        found = envelope.parse_envelope(small_blob(remote, layer, envelope.MAX_BYTES), layer.digest)
    except MalformedError:
        return Signed("malformed", (), None)
    said = found.statement
    return Signed(said.kind or said.predicate_type, tuple(key for key, _ in found.signatures), said.issued_on)


@dataclass(frozen=True)
class Found:
    """A repository with releases. `reference` is what to give `pull`; `architectures` are those of the newest."""

    name: str
    reference: str
    newest: str
    releases: int
    architectures: tuple[Architecture, ...]


def search(root: Reference, text: str, *, plain_http: bool) -> tuple[Sequence[Found], bool]:
    """The repositories below `root` with `text` in their name (of any case), and whether there are more than these.

    Raises StereoError when the registry does not tell what it has.
    """
    try:
        names = open_remote(root, plain_http=plain_http).catalog()
    except (NotFound, Denied, Malformed) as error:
        hint = "`stereo tags HOST/REPOSITORY` works where you know the name"
        raise StereoError(f"does not tell what it has: {error.what}", where=str(root), hint=hint) from error
    found, wanted = list[Found](), [name for name in names if text.lower() in name.lower()]
    for name in wanted[:MOST_FOUND]:
        try:
            reference = _below(root, name)
        except UsageError:
            continue  # a name that none could be pulled by
        remote = open_remote(reference, plain_http=plain_http)
        try:
            releases = sorted(filter(is_release, remote.tags()), key=release_number)
            newest = remote.get_manifest(releases[-1])[1] if releases else b""
        except Unreachable:
            raise
        except StereoError:
            continue  # somebody else's, damaged, or no mixtape
        if releases:
            found.append(Found(name, str(reference), releases[-1], len(releases), _sorted(architectures_of(newest))))
    return found, len(wanted) > MOST_FOUND


def _below(root: Reference, name: str) -> Reference:
    for part in name.split("/"):
        root = root.child(part)
    return root
