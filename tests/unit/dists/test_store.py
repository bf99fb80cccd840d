"""The local store: what a name means, and that nothing is taken for a dist which is not the one that was asked for."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from makers.dist import make_dist
from stereo.dists import Dist, entries, register, resolve, store_folder
from stereo.errors import StereoError, UsageError
from stereo.model.architecture import Architecture
from stereo.model.manifest import MANIFEST_FILE, Manifest, render_manifest

ARCH = Architecture.X86_64


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The manifest of a small dist."""
    return make_dist(tmp_path_factory.mktemp("sample") / "dist")


class Shelf:
    """A store, and beside it the places where builds put their dists."""

    def __init__(self, root: Path, sample: Manifest) -> None:
        self.store, self.out, self._sample = root / "store", root / "out", sample

    def dist(self, folder: Path, name: str, version: str, arch: str = ARCH) -> Path:
        """As much of a dist as the store looks at."""
        folder.mkdir(parents=True)
        changed = self._sample.model_copy(update={"name": name, "version": version, "arch": f"{arch}-linux"})
        (folder / MANIFEST_FILE).write_text(render_manifest(changed))
        return folder

    def built(self, name: str, version: str, arch: str = ARCH, *, at: int = 0) -> Path:
        """A dist that was built at the time `at`, in seconds, and registered."""
        folder = self.dist(self.out / name / version / arch, name, version, arch)
        register(folder, name=name, version=version, arch=arch, store=self.store)
        os.utime(self.store / name / version / arch, (at, at), follow_symlinks=False)
        return folder

    def resolve(self, reference: str, arch: str = ARCH) -> Dist:
        return resolve(reference, store=self.store, arch=arch)


@pytest.fixture
def shelf(tmp_path: Path, sample: Manifest) -> Shelf:
    return Shelf(tmp_path, sample)


def test_the_store_is_among_the_users_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert store_folder() == tmp_path / "stereo/dists"


def test_what_was_built_is_found_by_its_name(shelf: Shelf) -> None:
    folder = shelf.built("base", "2026.01.31.0")
    digest = hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
    expected = Dist(folder, "base", "2026.01.31.0", ARCH, digest)
    for reference in ("base", "base:latest", "base:2026.01.31.0", str(folder)):
        assert shelf.resolve(reference) == expected


def test_a_dist_may_be_in_the_store_itself(shelf: Shelf) -> None:
    folder = shelf.dist(shelf.store / "base" / "2026.01.31.0" / ARCH, "base", "2026.01.31.0")
    assert shelf.resolve("base").path == folder
    register(folder, name="base", version="2026.01.31.0", arch=ARCH, store=shelf.store)
    assert not folder.is_symlink()


@pytest.mark.parametrize(
    ("versions", "latest"),
    [
        (["2026.01.31.9", "2026.01.31.10", "2026.02.01.0"], "2026.02.01.0"),
        (["2026.01.31.10", "2026.01.31.9"], "2026.01.31.10"),
        (["dev-b", "2025.01.01.0", "dev-a"], "2025.01.01.0"),
        (["dev-b", "dev-a"], "dev-a"),
        (["dev-a", "dev-b"], "dev-b"),
    ],
)
def test_latest_is_the_highest_release_or_else_what_came_last(shelf: Shelf, versions: list[str], latest: str) -> None:
    for at, version in enumerate(versions, 1):
        shelf.built("base", version, at=at)
    assert shelf.resolve("base").version == latest


def test_latest_passes_over_what_is_gone(shelf: Shelf) -> None:
    shelf.built("base", "2026.01.31.0")
    (shelf.built("base", "2026.02.01.0") / MANIFEST_FILE).unlink()
    assert shelf.resolve("base").version == "2026.01.31.0"


def test_each_architecture_has_a_latest_of_its_own(shelf: Shelf) -> None:
    shelf.built("base", "2026.02.01.0", "aarch64")
    shelf.built("base", "2026.01.31.0")
    assert shelf.resolve("base").version == "2026.01.31.0"
    assert shelf.resolve("base", "aarch64").version == "2026.02.01.0"


def test_building_again_somewhere_else_moves_the_link(shelf: Shelf, tmp_path: Path) -> None:
    shelf.built("base", "dev-a")
    other = shelf.dist(tmp_path / "other", "base", "dev-a")
    register(other, name="base", version="dev-a", arch=ARCH, store=shelf.store)
    assert shelf.resolve("base").path == other
    assert [path.name for path in (shelf.store / "base/dev-a").iterdir()] == [ARCH]


def test_a_dist_in_the_store_is_not_replaced_by_a_link(shelf: Shelf, tmp_path: Path) -> None:
    inside = shelf.dist(shelf.store / "base" / "dev-a" / ARCH, "base", "dev-a")
    other = shelf.dist(tmp_path / "other", "base", "dev-a")
    with pytest.raises(StereoError, match="is a dist of its own"):
        register(other, name="base", version="dev-a", arch=ARCH, store=shelf.store)
    assert shelf.resolve("base").path == inside


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nothing", "`stereo build nothing` makes one, `stereo pull` gets a published one"),
        ("bas", "there is base"),
        ("base:2026.01.31.1", "did you mean '2026.01.31.0'"),
        ("base:zzz", "known: latest, 2026.01.31.0"),
        ("", "is no mixtape"),
        (":", "is no mixtape"),
        ("base:", "is no mixtape"),
        ("base:a:b", "is no mixtape"),
        ("Base", "is no mixtape"),
        ("a..b", "is no mixtape"),
        ("base:..", "is no mixtape"),
        ("base:a\n", "is no mixtape"),
        ("base@sha256:abc", "is no mixtape"),
        ("/nowhere", "is no dist: No such file"),
        ("..", "it has no mixtape.toml"),
        ("/\0", "is no path of a dist"),
        ("~nobody-of-that-name/x", "is no path of a dist"),
        ("../loop/x", "is no"),
        ("registry.example/mixtapes/base", "is no dist: No such file"),
    ],
)
def test_what_is_not_there_is_told_with_what_to_do(
    shelf: Shelf, reference: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shelf.built("base", "2026.01.31.0")
    (tmp_path / "here").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UsageError) as caught:
        shelf.resolve(reference)
    assert said in str(caught.value)
    assert caught.value.hint


