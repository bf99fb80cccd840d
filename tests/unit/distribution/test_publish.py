"""Publishing: in which order, what is refused, and that who dies in the middle leaves nothing half."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stereo.distribution.merge import TakenError
from stereo.distribution.parallel import side_by_side
from stereo.distribution.publish import publish, publish_statements
from stereo.distribution.shipment import cosign_tag, shipment_of
from stereo.errors import StereoError, UsageError
from stereo.registry import media
from stereo.registry.documents import EMPTY, Descriptor, describe, documents_of, image_index, index_entry
from stereo.registry.errors import DigestMismatch, NotFound, RegistryError
from stereo.registry.layout import LayoutRemote
from stereo.registry.parse import parse_artifact, parse_index
from stereo.registry.remote import Advance
from stereo.registry.strict import canonical
from stereo.report import Silent
from stereo.trust.policy import Policy, policy_of_keys
from unit.distribution.publishing import NOW, VERSION, Killed, Recorder, everything, layout, release, signed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A signed dist, which no test changes, and the public key."""
    folder = tmp_path_factory.mktemp("made")
    dist = release(folder / "dist")
    return dist, signed(dist, folder)


@pytest.fixture
def signed_dist(made: tuple[Path, Path]) -> Path:
    return made[0]


def go(dist: Path, remote: LayoutRemote, **options: Any) -> Any:
    return publish([dist], remote, report=Silent(), now=NOW, jobs=1, **options)


def test_what_names_comes_after_what_it_names_and_floating_tags_last(signed_dist: Path, tmp_path: Path) -> None:
    remote = Recorder(tmp_path / "r", after=lambda _: everything(remote))
    go(signed_dist, remote, floating=["latest"])
    kinds = [change.split()[0] for change in remote.changes]
    order = list(dict.fromkeys(kinds))
    assert order == ["blob", "manifest", "referrer", "tag", "index"]
    assert remote.changes[-2:] == [f"tag {VERSION}", "tag latest"]
    assert remote.changes.count("tag cosign") == 3


def test_killed_before_any_change_a_reader_finds_all_or_nothing_and_the_next_run_finishes(
    signed_dist: Path, tmp_path: Path
) -> None:
    whole = Recorder(tmp_path / "whole")
    wanted = go(signed_dist, whole, floating=["latest"])
    tags = everything(whole)
    for last in range(len(whole.changes)):
        folder = tmp_path / str(last)
        with pytest.raises(Killed):
            go(signed_dist, Recorder(folder, last), floating=["latest"])
        assert everything(layout(folder)).items() <= tags.items()
        again = go(signed_dist, layout(folder), floating=["latest"])
        assert again.digest == wanted.digest
        assert everything(layout(folder)) == tags


def test_publishing_again_changes_nothing(signed_dist: Path, tmp_path: Path) -> None:
    go(signed_dist, layout(tmp_path / "r"), floating=["latest"])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*") if path.is_file()}
    done = go(signed_dist, layout(tmp_path / "r"), floating=["latest"])
    assert (done.sent, done.tags) == (0, ())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*") if path.is_file()} == before


def test_what_was_lost_is_sent_again(signed_dist: Path, tmp_path: Path) -> None:
    first = go(signed_dist, layout(tmp_path / "r"))
    blob = shipment_of(signed_dist).all_blobs()[3].descriptor
    place = tmp_path / "r/blobs/sha256" / blob.digest.removeprefix("sha256:")
    place.unlink()
    assert go(signed_dist, layout(tmp_path / "r")).sent == blob.size
    place.write_bytes(b"\0" * blob.size)
    assert go(signed_dist, layout(tmp_path / "r")).sent == blob.size
    assert everything(layout(tmp_path / "r"))[VERSION] == first.digest


def test_a_version_with_other_bytes_is_refused_before_anything_is_sent(signed_dist: Path, tmp_path: Path) -> None:
    go(signed_dist, layout(tmp_path / "r"))
    remote = Recorder(tmp_path / "r")
    with pytest.raises(TakenError, match="other bytes for amd64") as refused:
        go(release(tmp_path / "other", kernel=b"another" * 2000), remote)
    assert refused.value.hint
    assert "next version" in refused.value.hint
    assert remote.changes == []


def other_architecture(dist: Path, remote: LayoutRemote) -> list[Descriptor]:
    """Have the version hold only the manifests of the same dist for another architecture."""
    manifest = shipment_of(dist).manifest.model_copy(update={"arch": "aarch64-linux"})
    documents = documents_of(manifest, "0" * 64, 1)
    entries = [index_entry(data, name, manifest.arch) for name, data in documents.manifests.items()]
    for data in documents.manifests.values():
        remote.put_manifest(data, media.IMAGE_MANIFEST)
    remote.put_manifest(image_index(manifest.name, VERSION, entries), media.IMAGE_INDEX, VERSION)
    return entries


