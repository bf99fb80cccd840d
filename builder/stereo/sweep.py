"""What `stereo clean` may remove: everything in the cache that no dist here and no lock needs.

A dist needs the image, tree and tools that its plan names, so that a build of it stays a look-up; a lock needs the
downloads that it names, so that an offline build stays possible, even when the mirrors have moved on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stereo.assemble.dist import read_manifest
from stereo.build.budget import leftovers, size_of
from stereo.build.defaults import dev_key
from stereo.build.plans import plan_for
from stereo.errors import StereoError
from stereo.holding import is_held
from stereo.inputs.lockfiles import LockFolder
from stereo.model.architecture import Architecture
from stereo.model.mixtape import load_mixtape
from stereo.paths import Cache, Checkout

_HELD = ("tools", "trees", "images")  # rooms of what running programs may hold
_NAMES = {
    "store": "downloads",
    "tools": "tools trees",
    "trees": "package trees",
    "images": "images",
    "frames": "compressed frames",
    "work": "leftovers of builds",
}


@dataclass(frozen=True)
class Heap:
    """Files of one kind: `paths` can go, they take `size` bytes; `kept` others stay."""

    kind: str
    paths: tuple[Path, ...]
    size: int
    kept: int


def dists_in(folders: Iterable[Path]) -> list[Path]:
    """The dists below `folders`, each DIR/NAME/VERSION/ARCH."""
    return sorted({path.parent.resolve() for folder in folders for path in folder.glob("*/*/*/mixtape.toml")})


def heaps(cache: Cache, checkout: Checkout, dists: Iterable[Path], *, everything: bool) -> list[Heap]:
    """What can go, by kind. With `everything` nothing is kept."""
    keep = set() if everything else {*_needed_by_dists(checkout, dists), *_needed_by_locks(checkout)}
    rooms = {
        "store": list(cache.store.glob("sha256/*/*")) + list(cache.store.glob("part/*")) + leftovers(cache),
        "tools": list(cache.tools.glob("*")),
        "trees": list(cache.trees.glob("*")),
        "images": list(cache.images.glob("*")),
        "frames": list(cache.frames.glob("*/*")),
        "work": [path for path in cache.work.glob("*") if path.suffix != ".lock" and not _in_use(path)],
    }
    found = []
    for room, paths in rooms.items():
        spare = (path for path in paths if path.name.removesuffix(".tar") not in keep)
        gone = tuple(sorted(path for path in spare if room not in _HELD or not is_held(path)))
        found.append(Heap(_NAMES[room], gone, sum(map(size_of, gone)), len(paths) - len(gone)))
    return found


def _needed_by_dists(checkout: Checkout, dists: Iterable[Path]) -> Iterator[str]:
    for dist in dists:
        with suppress(StereoError, OSError):  # a dist of another time or machine: nothing here is known to be its
            manifest = read_manifest(dist)
            plan = plan_for(
                load_mixtape(manifest.name, checkout.mixtapes, dev_key=dev_key()),
                Architecture.from_system(manifest.arch),
                version=manifest.version,
                epoch=manifest.build.epoch,
                level=manifest.build.level,
                locks=None,
            )
            yield from (plan.tools_key, plan.packages_key)
            if plan.key == manifest.build.plan_key:
                yield plan.image_key


def _needed_by_locks(checkout: Checkout) -> Iterator[str]:
    folder = LockFolder(checkout.manifests)
    for architecture in Architecture:
        for path in sorted(checkout.manifests.glob(f"*-{architecture}.lock")):
            lock = folder.read(path.name.removesuffix(f"-{architecture}.lock"), architecture)
            yield from (item.sha256 for item in lock.items())


def running_build(cache: Cache) -> str | None:
    """The name of a build that works in this cache right now, or None."""
    return next((path.stem for path in sorted(cache.work.glob("*.lock")) if is_held(path)), None)


def _in_use(folder: Path) -> bool:
    """Whether its owner lives: a build holds the lock file beside its folder, a machine the folder itself."""
    return is_held(folder.with_name(f"{folder.name}.lock")) or is_held(folder)