def test_another_architecture_is_no_substitute(shelf: Shelf) -> None:
    shelf.built("base", "dev-a", "aarch64")
    with pytest.raises(
        UsageError, match=r"base is there for aarch64, not for x86_64.*--arch x86_64.*--arch aarch64 takes the other"
    ):
        shelf.resolve("base")


def test_a_version_of_another_architecture_is_not_said_to_be_missing(shelf: Shelf) -> None:
    shelf.built("base", "2026.01.31.0", "aarch64")
    shelf.built("base", "2026.01.30.0")
    with pytest.raises(
        UsageError, match=r"base 2026.01.31.0 is there for aarch64, not for x86_64.*--arch aarch64 takes the other"
    ):
        shelf.resolve("base:2026.01.31.0")


def test_an_empty_store_says_how_to_fill_it(shelf: Shelf) -> None:
    assert entries(shelf.store) == ()
    with pytest.raises(UsageError, match="`stereo build base` makes one"):
        shelf.resolve("base")


def test_a_link_to_what_is_gone_says_where_it_was(shelf: Shelf) -> None:
    folder = shelf.built("base", "dev-a")
    folder.rename(folder.with_name("moved"))
    (entry,) = entries(shelf.store)
    assert (entry.there, entry.target) == (False, folder)
    for reference in ("base", "base:dev-a"):
        with pytest.raises(UsageError, match=f"base dev-a was at {folder}, and is there no more"):
            shelf.resolve(reference)


def test_a_link_that_goes_in_a_circle_is_gone(shelf: Shelf) -> None:
    (shelf.store / "base/dev-a").mkdir(parents=True)
    (shelf.store / "base/dev-a" / ARCH).symlink_to(ARCH)
    with pytest.raises(UsageError, match="is there no more"):
        shelf.resolve("base")


@pytest.mark.parametrize(("name", "version", "arch"), [("coder", "dev-a", ARCH), ("base", "dev-b", ARCH)])
def test_a_dist_that_says_it_is_another_is_refused(shelf: Shelf, name: str, version: str, arch: str) -> None:
    folder = shelf.dist(shelf.out / "x", name, version, arch)
    register(folder, name="base", version="dev-a", arch=ARCH, store=shelf.store)
    with pytest.raises(StereoError, match="not base dev-a for x86_64"):
        shelf.resolve("base")


@pytest.mark.parametrize("content", [b"", b"\xff", b"name = 'base'", b"x" * (2 << 20)])
def test_a_manifest_that_is_not_valid_is_refused(shelf: Shelf, content: bytes) -> None:
    folder = shelf.built("base", "dev-a")
    (folder / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(StereoError):
        shelf.resolve("base")
    with pytest.raises(StereoError):
        shelf.resolve(str(folder))


def test_a_manifest_that_is_a_pipe_or_a_link_hangs_nobody(shelf: Shelf) -> None:
    folder = shelf.built("base", "dev-a")
    (folder / MANIFEST_FILE).unlink()
    os.mkfifo(folder / MANIFEST_FILE)
    with pytest.raises(StereoError):
        shelf.resolve(str(folder))
    (folder / MANIFEST_FILE).unlink()
    (folder / MANIFEST_FILE).symlink_to("/etc/passwd")
    with pytest.raises(StereoError, match="is a symbolic link"):
        shelf.resolve("base")


def test_what_does_not_belong_into_the_store_is_passed_over(shelf: Shelf) -> None:
    shelf.built("base", "dev-a")
    for stray in (
        "Upper/v/x86_64",
        "base/.hidden/x86_64",
        "base/dev-a/riscv64",
        "a..b/v/x86_64",
        "base/dev-a/.x86_64.7",
    ):
        (shelf.store / stray).mkdir(parents=True)
    (shelf.store / "file").write_text("")
    (shelf.store / "base" / "note").write_text("")
    assert [(each.name, each.version, each.arch) for each in entries(shelf.store)] == [("base", "dev-a", ARCH)]


def test_entries_are_by_name_and_the_latest_of_each_first(shelf: Shelf) -> None:
    for at, (name, version) in enumerate(
        [("b", "dev-1"), ("a", "2026.01.01.0"), ("b", "dev-2"), ("a", "2026.01.02.0")]
    ):
        shelf.built(name, version, at=at + 1)
    found = [(each.name, each.version) for each in entries(shelf.store)]
    assert found == [("a", "2026.01.02.0"), ("a", "2026.01.01.0"), ("b", "dev-2"), ("b", "dev-1")]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40))
def test_whatever_is_asked_for_is_answered(shelf: Shelf, reference: str) -> None:
    with pytest.raises(UsageError):
        shelf.resolve(reference)