def test_another_architecture_joins_the_index_raw_first(signed_dist: Path, tmp_path: Path) -> None:
    remote = layout(tmp_path / "r")
    there = other_architecture(signed_dist, remote)
    go(signed_dist, remote)
    entries = parse_index(remote.get_manifest(VERSION)[1]).entries
    assert [(one.platform and one.platform.architecture, one.annotations[media.FORMAT]) for one in entries] == [
        ("amd64", "raw"),
        ("amd64", "qcow2"),
        ("arm64", "raw"),
        ("arm64", "qcow2"),
    ]
    assert {one.digest for one in there} < {one.digest for one in entries}
    assert go(signed_dist, remote).tags == ()


def test_somebody_who_publishes_another_architecture_meanwhile_loses_nothing(signed_dist: Path, tmp_path: Path) -> None:
    def meddle(what: str) -> None:
        if what == "index" and not done:
            done.append(other_architecture(signed_dist, layout(tmp_path / "r")))

    done: list[list[Descriptor]] = []
    remote = Recorder(tmp_path / "r", after=meddle)
    go(signed_dist, remote)
    assert done
    assert len(parse_index(remote.get_manifest(VERSION)[1]).entries) == 4


def test_a_tag_that_will_not_stay_is_an_error(signed_dist: Path, tmp_path: Path) -> None:
    def meddle(what: str) -> None:
        if what == f"tag {VERSION}":
            other_architecture(signed_dist, layout(tmp_path / "r"))

    with pytest.raises(RegistryError, match="changes while it is published"):
        go(signed_dist, Recorder(tmp_path / "r", after=meddle))


def test_a_blob_that_is_lost_before_the_tag_is_noticed(signed_dist: Path, tmp_path: Path) -> None:
    blob = shipment_of(signed_dist).all_blobs()[0].descriptor
    place = tmp_path / "r/blobs/sha256" / blob.digest.removeprefix("sha256:")
    for harm, error in (
        (place.unlink, NotFound),
        (lambda: place.write_bytes(b"\0" * blob.size), DigestMismatch),
    ):
        remote = Recorder(tmp_path / "r", after=_once("manifest", harm))
        with pytest.raises(error):
            go(signed_dist, remote)
        assert VERSION not in remote.tags()


def _once(kind: str, harm: Callable[[], object]) -> Callable[[str], None]:
    left = [harm]

    def after(what: str) -> None:
        if what.startswith(kind) and left:
            left.pop()()

    return after


def test_floating_tags_do_not_go_back(signed_dist: Path, tmp_path: Path) -> None:
    remote = layout(tmp_path / "r")
    newer = release(tmp_path / "newer", "2026.01.02.10")
    go(newer, remote, floating=["latest"])
    with pytest.raises(UsageError, match=r"names 2026\.01\.02\.10, which is newer"):
        go(signed_dist, remote, floating=["latest"])
    assert remote.tags().count(VERSION) == 0
    go(signed_dist, remote)
    go(release(tmp_path / "newest", "2026.01.11.0"), remote, floating=["latest"])
    assert everything(remote)["latest"] == everything(remote)["2026.01.11.0"]


@pytest.mark.parametrize("tag", ["2026.01.02.5", "sha256-" + "0" * 64, "a b"])
def test_a_wrong_tag_is_refused_before_a_dist_is_read(tag: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"for ever|is no tag"):
        go(tmp_path / "nothing", layout(tmp_path / "r"), floating=[tag])


@pytest.mark.parametrize("tag", ["2026.01.02.5", "sha256-" + "0" * 64])
def test_a_floating_tag_is_none_that_must_stay(tag: str, signed_dist: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="for ever"):
        go(signed_dist, layout(tmp_path / "r"), floating=[tag])


def test_no_dev_dists_no_revisions_no_parts(tmp_path: Path) -> None:
    dist = release(tmp_path / "dist")
    text = (dist / "mixtape.toml").read_text()
    for change, reason in (
        (("dev = false", "dev = true"), "dev profile"),
        ((VERSION, "dev-abc"), "only releases are published"),
    ):
        (dist / "mixtape.toml").write_text(text.replace(*change))
        with pytest.raises(UsageError, match=reason) as refused:
            go(dist, layout(tmp_path / "r"))
        assert refused.value.hint
    (dist / "mixtape.toml").write_text(text)
    (dist / "stereos.qcow2").unlink()
    with pytest.raises(UsageError, match=r"stereos\.qcow2 is not here"):
        go(dist, layout(tmp_path / "r"))
    assert not (tmp_path / "r").exists()


