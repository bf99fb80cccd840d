"""What a version tag shall name, decided from what it names now: pure.

A version has one index for all its architectures, and each is published when it was built. What is there of an
architecture never changes.
"""

from __future__ import annotations

from collections.abc import Sequence

from stereo.errors import StereoError, shown
from stereo.model.architecture import Architecture
from stereo.model.manifest import is_release
from stereo.registry import media
from stereo.registry.documents import Descriptor, image_index
from stereo.registry.errors import Malformed
from stereo.registry.parse import parse_index


class TakenError(StereoError):
    """The version is there with other bytes."""


def merged_index(name: str, version: str, entries: Sequence[Descriptor], present: bytes | None) -> bytes:
    """The index with `entries` added to `present`, the index that the version tag names now, if it names any.

    Raises TakenError if that has other bytes for what is to be added, or is none of ours.
    """
    there = [] if present is None else _entries(name, version, present)
    known = {_place(entry): entry for entry in there}
    for entry in entries:
        found = known.setdefault(_place(entry), entry)
        if found.digest != entry.digest:
            raise TakenError(
                f"is there with other bytes for {_place(entry)[0]}: {_place(entry)[1]} is {found.digest},"
                f" not {entry.digest}",
                where=f"{name} {version}",
                hint="a release never changes: give what you built the next version",
            )
    return image_index(name, version, list(known.values()))


def version_of(index: bytes) -> str | None:
    """The release that an index of ours says it is; None for anything else."""
    try:
        version = parse_index(index).annotations.get(media.VERSION, "")
    except Malformed:
        return None
    return version if is_release(version) else None


def name_of(index: bytes) -> str | None:
    """The mixtape that an index of ours says it is of; None for anything else."""
    return parse_index(index).annotations.get(media.TITLE) if version_of(index) else None


def architectures_of(index: bytes) -> frozenset[Architecture]:
    """The machines that an index of ours has disks for; none for anything else."""
    return frozenset(parse_index(index).architectures) if version_of(index) else frozenset()


def is_older(one: str, other: str) -> bool:
    """Whether release `one` came before release `other`."""
    return release_number(one) < release_number(other)


def release_number(version: str) -> tuple[int, ...]:
    """A release as what sorts by age."""
    return tuple(map(int, version.split(".")))


def _place(entry: Descriptor) -> tuple[str, str]:
    assert entry.platform is not None
    return entry.platform.architecture, entry.annotations[media.FORMAT]


def _entries(name: str, version: str, present: bytes) -> tuple[Descriptor, ...]:
    where = f"{name} {version}"
    hint = "publish to a repository that holds nothing but this mixtape"
    try:
        index = parse_index(present)
    except Malformed as error:
        raise TakenError("is there, and is no mixtape of stereo", where=where, hint=hint) from error
    said = tuple(index.annotations.get(key, "") for key in (media.TITLE, media.VERSION))
    if said != (name, version):
        what = f"what has this tag says it is {shown(' '.join(said), 120).strip() or 'nothing that we know'}"
        raise TakenError(what, where=where, hint=hint)
    for entry in index.entries:
        if entry.platform is None or entry.annotations.get(media.FORMAT) not in media.FORMATS:
            raise TakenError("is there with something in it that is no disk of ours", where=where, hint=hint)
    return index.entries
