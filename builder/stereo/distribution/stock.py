"""What of a blob is here already: in the files, and in the frames of compressed disks, of dists in the local store.

Nothing here has to be right. A dist that rotted, or that somebody removes meanwhile, costs a transfer and no more: the
result is held against its digest like one that was fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stereo.artifacts.region import CHUNK, FormatError, OpenFile
from stereo.assemble.dist import read_manifest
from stereo.distribution.frames import Frame, Frames, frames_of
from stereo.errors import StereoError
from stereo.model.manifest import DISK_FILES

_MOST_DISTS = 8
_MOST_DISKS = 2
"""Dists whose frames are looked at: reading a compressed disk costs more than the third would ever save."""

GAP = 64 << 10
"""Bytes that are fetched although they are here, when that spares a request."""


@dataclass(frozen=True)
class Stretch:
    """Bytes `start` to `end` of a blob: at `offset` of the file `source`, or, without one, to be fetched."""

    start: int
    end: int
    source: Path | None = None
    offset: int = 0

    def local_pieces(self, at: int) -> Iterator[bytes]:
        """What is here, from byte `at` of the blob on. Raises FormatError if it is not what it was."""
        assert self.source is not None
        with OpenFile(self.source) as file:
            position = self.offset + at - self.start
            yield from file.region.part(position, self.end - at).chunks(CHUNK)


@dataclass
class Stock:
    """Where dists lie that may have what is wanted, the best first."""

    dists: Sequence[Path]
    _files: dict[str, Path] | None = field(default=None, repr=False)
    _frames: dict[str, tuple[Path, Frame]] | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return bool(self.dists)

    def whole(self, sha256: str, size: int) -> tuple[Stretch, ...]:
        """A file with this digest, as its own manifest says."""
        if self._files is None:
            self._files = {}
            for dist in self.dists[:_MOST_DISTS]:
                with suppress(OSError, StereoError):
                    for name, digest, bytes_ in read_manifest(dist).files():
                        if (dist / name).is_file() and (dist / name).stat().st_size == bytes_:
                            self._files.setdefault(digest, dist / name)
        found = self._files.get(sha256)
        return (Stretch(0, size, found),) if found else ()

    def stretches(self, index: Frames) -> tuple[Stretch, ...]:
        """How to put the file of `index` together from frames that are here and what must be fetched."""
        if self._frames is None:
            self._frames = {}
            for path in self._disks():
                with suppress(FormatError):
                    for frame in frames_of(path).frames:
                        self._frames.setdefault(frame.sha256, (path, frame))
        found: list[Stretch] = []
        for frame in index.frames:
            here = self._frames.get(frame.sha256)
            known = here is not None and here[1].size == frame.size
            source, offset = (here[0], here[1].offset) if here and known else (None, 0)
            found.append(Stretch(frame.offset, frame.offset + frame.size, source, offset))
        return tuple(_joined(_without_islands(found)))

    def _disks(self) -> Iterator[Path]:
        looked_at = 0
        for dist in self.dists:
            there = [dist / name for _, name in DISK_FILES.values() if (dist / name).is_file()]
            yield from there
            looked_at += bool(there)
            if looked_at == _MOST_DISKS:
                return


def _without_islands(stretches: list[Stretch]) -> Iterator[Stretch]:
    """The same, but small ones that are here, between two that are not, are fetched along with these."""
    missing = [one.source is None for one in stretches]
    for at, one in enumerate(stretches):
        inside = 0 < at < len(stretches) - 1 and missing[at - 1] and missing[at + 1]
        yield Stretch(one.start, one.end) if inside and one.end - one.start <= GAP else one


def _joined(stretches: Iterator[Stretch]) -> Iterator[Stretch]:
    last: Stretch | None = None
    for one in stretches:
        if last is None:
            last = one
            continue
        follows = one.source is None or one.offset == last.offset + (last.end - last.start)
        if one.source == last.source and follows:
            last = Stretch(last.start, one.end, last.source, last.offset)
        else:
            yield last
            last = one
    if last is not None:
        yield last
