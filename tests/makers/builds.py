"""What tests of whole builds share: a copy of the checkout, and how two dists are told apart."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from stereo.check.diff import diff
from stereo.paths import Cache, Checkout
from stereo.report import Silent

CHECKOUT = Checkout.containing_this_package().root
BASE = "base"
BASE_VERSION = "2026.01.31.1"


@dataclass(frozen=True)
class Room:
    """A cache and an output folder of a test's own, for builds of the mixtape `base`."""

    folder: Path
    locks: Path

    @property
    def cache(self) -> Cache:
        return Cache(self.folder / "cache")

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def environment(self) -> dict[str, str]:
        return {"STEREO_CACHE": str(self.cache.root)}

    def lend(self, cache: Cache, *rooms: str) -> None:
        """Let this cache have folders of another, as they are."""
        self.cache.root.mkdir(parents=True)
        for name in rooms:
            (self.cache.root / name).symlink_to(getattr(cache, name))

    def build(self, *words: str | Path) -> list[str | Path]:
        """The words that build `base` here."""
        named = ["build", BASE, "--quick", "--version", BASE_VERSION]
        return [*named, "--locks", self.locks, "--output-dir", self.out, *words]


def copy_checkout(target: Path) -> Path:
    """The working tree as it is, history included but nothing that git ignores, at another place. Returns `target`."""
    listed = subprocess.run(
        [
            "git",
            "-c",
            "safe.directory=*",
            "-C",
            CHECKOUT,
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
        capture_output=True,
        check=False,
    )
    assert listed.returncode == 0, "these tests need a git checkout"
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, copied = CHECKOUT / name, target / name
        if source.is_symlink() or source.exists():
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copied, follow_symlinks=False)
    shutil.copytree(CHECKOUT / ".git", target / ".git", symlinks=True)
    return target


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                found[str(path.relative_to(folder))] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def assert_identical(one: Path, other: Path) -> None:
    """Fail with the first level at which two dists part."""
    if digests(one) != digests(other):
        found = diff(one, other, Silent())
        told = "\n".join(f"{row.level}: {row}" for row in found) or "in what diff does not see"
        raise AssertionError(f"{one} and {other} differ first at the level {found[0].level if found else '?'}:\n{told}")


def only_dist(folder: Path) -> Path:
    """The one dist below an output folder."""
    (manifest,) = folder.glob("*/*/*/mixtape.toml")
    return manifest.parent
