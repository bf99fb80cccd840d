"""One index for two architectures: published together or one after the other, and what a tag that moves may do."""

from __future__ import annotations

import hashlib
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from makers.node import file
from makers.published import NEW, OLD, make_release
from stereo import dists
from stereo.distribution.overview import overview_of, search, tags_of
from stereo.distribution.publish import Published, publish, publish_statements
from stereo.distribution.pull import Options, Pulled, pull
from stereo.distribution.retention import retire
from stereo.errors import StereoError, UsageError
from stereo.model.architecture import Architecture
from stereo.registry.errors import NotFound
from stereo.registry.layout import LayoutRemote
from stereo.registry.parse import parse_index
from stereo.registry.reference import Reference, parse_root
from stereo.report import Silent
from unit.distribution.publishing import Recorder, everything, layout, release, signed

X86, ARM = Architecture.X86_64, Architecture.AARCH64
NOW = datetime(2026, 2, 1, tzinfo=UTC)


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Architecture], Path]:
    """Two versions for two architectures. What is noise is the same in both versions, and another for each machine."""
    folder = tmp_path_factory.mktemp("releases")
    made = {}
    for arch in Architecture:
        noise = {"/usr/noise": file(hashlib.shake_128(arch.encode()).digest(600_000))}
        for version in (OLD, NEW):
            made[version, arch] = make_release(folder / f"{version}-{arch}", version, more=noise, arch=arch)
    return made


Releases = dict[tuple[str, Architecture], Path]


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def remote(tmp_path: Path) -> LayoutRemote:
    return layout(tmp_path / "r")


def named(remote: LayoutRemote, tag: str) -> tuple[str, tuple[Architecture, ...]]:
    """The digest that a tag names, and what for."""
    described, document = remote.get_manifest(tag)
    return described.digest, parse_index(document).architectures


def put(remote: LayoutRemote, *made: Path, tag: str | None = None, report: Silent | None = None) -> Published:
    return publish(made, remote, floating=tag and (tag,), report=report or Silent(), now=NOW)


def test_together_or_one_after_the_other_in_any_order_it_is_the_same_index(releases: Releases, tmp_path: Path) -> None:
    x86, arm = releases[OLD, X86], releases[OLD, ARM]
    places = [layout(tmp_path / name) for name in ("together", "x86-first", "arm-first")]
    put(places[0], x86, arm)
    put(places[1], x86)
    put(places[1], arm)
    put(places[2], arm)
    put(places[2], x86)
    assert {named(place, OLD) for place in places} == {(named(places[0], OLD)[0], (X86, ARM))}
    assert [everything(place)["latest"] == everything(place)[OLD] for place in places] == [True] * 3


def test_latest_waits_for_the_last_architecture_of_a_new_version(releases: Releases, remote: LayoutRemote) -> None:
    put(remote, releases[OLD, X86], releases[OLD, ARM])
    heard = Notes()
    assert put(remote, releases[NEW, X86], report=heard).tags == (NEW,)
    assert named(remote, "latest") == named(remote, OLD)
    assert heard.notes == [f"latest stays: it names {OLD}, which is there for aarch64, and {NEW} is not"]
    assert put(remote, releases[NEW, ARM], report=heard).tags == (NEW, "latest")
    assert named(remote, "latest") == named(remote, NEW)
    assert len(heard.notes) == 1


def test_latest_moves_to_what_has_more_architectures(releases: Releases, remote: LayoutRemote) -> None:
    put(remote, releases[OLD, X86])
    put(remote, releases[NEW, ARM])  # x86_64 would be lost
    assert named(remote, "latest") == named(remote, OLD)
    put(remote, releases[NEW, X86])
    assert named(remote, "latest") == named(remote, NEW)


def test_an_architecture_that_joins_an_old_version_does_not_bring_latest_back(
    releases: Releases, remote: LayoutRemote
) -> None:
    put(remote, releases[OLD, X86])
    put(remote, releases[NEW, X86])
    put(remote, releases[OLD, ARM])
    assert named(remote, OLD)[1] == (X86, ARM)
    assert named(remote, "latest") == named(remote, NEW)


def test_a_tag_that_is_asked_for_and_would_lose_an_architecture_is_refused_before_anything_is_sent(
    releases: Releases, remote: LayoutRemote
) -> None:
    put(remote, releases[OLD, X86], releases[OLD, ARM], tag="nightly")
    before = everything(remote)
    with pytest.raises(UsageError, match="there for aarch64") as refused:
        put(remote, releases[NEW, X86], tag="nightly")
    assert "--allow-fewer" in (refused.value.hint or "")
    assert everything(remote) == before
    put(remote, releases[NEW, X86], releases[NEW, ARM], tag="nightly")
    assert named(remote, "nightly") == named(remote, NEW)


def test_an_architecture_is_given_up_only_when_that_is_said(releases: Releases, remote: LayoutRemote) -> None:
    put(remote, releases[OLD, X86], releases[OLD, ARM])
    publish([releases[NEW, X86]], remote, floating=None, allow_fewer=True, report=Silent(), now=NOW)
    assert named(remote, "latest") == (named(remote, NEW)[0], (X86,))


