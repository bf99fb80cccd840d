"""What stands published already: the versions of a mixtape, and from what plan a tag's dist was built."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

from stereo.distribution.merge import architectures_of
from stereo.errors import StereoError, UsageError
from stereo.model.architecture import Architecture
from stereo.model.manifest import MANIFEST_FILE, MAX_BYTES, Manifest, parse_manifest
from stereo.pipeline.targets import Target
from stereo.registry.documents import Descriptor
from stereo.registry.errors import DigestMismatch, NotFound
from stereo.registry.parse import parse_index
from stereo.registry.parse import parse_manifest as parse_image
from stereo.registry.reference import parse_reference, parse_root
from stereo.registry.remote import Remote, open_remote


def remote_of(to: str, mixtape: str) -> Remote:
    """Where a mixtape is in the root `to`. Raises UsageError."""
    return open_remote(parse_reference(str(parse_root(to).child(mixtape))))


def versions_taken(to: str, mixtapes: Iterable[str]) -> list[str]:
    """All tags of all mixtapes. A place that has nothing yet has none. Raises RegistryError, UsageError."""
    return [tag for mixtape in mixtapes for tag in remote_of(to, mixtape).tags()]


def refuse_fewer(to: str, version: str, targets: Collection[Target], tags: Collection[str]) -> None:
    """Refuse before hours of work what publishing would: `tags` would lose an architecture that `targets` lack.

    What `version` is there for already counts. Raises UsageError, RegistryError.
    """
    for mixtape in dict.fromkeys(target.mixtape for target in targets):
        remote = remote_of(to, mixtape)
        ours = {target.arch for target in targets if target.mixtape == mixtape}
        for tag in tags:
            if lost := _architectures(remote, tag) - ours - _architectures(remote, version):
                what = f"is there for {', '.join(sorted(lost))}, which would be lost"
                hint = "release for all architectures; `stereo publish --allow-fewer` gives one up"
                raise UsageError(what, where=str(remote.reference.with_tag(tag)), hint=hint)


def _architectures(remote: Remote, tag: str) -> frozenset[Architecture]:
    try:
        return architectures_of(remote.get_manifest(tag)[1]) if tag else frozenset()
    except NotFound:
        return frozenset()


def manifest_of(remote: Remote, tag: str, arch: Architecture) -> Manifest | None:
    """The mixtape.toml of what `tag` names for `arch`; None when there is no such thing.

    Raises RegistryError and ProblemsError. Nobody's signature is asked for: it only decides what is built again.
    """
    try:
        index = parse_index(remote.get_manifest(tag)[1])
    except NotFound:
        return None
    entries = index.of_architecture(arch.debian)
    if not entries:
        return None
    image = parse_image(remote.get_manifest(next(iter(entries.values())).digest)[1])
    return parse_manifest(_read(remote, image.manifest), f"{remote.reference}:{tag}: {MANIFEST_FILE}")


def _read(remote: Remote, blob: Descriptor) -> bytes:
    where = str(remote.reference)
    if blob.size > MAX_BYTES:
        raise StereoError(f"a mixtape.toml of {blob.size} bytes is none of ours", where=where)
    with remote.open_blob(blob) as stream:
        data = b"".join(stream.pieces)
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != blob.digest:
        raise DigestMismatch("mixtape.toml has not the digest that it is named by", where=where)
    return data
