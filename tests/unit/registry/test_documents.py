"""The OCI documents of a mixtape, byte for byte: their digests are signed, so no byte of them may ever move."""

from __future__ import annotations

import json

import pytest

from stereo.registry import media
from stereo.registry.documents import (
    EMPTY,
    Descriptor,
    describe,
    digest_of,
    documents_of,
    image_index,
    image_manifest,
    index_entry,
    referrer,
)
from stereo.registry.parse import parse_artifact, parse_index, parse_manifest
from unit.registry.support import sample, sample_with_digest, sha

TYPES = [
    "application/vnd.papercompute.stereos.disk.v1+{}+zstd",
    "application/vnd.papercompute.stereos.kernel.v1",
    "application/vnd.papercompute.stereos.initrd.v1",
    "application/vnd.papercompute.stereos.cmdline.v1",
    "application/vnd.papercompute.stereos.init.v1",
    "application/vnd.papercompute.stereos.mixtape-manifest.v1+toml",
]


@pytest.mark.parametrize(("disk_format", "disk"), [("raw", "stereos.img.zst"), ("qcow2", "stereos.qcow2.zst")])
def test_a_manifest_has_the_six_layers_that_clients_of_the_original_expect(disk_format: str, disk: str) -> None:
    table = json.loads(image_manifest(*sample_with_digest(), disk_format))
    titles = [layer["annotations"]["org.opencontainers.image.title"] for layer in table["layers"]]
    assert [layer["mediaType"] for layer in table["layers"]] == [text.format(disk_format) for text in TYPES]
    assert titles == [disk, "bzImage", "initrd", "cmdline", "init", "mixtape.toml"]
    assert table["artifactType"] == "application/vnd.papercompute.stereos.mixtape.v1"
    assert table["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert table["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert table["layers"][0]["digest"] == f"sha256:{sha(disk.removeprefix('stereos.'))}"
    assert table["annotations"] == {
        "org.opencontainers.image.created": "2023-11-14T22:13:20Z",
        "org.opencontainers.image.revision": "abcdef",
        "org.opencontainers.image.title": "sample-mixtape",
        "org.opencontainers.image.version": "2026.01.02.0",
    }


def test_documents_are_the_same_bytes_for_ever() -> None:
    assert documents_of(sample(), "5" * 64, 1234).subjects() == {
        "oci:raw": "027799201a49aea07424198c73a87db6003ece2c72ad6707f84e70eba098f4bf",
        "oci:qcow2": "6faf906b4f412da649b95a899e3de866b7ecc5f7238909e00b85344f41d2fa10",
        "oci:index": "db33c025be740f81d2591580f2158141ebe99b0d4c104434e4474d95a1b0f059",
    }


def test_an_index_has_raw_first_then_qcow2_per_platform_in_whatever_order_they_come() -> None:
    entries = []
    for arch in ("aarch64-linux", "x86_64-linux"):
        manifest, digest, size = sample_with_digest(arch=arch)
        for disk_format in ("qcow2", "raw"):
            entries.append(index_entry(image_manifest(manifest, digest, size, disk_format), disk_format, arch))
    document = image_index("sample-mixtape", "2026.01.02.0", entries)
    assert document == image_index("sample-mixtape", "2026.01.02.0", entries[::-1])
    index = parse_index(document)
    found = [(one.platform.architecture, one.annotations[media.FORMAT]) for one in index.entries if one.platform]
    assert found == [("amd64", "raw"), ("amd64", "qcow2"), ("arm64", "raw"), ("arm64", "qcow2")]
    assert list(index.of_architecture("arm64")) == ["raw", "qcow2"]
    assert index.of_architecture("riscv64") == {}
    assert index.artifact_type == media.MIXTAPE


def test_what_is_read_of_an_index_makes_the_same_index_again() -> None:
    documents = documents_of(*sample_with_digest())
    index = parse_index(documents.index)
    assert image_index("sample-mixtape", "2026.01.02.0", index.entries) == documents.index


def test_a_manifest_is_read_as_it_was_written() -> None:
    manifest, digest, size = sample_with_digest()
    found = parse_manifest(image_manifest(manifest, digest, size, "qcow2"))
    assert found.disk_format == "qcow2"
    assert found.disk.size == manifest.artifacts.qcow2.compressed_size
    assert found.manifest == Descriptor(media.MIXTAPE_MANIFEST, f"sha256:{digest}", size, {media.TITLE: "mixtape.toml"})


def test_a_referrer_names_its_subject_and_what_it_holds() -> None:
    subject = describe(documents_of(*sample_with_digest()).manifests["raw"], media.IMAGE_MANIFEST, title="left out")
    layer = describe(b"{}", media.DSSE, title="release.json")
    found = parse_artifact(referrer(subject, media.DSSE, [layer], {media.PREDICATE_TYPE: "https://example/x"}))
    assert found.artifact_type == media.DSSE
    assert found.subject == Descriptor(media.IMAGE_MANIFEST, subject.digest, subject.size)
    assert found.layers == (layer,)
    assert found.annotations == {media.PREDICATE_TYPE: "https://example/x"}


def test_the_empty_config_is_that_of_the_specification() -> None:
    assert EMPTY.digest == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert (EMPTY.size, digest_of(media.EMPTY_BYTES)) == (2, EMPTY.digest)