def test_an_altered_dist_is_refused_by_name(tmp_path: Path) -> None:
    dist = release(tmp_path / "dist")
    data = bytearray((dist / "initrd").read_bytes())
    data[10] ^= 1
    (dist / "initrd").write_bytes(data)
    with pytest.raises(StereoError, match="initrd"):
        go(dist, layout(tmp_path / "r"))


def test_dists_of_two_releases_or_twice_the_same_are_refused(signed_dist: Path, tmp_path: Path) -> None:
    other = release(tmp_path / "other", "2026.01.03.0")
    with pytest.raises(UsageError, match="different releases"):
        publish([signed_dist, other], layout(tmp_path / "r"), report=Silent())
    with pytest.raises(UsageError, match="two dists are for x86_64-linux"):
        publish([signed_dist, signed_dist], layout(tmp_path / "r"), report=Silent())


def test_a_policy_is_satisfied_or_nothing_is_published(made: tuple[Path, Path], tmp_path: Path) -> None:
    dist, key = made
    policy: Policy = policy_of_keys([key])
    unsigned = release(tmp_path / "dist")
    with pytest.raises(StereoError, match="does not satisfy the policy"):
        go(unsigned, layout(tmp_path / "r"), policy=policy)
    assert not (tmp_path / "r").exists()
    assert go(dist, layout(tmp_path / "r"), policy=policy).tags == (VERSION,)


