"""Publishes dists: whole, or nobody sees anything of them.

`publish` reads top to bottom as what happens. What names comes after what it names: blobs, manifests, what refers to
them, the index, and only when all of that was read back the tag of the version, and last the floating tags. Killed
anywhere and run again, it finishes; a version that is there with other bytes stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from stereo.check.verify import verify
from stereo.distribution.merge import architectures_of, is_older, merged_index, name_of, version_of
from stereo.distribution.parallel import side_by_side
from stereo.distribution.readback import refuse_lost_blobs, refuse_lost_documents, refuse_lost_referrers
from stereo.distribution.shipment import (
    Blob,
    Document,
    Shipment,
    cosign_document,
    cosign_layer,
    cosign_tag,
    shipment_of,
)
from stereo.errors import StereoError, UsageError, shown
from stereo.model.manifest import is_release
from stereo.registry import media
from stereo.registry.documents import Descriptor, describe, digest_of
from stereo.registry.errors import Malformed, NotFound, RegistryError
from stereo.registry.parse import parse_artifact, parse_index
from stereo.registry.remote import LATEST, Advance, Remote
from stereo.report import Report
from stereo.trust.dist import examine
from stereo.trust.policy import Policy

JOBS = 4
_ROUNDS = 4
"""How often to begin again because somebody else published to the same version at the same time."""

_LATER = "let whoever else publishes there end, and run again: what was sent is not sent again"


@dataclass(frozen=True)
class Published:
    """What a version is now. `digest` is that of its index; `sent` are bytes of blobs, `tags` those that changed."""

    reference: str
    digest: str
    sent: int
    tags: tuple[str, ...]


def publish(
    dists: Sequence[Path],
    remote: Remote,
    *,
    floating: Sequence[str] | None = (),
    allow_fewer: bool = False,
    policy: Policy | None = None,
    report: Report,
    now: datetime | None = None,
    jobs: int = JOBS,
) -> Published:
    """Publish dists of one version, for different architectures, and have the tags `floating` name that version.

    `floating` None is `latest`, unless that names a newer version or one for more architectures. A tag never loses an
    architecture, but with `allow_fewer`: who pulls by it would find nothing for their machine any more.
    With a `policy`, each must satisfy it, at the time `now`. Raises UsageError for what must not be published,
    StereoError, RegistryError, OSError; then no tag names anything that is not whole.
    """
    _refuse_fixed(remote, floating or ())
    _refuse_inside(remote, dists)
    shipments = [_verified(dist, policy, now or datetime.now(UTC), report) for dist in dists]
    name, version = _the_release(shipments)
    tags = _Floating(name, version, floating, allow_fewer)
    # Whatever these two refuse, they refuse before anything is sent.
    tags.movable(remote, _index_with(remote, shipments))
    blobs = [blob for one in shipments for blob in one.all_blobs()]
    sent = _send(remote, blobs, report, jobs)
    for one in shipments:
        for document in one.manifests.values():
            remote.put_manifest(document, media.IMAGE_MANIFEST)
    _send_referrers(remote, shipments, report)
    refuse_lost_blobs(remote, blobs, report, jobs=jobs)
    for one in shipments:
        refuse_lost_documents(remote, [*one.manifests.values(), *(each.data for each in one.referrers)])
        refuse_lost_referrers(remote, one.subject, _kinds(one.referrers))
    return replace(_tag(remote, shipments, tags, report), sent=sent)


def publish_statements(dist: Path, remote: Remote, *, report: Report, jobs: int = JOBS) -> Published:
    """Publish only the signed statements and checksums that lie in a dist, whose version must be there already.

    Raises as `publish` does.
    """
    _refuse_inside(remote, [dist])
    shipment = _verified(dist, None, datetime.now(UTC), report)
    version = shipment.manifest.version
    if not shipment.statements:
        raise UsageError("holds no signed statements", where=str(dist), hint="`stereo sign` makes them")
    present = _tagged(remote, version)
    index = _index_with(remote, [shipment])
    if present is None or present[0].digest != digest_of(index):
        hint = "publish the dist itself, without --attestations"
        where = str(remote.reference.with_tag(version))
        raise UsageError("is not there for this architecture, so statements cannot be added", where=where, hint=hint)
    signed = [one for one in shipment.referrers if one.described.artifact_type in (media.DSSE, media.CHECKSUMS)]
    shipment = replace(shipment, referrers=tuple(signed))
    blobs = [blob for one in signed for blob in one.blobs]
    sent = _send(remote, blobs, report, jobs)
    _send_referrers(remote, [shipment], report)
    _send_cosign(remote, shipment, present[0])
    refuse_lost_blobs(remote, blobs, report, jobs=jobs)
    refuse_lost_documents(remote, [one.data for one in signed])
    refuse_lost_referrers(remote, shipment.subject, _kinds(signed))
    return Published(str(remote.reference.with_tag(version)), present[0].digest, sent, ())


def _verified(dist: Path, policy: Policy | None, now: datetime, report: Report) -> Shipment:
    """What there is to publish of a dist that is what its manifest says, and satisfies the policy if there is one."""
    shipment = shipment_of(dist)  # refuses by its words what takes minutes to refuse by its bytes
    manifest = shipment.manifest
    verdict = verify(dist, report)
    if bad := [row for row in verdict.findings if not row.ok]:
        what = f"does not verify: {shown(bad[0].artifact, 80)}: {bad[0].check}: {shown(bad[0].message, 200)}"
        raise StereoError(what, where=str(dist), hint="`stereo verify` tells all; build or pull it again")
    papers = examine(dist, manifest, policy, now)
    if wrong := [row for row in papers.rows if not row.ok]:
        what = f"{shown(wrong[0].artifact, 80)}: {wrong[0].check}: {shown(wrong[0].message, 200)}"
        raise StereoError(what, where=str(dist), hint="sign it again: `stereo sign`")
    if papers.judgement and not papers.judgement.ok:
        hint = "sign it with a key of the policy, or name the policy under which it shall be published"
        raise StereoError(f"does not satisfy the policy:\n{papers.judgement.text}", where=str(dist), hint=hint)
    if not shipment.statements:
        what = f"nobody signed {manifest.name} {manifest.version} for {manifest.arch}"
        report.warn(f"{what}: whoever pulls it cannot tell who built it; `stereo sign` signs a dist")
    return shipment


def _the_release(shipments: Sequence[Shipment]) -> tuple[str, str]:
    """The one name and version of them all. Raises UsageError."""
    names = {(one.manifest.name, one.manifest.version) for one in shipments}
    if len(names) != 1:
        said = ", ".join(sorted(" ".join(each) for each in names)) or "nothing"
        hint = "publish one version of one mixtape at a time, in as many architectures as there are"
        raise UsageError(f"these are different releases: {said}", hint=hint)
    archs = [one.manifest.arch for one in shipments]
    if len(set(archs)) != len(archs):
        raise UsageError(f"two dists are for {min(archs)}", hint="publish one for each architecture")
    return shipments[0].manifest.name, shipments[0].manifest.version


def _refuse_fixed(remote: Remote, floating: Sequence[str]) -> None:
    """Raises UsageError for what is no floating tag."""
    for tag in floating:
        where = str(remote.reference.with_tag(tag))
        if is_release(tag) or tag.startswith("sha256-"):
            raise UsageError("is the tag of one document for ever", where=where, hint="--tag latest, --tag nightly")


def _refuse_inside(remote: Remote, dists: Sequence[Path]) -> None:
    """Raises UsageError for a layout in one of the dists, which would be none any more."""
    place = remote.reference
    for dist in dists:
        if place.kind == "layout" and Path(place.path).resolve().is_relative_to(dist.resolve()):
            raise UsageError("lies in the dist itself", where=str(place), hint="name another folder with --to")


@dataclass(frozen=True)
class _Floating:
    """Which tags shall name a version besides its own: `wanted`, or, None, `latest` where nobody would lose by it."""

    name: str
    version: str
    wanted: Sequence[str] | None
    allow_fewer: bool

    def movable(self, remote: Remote, index: bytes, report: Report | None = None) -> Sequence[str]:
        """The tags that shall name `index`, which the version tag does, or will; `report` hears of one that stays.

        Raises UsageError for a wanted one that would go back to an older version, or for which a machine would find
        nothing any more; for any that would go over to another mixtape.
        """
        if self.wanted is None:
            stays = self._stays(remote, LATEST, index)
            if stays and report:
                report.note(f"{LATEST} stays: it {stays[0]}")
            return () if stays else (LATEST,)
        for tag in self.wanted:
            if stays := self._stays(remote, tag, index):
                raise UsageError(stays[0], where=str(remote.reference.with_tag(tag)), hint=stays[1])
        return self.wanted

    def _stays(self, remote: Remote, tag: str, index: bytes) -> tuple[str, str] | None:
        """Why a tag must not name `index`, and what to do; None if it may."""
        found = _tagged(remote, tag)
        if found and not _is_mixtape(remote, found[1]):
            hint = "a repository holds one mixtape and nothing else: publish to one of its own"
            raise UsageError("names what is no mixtape", where=str(remote.reference.with_tag(tag)), hint=hint)
        there = name_of(found[1]) if found else None
        if there not in (None, self.name):
            hint = "a repository holds one mixtape: publish this one to a repository of its own"
            where = str(remote.reference.with_tag(tag))
            raise UsageError(f"names {shown(there, 80)}, and this is {self.name}", where=where, hint=hint)
        named = version_of(found[1]) if found else None
        if found is None or named is None:
            return None
        if is_older(self.version, named):
            hint = f"to take {named} back, publish the old content as a newer version, or leave out `--tag {tag}`"
            return f"names {named}, which is newer than {self.version}", hint
        lost = sorted(architectures_of(found[1]) - architectures_of(index))
        if lost and not self.allow_fewer:
            hint = f"it moves when {self.version} is published for {', '.join(lost)} too; --allow-fewer moves it now"
            return f"names {named}, which is there for {', '.join(lost)}, and {self.version} is not", hint
        return None


def _tagged(remote: Remote, tag: str) -> tuple[Descriptor, bytes] | None:
    try:
        return remote.get_manifest(tag)
    except NotFound:
        return None


def _is_mixtape(remote: Remote, document: bytes) -> bool:
    """Whether a document that a tag names is one, of ours or of the original, whose index says no name and version."""
    if version_of(document):
        return True
    with suppress(Malformed, NotFound):
        images = [parse_artifact(remote.get_manifest(entry.digest)[1]) for entry in parse_index(document).entries[:1]]
        return any(layer.media_type in media.DISKS.values() for image in images for layer in image.layers)
    return False


def _index_with(remote: Remote, shipments: Sequence[Shipment]) -> bytes:
    """The index that the version shall have, seen from what is there now."""
    manifest = shipments[0].manifest
    present = _tagged(remote, manifest.version)
    entries = [entry for one in shipments for entry in one.entries]
    return merged_index(manifest.name, manifest.version, entries, present[1] if present else None)


def _send(remote: Remote, blobs: Sequence[Blob], report: Report, jobs: int) -> int:
    """Store all blobs that are not there, side by side; returns the bytes that were sent."""

    def send(blob: Blob, advance: Advance) -> int:
        if remote.put_blob(blob.descriptor, blob.content, advance):
            return blob.descriptor.size
        advance(blob.descriptor.size)
        return 0

    total = sum(blob.descriptor.size for blob in blobs)
    return sum(side_by_side("Publishing", total, blobs, send, report, jobs=jobs))


def _send_referrers(remote: Remote, shipments: Sequence[Shipment], report: Report) -> None:
    with report.step("Publishing what refers to it"):
        for one in shipments:
            for document in one.referrers:
                remote.put_manifest(document.data, media.IMAGE_MANIFEST)
            for entry in one.entries:
                _send_cosign(remote, one, entry)


def _send_cosign(remote: Remote, shipment: Shipment, subject: Descriptor) -> None:
    """Have cosign find the statements that speak of `subject`, beside those that it finds there already."""
    if not shipment.statements or subject.digest.removeprefix("sha256:") not in shipment.digests.values():
        return
    tag, ours = cosign_tag(subject), [cosign_layer(name, data) for name, data in shipment.statements]
    for _ in range(_ROUNDS):
        present = _tagged(remote, tag)
        layers = parse_artifact(present[1], tag).layers if present else ()
        document = cosign_document([*layers, *ours])
        if present and present[1] == document:
            return
        remote.put_manifest(document, media.IMAGE_MANIFEST, tag)
    raise RegistryError(f"does not keep {tag}", where=str(remote.reference), hint=_LATER)


def _tag(remote: Remote, shipments: Sequence[Shipment], tags: _Floating, report: Report) -> Published:
    """Have the tags name the version, beginning again when somebody else had them name something else meanwhile."""
    changed: dict[str, None] = {}
    version = tags.version
    for _ in range(_ROUNDS):
        before = _tagged(remote, version)
        document = _index_with(remote, shipments)
        index = describe(document, media.IMAGE_INDEX)
        remote.put_manifest(document, media.IMAGE_INDEX)
        for one in shipments:
            _send_cosign(remote, one, index)
        refuse_lost_documents(remote, [document])
        if _tagged(remote, version) != before:
            continue
        if before is None or before[0].digest != index.digest:
            remote.put_manifest(document, media.IMAGE_INDEX, version)
            changed[version] = None
        if not _names(remote, version, index):
            continue
        floating = tags.movable(remote, document, report)
        for tag in floating:
            if not _names(remote, tag, index):
                remote.put_manifest(document, media.IMAGE_INDEX, tag)
                changed[tag] = None
        if all(_names(remote, tag, index) for tag in (version, *floating)):
            return Published(str(remote.reference.with_tag(version)), index.digest, 0, tuple(changed))
    raise RegistryError(f"{version} changes while it is published", where=str(remote.reference), hint=_LATER)


def _names(remote: Remote, tag: str, index: Descriptor) -> bool:
    found = _tagged(remote, tag)
    return found is not None and found[0].digest == index.digest


def _kinds(documents: Iterable[Document]) -> dict[str, str]:
    return {one.described.digest: str(one.described.artifact_type) for one in documents}
