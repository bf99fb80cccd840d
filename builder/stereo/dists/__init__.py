"""The local store: the dists that a sandbox can be made from, by name, version and architecture.

`$XDG_DATA_HOME/stereo/dists/NAME/VERSION/ARCH` is a dist, or a symbolic link to where `stereo build` put one. What a
link leads to may be gone or have become another dist since; so whoever asks for one gets it checked: its mixtape.toml
must be valid and say the name, version and architecture that it stands under.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stereo.assemble.dist import read_manifest_with_digest
from stereo.errors import StereoError, UsageError, shown
from stereo.model.architecture import Architecture
from stereo.model.document import nearest
from stereo.model.manifest import MANIFEST_FILE, is_release
from stereo.paths import user_data

LATEST = "latest"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}")


@dataclass(frozen=True)
class Dist:
    """A dist whose manifest was read. `manifest_digest` is the SHA-256 of that: it has the digests of all files."""

    path: Path
    name: str
    version: str
    arch: Architecture
    manifest_digest: str


@dataclass(frozen=True)
class Entry:
    """A place in the store. `target` is what it leads to, whether that is there or not."""

    name: str
    version: str
    arch: str
    place: Path

    @property
    def target(self) -> Path:
        return self.place.readlink() if self.place.is_symlink() else self.place

    @property
    def there(self) -> bool:
        """Whether it leads to something that has a manifest."""
        return (self.place / MANIFEST_FILE).is_file()


def store_folder() -> Path:
    """Where the local store is."""
    return user_data() / "dists"


def register(dist: Path, *, name: str, version: str, arch: str, store: Path) -> None:
    """Have `store` lead to `dist` under its name, in one step; a link that was there before is replaced.

    Raises StereoError if a dist itself has that place, and OSError.
    """
    place = store / name / version / arch
    target = dist.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    if target == place.parent.resolve() / arch:  # built right into the store
        return
    if place.exists() and not place.is_symlink():
        hint = f"remove it to have {name} {version} lead to what you build"
        raise StereoError("is a dist of its own, so it is not replaced by a link", where=str(place), hint=hint)
    fresh = place.with_name(f".{arch}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        fresh.symlink_to(target)
    except FileNotFoundError:  # the last of its neighbours was removed just now, and their folder with it
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh.symlink_to(target)
    fresh.replace(place)


def entries(store: Path) -> tuple[Entry, ...]:
    """Everything in the store, by name, the latest version of each first."""
    return tuple(sorted(_entries(store), key=lambda entry: entry.name))


def _entries(store: Path) -> Iterator[Entry]:
    for name in _names(store, _NAME):
        found = [
            Entry(name, version, arch, store / name / version / arch)
            for version in _names(store / name, _VERSION)
            for arch in _names(store / name / version, re.compile("|".join(Architecture)))
        ]
        yield from sorted(found, key=_age, reverse=True)


def _names(folder: Path, wanted: re.Pattern[str]) -> list[str]:
    """What is in `folder` and is named as it should be. Nothing when there is no such folder."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names are what is wanted
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if wanted.fullmatch(name) and ".." not in name)


def _age(entry: Entry) -> tuple[bool, tuple[int, ...], int]:
    """Releases after all others, by their number; others by when they came into the store."""
    if is_release(entry.version):
        return True, tuple(map(int, entry.version.split("."))), 0
    try:
        return False, (), entry.place.lstat().st_mtime_ns
    except OSError:
        return False, (), 0


def resolve(reference: str, *, store: Path | None = None, arch: str | None = None) -> Dist:
    """The dist that `reference` means: NAME, NAME:VERSION, NAME:latest, or the path of a dist (with a '/' in it).

    NAME alone is NAME:latest: the highest release, or else what came last into the store. `arch` is by default this
    machine's. Raises UsageError when there is no such dist, StereoError when it is not what it should be.
    """
    if "/" in reference or reference in (".", "..", "~"):
        return dist_in(Path(reference))
    return _stored(reference, store or store_folder(), arch or _own_architecture())


def _own_architecture() -> str:
    try:
        return Architecture.from_machine(platform.machine())
    except ValueError:
        return platform.machine()  # for which there is nothing


def dist_in(folder: Path) -> Dist:
    """The dist in `folder`. Raises UsageError when there is none, StereoError when its manifest is not valid."""
    return _read(folder, "give the folder that `stereo build` made")


def _stored(reference: str, store: Path, arch: str) -> Dist:
    from stereo.model.jcard import STORED  # it takes longer to import than all else here

    parts = STORED.fullmatch(reference)
    if parts is None or ".." in reference:
        hint = "NAME, NAME:VERSION, NAME:latest, or a path with a '/'"
        raise UsageError(f"{shown(reference, 80)} is no mixtape", hint=hint)
    name, version = parts[1], parts[2] or LATEST
    found = [entry for entry in entries(store) if entry.name == name]
    if not found:
        others = ", ".join(sorted({entry.name for entry in entries(store)})) or "nothing"
        hint = f"`stereo build {name}` makes one, `stereo pull` gets a published one; there is {others}"
        raise UsageError(f"there is no dist of {name} in the local store", where=str(store), hint=hint)
    here = [entry for entry in found if entry.arch == arch]
    if not here:
        archs = ", ".join(sorted({entry.arch for entry in found}))
        hint = f"`stereo build {name} --arch {arch}` makes one; --arch {found[0].arch} takes the other"
        raise UsageError(f"{name} is there for {archs}, not for {arch}", where=str(store), hint=hint)
    if version == LATEST:
        entry = next((entry for entry in here if entry.there), here[0])
    else:
        named = [entry for entry in here if entry.version == version]
        if not named:
            if elsewhere := [entry.arch for entry in found if entry.version == version]:
                hint = f"`stereo build {name} --arch {arch}` makes one; --arch {elsewhere[0]} takes the other"
                what = f"{name} {version} is there for {', '.join(elsewhere)}, not for {arch}"
                raise UsageError(what, where=str(store), hint=hint)
            known = nearest(version, [LATEST, *(entry.version for entry in here)])
            raise UsageError(f"there is no version {version} of {name}", where=str(store), hint=known)
        entry = named[0]
    return _checked(entry)


def _checked(entry: Entry) -> Dist:
    again = f"`stereo build {entry.name}` makes another"
    if not entry.there:
        what = f"{entry.name} {entry.version} was at {shown(str(entry.target))}, and is there no more"
        raise UsageError(what, where=str(entry.place), hint=again)
    dist = _read(entry.place.resolve(), again)
    if (dist.name, dist.version, dist.arch) != (entry.name, entry.version, entry.arch):
        meant = f"{entry.name} {entry.version} for {entry.arch}"
        what = f"says it is {dist.name} {dist.version} for {dist.arch}, not {meant}"
        raise StereoError(what, where=str(dist.path / MANIFEST_FILE), hint=again)
    return dist


def _read(path: Path, hint: str) -> Dist:
    """Raises UsageError when there is no dist, StereoError when its manifest is not valid."""
    try:
        path = path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, nobody's home, a NUL
        raise UsageError("is no path of a dist", where=shown(str(path)), hint=hint) from error
    try:
        manifest, digest = read_manifest_with_digest(path)
    except OSError as error:
        reason = "is no dist: it has no mixtape.toml" if path.is_dir() else f"is no dist: {error.strerror}"
        raise UsageError(reason, where=str(path), hint=hint) from error
    return Dist(path, manifest.name, manifest.version, Architecture.from_system(manifest.arch), digest)