def test_what_nobody_signed_is_published_with_a_warning(tmp_path: Path) -> None:
    class Hearing(Silent):
        def warn(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    publish([release(tmp_path / "dist")], layout(tmp_path / "r"), report=Hearing())
    assert len(said) == 1
    assert "nobody signed sample-mixtape" in said[0]


def test_statements_about_another_build_are_refused(signed_dist: Path, tmp_path: Path) -> None:
    other = release(tmp_path / "other", kernel=b"another" * 2000)
    (other / "attestations").mkdir()
    for statement in (signed_dist / "attestations").iterdir():
        (other / "attestations" / statement.name).write_bytes(statement.read_bytes())
    with pytest.raises(StereoError, match="other files"):
        go(other, layout(tmp_path / "r"))
    (other / "attestations" / statement.name).write_bytes(b"{}")
    with pytest.raises(StereoError):
        go(other, layout(tmp_path / "r"))


def test_statements_of_others_are_added_to_what_is_published(tmp_path: Path) -> None:
    dist, remote = release(tmp_path / "dist"), Recorder(tmp_path / "r")
    signed(dist, tmp_path)
    with pytest.raises(UsageError, match="not there for this architecture"):
        publish_statements(dist, remote, report=Silent())
    go(dist, remote)
    tags = everything(remote)
    subject = shipment_of(dist).subject
    theirs = release(tmp_path / "theirs")
    signed(theirs, tmp_path, "second")
    remote.changes.clear()
    done = publish_statements(theirs, remote, report=Silent(), jobs=1)
    assert done.digest == tags[VERSION] == everything(remote)[VERSION]
    assert {change.split()[0] for change in remote.changes} == {"blob", "referrer", "tag"}
    found = [one for one in remote.referrers(subject.digest) if one.artifact_type == media.DSSE]
    assert len(found) == 4
    assert len(parse_artifact(remote.get_manifest(cosign_tag(subject))[1]).layers) == 4
    unsigned = release(tmp_path / "unsigned")
    with pytest.raises(UsageError, match="no signed statements"):
        publish_statements(unsigned, remote, report=Silent())


def test_what_has_the_tag_and_is_no_mixtape_stays(signed_dist: Path, tmp_path: Path) -> None:
    remote = layout(tmp_path / "r")
    strangers = image_index("another-mixtape", VERSION, [])
    remote.put_manifest(strangers, media.IMAGE_INDEX, VERSION)
    with pytest.raises(TakenError, match="another-mixtape"):
        go(signed_dist, remote)
    assert remote.get_manifest(VERSION)[1] == strangers


def test_a_floating_tag_of_something_else_stays_and_one_of_the_original_moves(
    signed_dist: Path, tmp_path: Path
) -> None:
    remote = layout(tmp_path / "r")
    layer = describe(b"a container's", "application/vnd.oci.image.layer.v1.tar")
    remote.put_blob(layer, b"a container's")
    remote.put_blob(EMPTY, media.EMPTY_BYTES)

    def image(kind: str) -> dict[str, object]:
        return {
            "schemaVersion": 2,
            "mediaType": media.IMAGE_MANIFEST,
            "config": EMPTY.as_json(),
            "layers": [{**layer.as_json(), "mediaType": kind}],
        }

    def index(kind: str) -> bytes:
        entry = remote.put_manifest(canonical(image(kind)), media.IMAGE_MANIFEST)
        return canonical({"schemaVersion": 2, "mediaType": media.IMAGE_INDEX, "manifests": [entry.as_json()]})

    strangers = (
        (canonical(image(layer.media_type)), media.IMAGE_MANIFEST),
        (index(layer.media_type), media.IMAGE_INDEX),
        (canonical({"schemaVersion": 2, "mediaType": media.IMAGE_INDEX, "manifests": []}), media.IMAGE_INDEX),
    )
    for document, kind in strangers:
        remote.put_manifest(document, kind, "latest")
        for floating in (["latest"], None):
            with pytest.raises(UsageError, match="no mixtape"):
                go(signed_dist, remote, floating=floating)
        assert remote.get_manifest("latest")[1] == document
        assert VERSION not in remote.tags()
    remote.put_manifest(index(media.DISKS["raw"]), media.IMAGE_INDEX, "latest")
    go(signed_dist, remote, floating=None)
    assert everything(remote)["latest"] == everything(remote)[VERSION]


def test_what_a_registry_does_not_list_is_noticed_before_the_tag(signed_dist: Path, tmp_path: Path) -> None:
    class Forgetful(LayoutRemote):
        def referrers(self, digest: str) -> list[Descriptor]:
            return super().referrers(digest)[1:]

    remote = Forgetful(layout(tmp_path / "r").reference)
    with pytest.raises(RegistryError, match="does not list"):
        go(signed_dist, remote)
    assert VERSION not in remote.tags()


def test_a_blob_that_fails_ends_the_others() -> None:
    def work(item: str, advance: Advance) -> None:
        if item == "fails":
            raise StereoError("no more room")
        while True:  # as one that has gigabytes to go
            advance(1)

    with pytest.raises(StereoError, match="no more room"):
        side_by_side("Publishing", 2, ["endless", "fails"], work, Silent(), jobs=2)


def test_a_document_that_is_damaged_before_the_tag_is_noticed(signed_dist: Path, tmp_path: Path) -> None:
    digest = shipment_of(signed_dist).subject.digest.removeprefix("sha256:")
    place = tmp_path / "r/blobs/sha256" / digest
    remote = Recorder(tmp_path / "r", after=_once("tag cosign", lambda: place.write_bytes(b"{}")))
    with pytest.raises(DigestMismatch):
        go(signed_dist, remote)
    assert VERSION not in remote.tags()


@pytest.mark.parametrize("media_type", [media.IMAGE_INDEX, media.IMAGE_MANIFEST])
def test_a_registry_that_gives_back_something_else_gets_no_tag(
    media_type: str, signed_dist: Path, tmp_path: Path
) -> None:
    class Lying(LayoutRemote):
        def get_manifest(self, version: str) -> tuple[Descriptor, bytes]:
            described, document = super().get_manifest(version)
            lies = version == described.digest and described.media_type == media_type
            return described, document + b" " if lies else document

    remote = Lying(layout(tmp_path / "r").reference)
    with pytest.raises(DigestMismatch, match="something else"):
        go(signed_dist, remote)
    assert VERSION not in remote.tags()


def test_a_newer_release_that_came_meanwhile_keeps_its_floating_tag(signed_dist: Path, tmp_path: Path) -> None:
    def meddle() -> None:
        go(newer, layout(tmp_path / "r"), floating=["latest"])

    newer = release(tmp_path / "newer", "2026.01.03.0")
    remote = Recorder(tmp_path / "r", after=_once(f"tag {VERSION}", meddle))
    with pytest.raises(UsageError, match=r"names 2026\.01\.03\.0, which is newer"):
        go(signed_dist, remote, floating=["latest"])
    assert everything(remote)["latest"] == everything(remote)["2026.01.03.0"]


def test_what_changes_after_the_floating_tag_is_still_noticed(signed_dist: Path, tmp_path: Path) -> None:
    def meddle() -> None:
        other_architecture(signed_dist, layout(tmp_path / "r"))

    remote = Recorder(tmp_path / "r", after=_once("tag latest", meddle))
    go(signed_dist, remote, floating=["latest"])
    assert remote.get_manifest("latest") == remote.get_manifest(VERSION)
    assert len(parse_index(remote.get_manifest(VERSION)[1]).entries) == 4


def test_checksums_of_something_else_are_refused(tmp_path: Path) -> None:
    dist = release(tmp_path / "dist")
    signed(dist, tmp_path)
    sums = dist / "SHA256SUMS"
    sums.write_text(sums.read_text().replace("bzImage", "initrd2"))
    with pytest.raises(StereoError, match="SHA256SUMS: checksums"):
        go(dist, layout(tmp_path / "r"))
    assert not (tmp_path / "r").exists()
