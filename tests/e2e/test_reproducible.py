"""Two builds of one thing by different people on different machines are equal, byte for byte, in every file."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from makers.builds import assert_identical, copy_checkout, only_dist
from makers.command import Stereo
from makers.users import User
from stereo.assemble.dist import read_manifest
from stereo.cli.plans import plan_of
from stereo.model.manifest import is_release
from stereo.paths import Cache

pytestmark = pytest.mark.build


def same_wishes(dist: Path, locks: Path) -> list[str | Path]:
    """The words that ask for the dist once more."""
    manifest = read_manifest(dist)
    version = ["--version", manifest.version] if is_release(manifest.version) else []
    return ["build", manifest.name, *version, "--level", str(manifest.build.level), "--locks", locks]


def npm_registry() -> dict[str, str]:
    """npm's registry, which may be configured in the home that the other user does not have."""
    if not shutil.which("npm"):
        return {}
    found = subprocess.run(["npm", "config", "get", "registry"], capture_output=True, text=True, check=True).stdout
    return {"NPM_CONFIG_REGISTRY": found.strip()}


def test_everything_that_could_leak_differs_and_the_bytes_do_not(
    stereo: Stereo, dist: Path, locks: Path, someone: User
) -> None:
    """Another checkout path, TZ, LC_ALL, umask, HOME, host name, number of cores, user, time, and an empty cache."""
    checkout = copy_checkout(someone.home / "their own checkout" / "of stereOS")
    elsewhere = shutil.copytree(locks, someone.home / "locks")
    out = someone.home / "out put"
    out.mkdir()
    someone.take(someone.home)
    one_core = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    launcher = [*someone.prefix(hostname="somewhere-else"), *one_core, str(checkout / "stereo")]
    theirs = Stereo(stereo.tell, checkout, program=launcher)
    environment = {
        **npm_registry(),
        **someone.environment(),
        "STEREO_CACHE": str(someone.home / "an empty cache"),
        "TZ": "Pacific/Chatham",
        "LC_ALL": "tr_TR.UTF-8",
        "LANGUAGE": "tr",
        "PYTHONHASHSEED": "4711",
    }
    words = [*same_wishes(dist, elsewhere), "--jobs", "1", "--output-dir", out]
    theirs(*words, cwd=out, env=environment, umask=0o077)
    assert_identical(dist, only_dist(out))


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
