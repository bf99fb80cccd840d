"""Two builds of one thing by different people on different machines are equal, byte for byte, in every file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from makers.builds import assert_identical, only_dist
from makers.command import Stereo
from makers.stranger import Stranger
from stereo.assemble.dist import read_manifest
from stereo.build.plans import plan_of
from stereo.model.manifest import is_release
from stereo.paths import Cache

pytestmark = pytest.mark.build


def same_wishes(dist: Path, locks: Path) -> list[str | Path]:
    """The words that ask for the dist once more."""
    manifest = read_manifest(dist)
    version = ["--version", manifest.version] if is_release(manifest.version) else []
    return ["build", manifest.name, *version, "--level", str(manifest.build.level), "--locks", locks]


def test_everything_that_could_leak_differs_and_the_bytes_do_not(dist: Path, locks: Path, stranger: Stranger) -> None:
    """Another checkout path, TZ, LC_ALL, umask, HOME, host name, number of cores, user, time, and an empty cache."""
    stranger = stranger.with_an_empty_cache()
    out = stranger.folder("out put")
    words = [*same_wishes(dist, stranger.copy(locks)), "--jobs", "1", "--output-dir", out]
    stranger.stereo(*words, cwd=out, env=stranger.environment, umask=stranger.umask)
    assert_identical(dist, only_dist(out))
    stranger.give_back(out)


def test_an_image_made_again_from_cached_packages_is_the_same(
    stereo: Stereo, dist: Path, locks: Path, cache: Cache, tmp_path: Path
) -> None:
    """Downloads, tools and packages from the cache, everything after them anew; more workers than cores, no umask."""
    manifest = read_manifest(dist)
    version = manifest.version if is_release(manifest.version) else None
    plan = plan_of(manifest.name, arch=None, version=version, locks=locks, level=manifest.build.level)
    mine = Cache(tmp_path / "cache")
    mine.trees.mkdir(parents=True)
    mine.store.symlink_to(cache.store)
    mine.tools.symlink_to(cache.tools)
    shutil.copyfile(cache.trees / f"{plan.packages_key}.tar", mine.trees / f"{plan.packages_key}.tar")
    words = [*same_wishes(dist, locks), "--offline", "--jobs", "5", "--output-dir", tmp_path / "out"]
    environment = {"STEREO_CACHE": str(mine.root), "TZ": "America/St_Johns", "LC_ALL": "C"}
    stereo(*words, cwd=tmp_path, env=environment, umask=0)
    assert_identical(dist, only_dist(tmp_path / "out"))
