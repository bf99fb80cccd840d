"""What publishing a dist makes, to the last digest, before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from stereo.distribution import frames
from stereo.distribution.shipment import cosign_document, cosign_layer, cosign_tag, shipment_of
from stereo.errors import StereoError
from stereo.registry import media
from stereo.registry.documents import Descriptor, digest_of
from stereo.registry.parse import parse_artifact, parse_manifest
from unit.distribution.publishing import release, signed


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    return release(tmp_path / "dist")


def test_the_same_dist_gives_the_same_wherever_it_lies(dist: Path, tmp_path: Path) -> None:
    one, other = shipment_of(dist), shipment_of(release(tmp_path / "elsewhere"))
    assert one.manifests == other.manifests
    assert [each.data for each in one.referrers] == [each.data for each in other.referrers]


def test_what_cosign_finds_is_written_so() -> None:
    layer = Descriptor(media.DSSE, "sha256:" + "1" * 64, 7, {media.PREDICATE_TYPE: "https://slsa.dev/provenance/v1"})
    assert cosign_document([layer]).decode() == (
        '{"artifactType":"application/vnd.dsse.envelope.v1+json",'
        '"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",'
        '"mediaType":"application/vnd.oci.empty.v1+json","size":2},'
        '"layers":[{"annotations":{"predicateType":"https://slsa.dev/provenance/v1"},'
        '"digest":"sha256:1111111111111111111111111111111111111111111111111111111111111111",'
        '"mediaType":"application/vnd.dsse.envelope.v1+json","size":7}],'
        '"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}'
    )


def test_every_blob_is_a_file_of_the_dist_or_named_by_a_referrer(dist: Path, tmp_path: Path) -> None:
    signed(dist, tmp_path)
    found = shipment_of(dist)
    there = {blob.descriptor.digest for blob in found.all_blobs()}
    documents = [*found.manifests.values(), *(one.data for one in found.referrers)]
    named = {
        layer.digest for data in documents for layer in (parse_artifact(data).config, *parse_artifact(data).layers)
    }
    assert named == there
    for blob in found.all_blobs():
        data = blob.content if isinstance(blob.content, bytes) else blob.content.read_bytes()
        assert (digest_of(data), len(data)) == (blob.descriptor.digest, blob.descriptor.size)
    sizes = [blob.descriptor.size for blob in found.all_blobs()]
    assert sizes == sorted(sizes, reverse=True)


def test_each_manifest_has_the_six_layers_and_everything_refers_to_the_raw_one(dist: Path, tmp_path: Path) -> None:
    signed(dist, tmp_path)
    found = shipment_of(dist)
    for name, data in found.manifests.items():
        assert list(parse_manifest(data).layers) == list(media.layers_of(name))
    raw = digest_of(found.manifests["raw"])
    kinds = []
    for one in found.referrers:
        artifact = parse_artifact(one.data)
        assert artifact.subject
        assert artifact.subject.digest == raw
        kinds.append(artifact.artifact_type)
    assert kinds == [media.CYCLONEDX, media.SPDX, media.CHECKSUMS, media.DSSE, media.DSSE, media.FRAMES, media.FRAMES]


def test_statements_carry_their_type_and_speak_of_the_documents(dist: Path, tmp_path: Path) -> None:
    signed(dist, tmp_path)
    found = shipment_of(dist)
    types = {
        parse_artifact(one.data).annotations[media.PREDICATE_TYPE]
        for one in found.referrers
        if one.described.artifact_type == media.DSSE
    }
    assert types == {"https://in-toto.io/attestation/release/v0.1", "https://slsa.dev/provenance/v1"}
    assert found.digests["oci:raw"] == found.subject.digest.removeprefix("sha256:")
    assert cosign_tag(found.subject) == f"sha256-{found.digests['oci:raw']}.att"
    layers = [cosign_layer(name, data) for name, data in found.statements]
    assert cosign_document(layers) == cosign_document([*reversed(layers), *layers])


def test_frame_indexes_are_those_of_the_disks(dist: Path) -> None:
    found = [one for one in shipment_of(dist).referrers if one.described.artifact_type == media.FRAMES]
    for one, name in zip(found, ("stereos.img.zst", "stereos.qcow2.zst"), strict=True):
        (blob,) = one.blobs
        assert isinstance(blob.content, bytes)
        assert blob.descriptor.title == f"{name}.frames.json"
        assert frames.parse(blob.content, name) == frames.frames_of(dist / name)


def test_a_link_in_place_of_a_signature_is_refused(dist: Path, tmp_path: Path) -> None:
    signed(dist, tmp_path)
    (dist / "SHA256SUMS.sig").unlink()
    (dist / "SHA256SUMS.sig").symlink_to("/etc/passwd")
    with pytest.raises(StereoError, match="symbolic link"):
        shipment_of(dist)
