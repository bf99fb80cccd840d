"""Retention: what moving tags name and the latest stay, whole; the others go, and a folder's bytes come back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stereo.distribution.publish import publish
from stereo.distribution.retention import DAY, Retired, retire
from stereo.distribution.shipment import cosign_tag, shipment_of
from stereo.errors import UsageError
from stereo.registry import media
from stereo.registry.errors import NotFound
from stereo.registry.layout import LayoutRemote
from stereo.registry.parse import parse_index
from stereo.registry.reference import parse_reference
from stereo.registry.remote import open_remote
from stereo.report import Silent
from unit.distribution.publishing import NOW, everything, layout, release, signed

VERSIONS = ("2026.01.02.0", "2026.01.02.9", "2026.01.02.10", "2026.02.01.0")


@pytest.fixture(scope="module")
def dists(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Signed dists, which share a kernel and little else."""
    made = []
    for version in VERSIONS:
        folder = tmp_path_factory.mktemp("made")
        made.append(release(folder / "dist", version, content=version.encode()))
        signed(made[-1], folder)
    return tuple(made)


@pytest.fixture
def remote(dists: tuple[Path, ...], tmp_path: Path) -> LayoutRemote:
    """All versions, published in order; `nightly` stayed at the second."""
    remote = layout(tmp_path / "r")
    for dist, tags in zip(dists, (["latest", "nightly"], ["latest", "nightly"], ["latest"], ["latest"]), strict=True):
        publish([dist], remote, floating=tags, report=Silent(), now=NOW, jobs=1)
    return remote


def blobs(remote: LayoutRemote) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in Path(remote.reference.path, "blobs/sha256").iterdir()}


def long_ago(remote: LayoutRemote) -> None:
    for path in Path(remote.reference.path, "blobs/sha256").iterdir():
        os.utime(path, (0, 0))


def go(remote: LayoutRemote, keep: int) -> Retired:
    return retire(remote, keep, report=Silent())


def test_the_latest_and_what_a_moving_tag_names_stay_and_are_whole(remote: LayoutRemote) -> None:
    long_ago(remote)
    before, size = everything(remote), sum(blobs(remote).values())
    done = go(remote, 1)
    assert done.versions == ("2026.01.02.0", "2026.01.02.10")
    after = everything(remote)
    assert {tag for tag in after if not tag.startswith("sha256-")} == {"latest", "nightly", *VERSIONS[1::2]}
    assert after.items() <= before.items()
    assert size - sum(blobs(remote).values()) == done.freed > 0


def test_nothing_of_a_removed_version_is_left(remote: LayoutRemote, dists: tuple[Path, ...], tmp_path: Path) -> None:
    """As if only the others had ever been published."""
    long_ago(remote)
    go(remote, 1)
    other = layout(tmp_path / "other")
    for number in (1, 3):
        publish([dists[number]], other, report=Silent(), now=NOW, jobs=1)
    assert blobs(remote).keys() == blobs(other).keys()


def test_a_manifest_of_an_old_version_that_has_a_tag_of_its_own_stays_with_what_refers_to_it(
    remote: LayoutRemote, dists: tuple[Path, ...]
) -> None:
    shipment = shipment_of(dists[0])
    remote.put_manifest(shipment.manifests["raw"], media.IMAGE_MANIFEST, "pinned")
    referring = {one.digest for one in remote.referrers(shipment.subject.digest)}
    long_ago(remote)
    assert VERSIONS[0] in go(remote, 1).versions
    assert everything(remote)["pinned"] == shipment.subject.digest
    assert {one.digest for one in remote.referrers(shipment.subject.digest)} == referring
    assert cosign_tag(shipment.subject) in remote.tags()


def test_where_there_is_room_nothing_goes(remote: LayoutRemote) -> None:
    long_ago(remote)
    before = everything(remote)
    assert go(remote, 4).versions == ()
    assert everything(remote) == before


def test_what_somebody_may_be_publishing_right_now_is_not_swept_up(
    remote: LayoutRemote, dists: tuple[Path, ...]
) -> None:
    before = blobs(remote)
    assert go(remote, 1).freed == 0
    assert blobs(remote).items() == before.items()
    long_ago(remote)
    assert remote.sweep(DAY) > 0


def test_a_blob_that_is_published_again_counts_as_new(remote: LayoutRemote, dists: tuple[Path, ...]) -> None:
    long_ago(remote)
    remote.remove(remote.get_manifest(VERSIONS[0])[0].digest)
    publish([dists[0]], remote, report=Silent(), now=NOW, jobs=1)
    remote.sweep(DAY)
    everything(remote)
    assert VERSIONS[0] in remote.tags()


class Dying(LayoutRemote):
    """Ends before its change number `last`."""

    left = 0

    def remove(self, digest: str) -> None:
        self._count()
        super().remove(digest)

    def sweep(self, age: float) -> int:
        self._count()
        return super().sweep(age)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_killed_anywhere_every_version_is_whole_or_gone_and_the_next_run_finishes(
    remote: LayoutRemote, dists: tuple[Path, ...]
) -> None:
    long_ago(remote)
    dying, last = Dying(remote.reference), 0
    while True:
        last += 1
        dying.left = last
        try:
            go(dying, 1)
            break
        except KeyboardInterrupt:
            everything(remote)
    assert last > 1
    assert {tag for tag in remote.tags() if not tag.startswith("sha256-")} == {"latest", "nightly", *VERSIONS[1::2]}


def test_a_place_with_nothing_has_nothing_to_remove(tmp_path: Path) -> None:
    remote = layout(tmp_path / "none")
    assert go(remote, 1) == Retired((), 0)
    assert not (tmp_path / "none").exists()


def test_a_removed_document_has_no_tag_any_more_and_removing_it_again_does_nothing(remote: LayoutRemote) -> None:
    digest = remote.get_manifest("nightly")[0].digest
    for _ in range(2):
        remote.remove(digest)
    assert not {"nightly", "2026.01.02.9"}.intersection(remote.tags())
    with pytest.raises(NotFound):
        remote.get_manifest("nightly")
    assert parse_index(remote.get_manifest("latest")[1]).entries


def test_a_web_server_only_gives() -> None:
    remote = open_remote(parse_reference("https://example.org/base"))
    for change in (lambda: remote.remove("sha256:" + "0" * 64), lambda: remote.sweep(0)):
        refused: Callable[[], object] = change
        with pytest.raises(UsageError, match="only gives"):
            refused()