def test_who_publishes_the_other_architecture_meanwhile_brings_latest_along(releases: Releases, tmp_path: Path) -> None:
    """Neither saw the other when they began, so each would have left latest where it was."""
    put(layout(tmp_path / "r"), releases[OLD, X86], releases[OLD, ARM])

    def meddle(what: str) -> None:
        if what == "index" and not done:
            done.append(put(layout(tmp_path / "r"), releases[NEW, ARM]))

    done: list[Published] = []
    remote = Recorder(tmp_path / "r", after=meddle)
    put(remote, releases[NEW, X86])
    assert done[0].tags == (NEW,)
    assert named(remote, "latest") == (named(remote, NEW)[0], (X86, ARM))


def get(remote: LayoutRemote, tag: str, arch: Architecture) -> Pulled:
    reference = Reference("layout", path=remote.reference.path, tag=tag)
    return pull(reference, remote, Options(arch=arch), policy=None, now=NOW, report=Silent())


def test_each_machine_gets_its_own_and_both_lie_side_by_side(releases: Releases, remote: LayoutRemote) -> None:
    put(remote, releases[OLD, X86], releases[OLD, ARM])
    for arch in Architecture:
        got = get(remote, "latest", arch)
        assert got.manifest.arch == arch.system
        assert (got.path / "stereos.img").read_bytes() == (releases[OLD, arch] / "stereos.img").read_bytes()
    assert {entry.arch for entry in dists.entries(dists.store_folder())} == {*Architecture}


def test_a_version_that_is_only_for_others_says_for_whom_and_how_to_get_that(
    releases: Releases, remote: LayoutRemote
) -> None:
    put(remote, releases[OLD, X86])
    with pytest.raises(NotFound, match=f"{OLD} is not there for aarch64, only for x86_64") as refused:
        get(remote, OLD, ARM)
    assert "`--arch x86_64`" in (refused.value.hint or "")
    assert "stereo tags" in (refused.value.hint or "")


def test_an_update_takes_the_frames_of_its_own_architecture(
    releases: Releases, remote: LayoutRemote, tmp_path: Path
) -> None:
    newest = "2026.01.04.0"
    put(remote, releases[OLD, X86], releases[OLD, ARM])
    put(remote, releases[NEW, X86], releases[NEW, ARM])
    put(remote, make_release(tmp_path / "newest", newest))
    assert get(remote, OLD, ARM).reused == 0
    for version in (NEW, newest):  # more than are looked into, and newer, but of the other architecture
        get(remote, version, X86)
    update = get(remote, NEW, ARM)
    assert update.reused > 0.5 * update.size


def test_the_newest_of_another_architecture_is_no_reason_to_refuse_latest(
    releases: Releases, remote: LayoutRemote
) -> None:
    put(remote, releases[OLD, X86], releases[OLD, ARM])
    put(remote, releases[NEW, X86])
    get(remote, NEW, X86)
    assert get(remote, "latest", ARM).manifest.version == OLD
    with pytest.raises(StereoError, match="was pulled from there before"):
        get(remote, "latest", X86)


def test_tags_and_search_tell_the_architectures(releases: Releases, tmp_path: Path) -> None:
    remote = layout(tmp_path / "root" / "sample")
    put(remote, releases[OLD, X86], releases[OLD, ARM])
    put(remote, releases[NEW, X86])
    found = tags_of(remote)
    assert found.architectures == {NEW: (X86,), OLD: (X86, ARM)}
    assert [(one.tag, one.release, one.architectures) for one in found.floating] == [("latest", OLD, (X86, ARM))]
    (row,), _ = search(parse_root(str(tmp_path / "root")), "sample", plain_http=False)
    assert (row.newest, row.architectures) == (NEW, (X86,))


def test_one_version_of_two_different_mixtapes_is_refused(
    releases: Releases, remote: LayoutRemote, tmp_path: Path
) -> None:
    other = release(tmp_path / "other", OLD, name="other-mixtape", arch=ARM)
    with pytest.raises(UsageError, match="different releases"):
        put(remote, releases[OLD, X86], other)


def test_what_retention_removes_is_gone_for_both_architectures_and_nothing_of_it_is_left(
    releases: Releases, remote: LayoutRemote, tmp_path: Path
) -> None:
    """Also the index that the version had before the second architecture came."""
    for made in ((OLD, X86), (OLD, ARM), (NEW, X86), (NEW, ARM)):
        put(remote, releases[made])
    for path in Path(remote.reference.path, "blobs/sha256").iterdir():
        os.utime(path, (0, 0))
    assert retire(remote, 1, report=Silent()).versions == (OLD,)
    alone = layout(tmp_path / "alone")
    put(alone, releases[NEW, X86], releases[NEW, ARM])
    assert everything(remote) == everything(alone)
    left, wanted = (
        {path.name for path in Path(place.reference.path, "blobs/sha256").iterdir()} for place in (remote, alone)
    )
    assert left == wanted


def test_what_somebody_else_says_of_one_architecture_is_added_to_that_alone(
    releases: Releases, remote: LayoutRemote, tmp_path: Path
) -> None:
    made = [shutil.copytree(releases[OLD, arch], tmp_path / arch) for arch in Architecture]
    for number, dist in enumerate(made):
        signed(dist, tmp_path, f"release-{number}")
    put(remote, *made)
    before = overview_of(remote, OLD)
    arm = shutil.copytree(releases[OLD, ARM], tmp_path / "theirs")
    signed(arm, tmp_path, "somebody-else")
    publish_statements(arm, remote, report=Silent())
    after = overview_of(remote, OLD)
    assert after.digest == before.digest
    assert after.signed["amd64"] == before.signed["amd64"]
    assert len(after.signed["arm64"]) == len(before.signed["arm64"]) + 2
