"""What tags, inspect and search tell of a remote, and that a lying one tells nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from stereo.distribution import overview
from stereo.distribution.overview import Found, overview_of, search, tags_of
from stereo.distribution.publish import publish
from stereo.distribution.shipment import shipment_of
from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.registry import media
from stereo.registry.documents import Descriptor, describe, image_index, referrer
from stereo.registry.errors import DigestMismatch, Malformed, NotFound, RegistryError
from stereo.registry.layout import LayoutRemote
from stereo.registry.reference import parse_root
from stereo.report import Silent
from unit.distribution.publishing import NOW, VERSION, layout, release, signed

VERSIONS = ("2026.01.02.0", "2026.01.02.9", "2026.01.02.10")


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    return release(tmp_path / "dist")


@pytest.fixture
def remote(dist: Path, tmp_path: Path) -> LayoutRemote:
    signed(dist, tmp_path)
    publish([dist], layout(tmp_path / "r"), floating=["latest"], report=Silent(), now=NOW)
    return layout(tmp_path / "r")


def test_the_newest_release_comes_first_and_floating_tags_say_what_they_name(tmp_path: Path) -> None:
    remote = layout(tmp_path / "r")
    for version in VERSIONS:
        tags = ["latest"] if version.endswith(".9") else []
        dist = release(tmp_path / version, version)
        publish([dist], remote, floating=tags, report=Silent(), now=NOW)
    remote.put_manifest(image_index("other", "dev-abc", []), media.IMAGE_INDEX, "strange")
    found = tags_of(remote)
    assert found.releases == tuple(reversed(VERSIONS))
    assert [(one.tag, one.release) for one in found.floating] == [("latest", VERSIONS[1]), ("strange", None)]
    assert found.floating[0].digest == remote.get_manifest(VERSIONS[1])[0].digest


def test_a_tag_that_goes_while_one_looks_does_not_hide_the_others(remote: LayoutRemote) -> None:
    class Losing(LayoutRemote):
        def tags(self) -> list[str]:
            return [*super().tags(), "nightly", "2026.01.09.0"]

    found = tags_of(Losing(remote.reference))
    assert found.releases == (VERSION,)
    assert list(found.architectures) == [VERSION]
    assert [one.tag for one in found.floating] == ["latest"]


def test_where_nothing_was_published_there_is_nothing_to_tell(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no versions"):
        tags_of(layout(tmp_path / "r"))
    with pytest.raises(NotFound):
        overview_of(layout(tmp_path / "r"), None)


def test_an_overview_tells_files_sboms_and_who_claims_to_have_signed(remote: LayoutRemote, dist: Path) -> None:
    found = overview_of(remote, None)
    assert found == overview_of(remote, VERSION) == overview_of(remote, found.digest)
    assert (found.name, found.version) == ("sample-mixtape", VERSION)
    assert [(one.architecture, one.disk_format) for one in found.images] == [("amd64", "raw"), ("amd64", "qcow2")]
    sizes = {name: size for name, size, _ in found.images[0].layers}
    assert sizes == {name: (dist / name).stat().st_size for name in media.layers_of("raw")}
    assert found.sboms == {"amd64": ("sbom.cdx.json", "sbom.spdx.json")}
    assert found.checksums == {"amd64": ("SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.gpg")}
    assert sorted(one.kind for one in found.signed["amd64"]) == ["provenance", "release"]
    assert {one.issued for one in found.signed["amd64"]} == {NOW}
    assert len({one.keyids for one in found.signed["amd64"]}) == 1


def test_what_is_no_mixtape_is_refused(remote: LayoutRemote) -> None:
    document = next(iter(shipment_manifests(remote)))
    remote.put_manifest(document, media.IMAGE_MANIFEST, "one")
    with pytest.raises(Malformed, match="not the index"):
        overview_of(remote, "one")
    strange = describe(referrer(describe(document, media.IMAGE_MANIFEST), media.DSSE, [], {}), media.IMAGE_MANIFEST)
    remote.put_manifest(image_index("other", VERSION, []), media.IMAGE_INDEX, "empty")
    assert overview_of(remote, "empty").images == ()
    with pytest.raises(NotFound):
        remote.get_manifest(strange.digest)


def shipment_manifests(remote: LayoutRemote) -> list[bytes]:
    return [remote.get_manifest(image.digest)[1] for image in overview_of(remote, None).images]


def test_a_statement_that_is_none_is_listed_as_such(remote: LayoutRemote) -> None:
    subject = describe(shipment_manifests(remote)[0], media.IMAGE_MANIFEST)
    blob = describe(b"{}", media.DSSE, title="release.0000000000000000.dsse.json")
    remote.put_blob(blob, b"{}")
    remote.put_manifest(referrer(subject, media.DSSE, [blob], {}), media.IMAGE_MANIFEST)
    assert sorted(one.kind for one in overview_of(remote, None).signed["amd64"]) == [
        "malformed",
        "provenance",
        "release",
    ]


def test_statements_too_large_to_read_are_refused_before_they_are_read(remote: LayoutRemote) -> None:
    subject = describe(shipment_manifests(remote)[0], media.IMAGE_MANIFEST)
    for size in (1 << 30, 5 << 20):
        blob = Descriptor(media.DSSE, "sha256:" + "0" * 64, size)
        remote.put_manifest(referrer(subject, media.DSSE, [blob], {}), media.IMAGE_MANIFEST)
        with pytest.raises(RegistryError):
            overview_of(remote, None)


def test_altered_documents_and_statements_are_noticed(remote: LayoutRemote, dist: Path) -> None:
    found = overview_of(remote, None)
    statement = next(one for one in shipment_of(dist).referrers if one.described.artifact_type == media.DSSE)
    for digest in (found.digest, found.images[1].digest, statement.blobs[0].descriptor.digest):
        place = Path(remote.reference.path, "blobs/sha256", digest.removeprefix("sha256:"))
        good = place.read_bytes()
        place.write_bytes(bytes([good[0], good[1] ^ 1]) + good[2:])
        with pytest.raises(DigestMismatch):
            overview_of(remote, None)
        place.write_bytes(good)


def test_search_finds_what_has_releases_by_a_part_of_its_name(dist: Path, tmp_path: Path) -> None:
    for name in ("base", "coder", "code-review"):
        publish([dist], layout(tmp_path / "root" / name), report=Silent(), now=NOW)
    remote = layout(tmp_path / "root" / "codec")
    remote.put_manifest(image_index("codec", "dev-abc", []), media.IMAGE_INDEX, "dev")
    root = parse_root(str(tmp_path / "root"))
    found, more = search(root, "CODE", plain_http=False)
    assert not more
    wanted = ("code-review", "coder")
    here = (Architecture.X86_64,)
    assert found == [Found(name, f"oci:{tmp_path}/root/{name}", VERSION, 1, here) for name in wanted]
    assert [one.name for one in search(root, "", plain_http=False)[0]] == ["base", "code-review", "coder"]
    assert search(root, "nothing", plain_http=False) == ([], False)


def test_one_place_that_is_odd_does_not_hide_the_others(dist: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("base", "Base", "a name", "damaged", "linked"):
        publish([dist], layout(root / name), report=Silent(), now=NOW)
    (root / "damaged/index.json").write_text("{")
    (root / "linked/index.json").rename(root / "linked/index")
    (root / "linked/index.json").symlink_to("index")
    (root / "lost+found").mkdir(mode=0)
    assert [one.name for one in search(parse_root(str(root)), "", plain_http=False)[0]] == ["base"]
    assert layout(root).catalog() == ["base", "damaged", "linked"]


def test_search_is_bounded_and_says_so(dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "MOST_FOUND", 1)
    for name in ("base", "coder"):
        publish([dist], layout(tmp_path / "root" / name), report=Silent(), now=NOW)
    found, more = search(parse_root(str(tmp_path / "root")), "", plain_http=False)
    assert [one.name for one in found] == ["base"]
    assert more


def test_who_does_not_tell_what_it_has_is_no_dead_end() -> None:
    with pytest.raises(StereoError) as refused:
        search(parse_root("http://127.0.0.1:9/mixtapes"), "", plain_http=True)
    assert refused.value.hint


def test_what_is_listed_and_refers_to_something_else_is_not_told(remote: LayoutRemote) -> None:
    class Lying(LayoutRemote):
        def referrers(self, digest: str) -> list[Descriptor]:
            return [*super().referrers(digest), strange]

    other = Descriptor(media.IMAGE_MANIFEST, "sha256:" + "0" * 64, 1)
    blob = describe(b"{}", media.CYCLONEDX, title="of-something-else.json")
    remote.put_blob(blob, b"{}")
    strange = remote.put_manifest(referrer(other, media.CYCLONEDX, [blob], {}), media.IMAGE_MANIFEST)
    assert overview_of(Lying(remote.reference), None) == overview_of(remote, None)
