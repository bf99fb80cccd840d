"""Get one blob into a file, whatever happens on the way: what a killed pull left is gone on from, byte by byte.

The file holds the first bytes of the blob and nothing else. What is there is read and hashed again, so nobody has to
believe it; then come, in order, stretches that are here and stretches that are fetched. When the digest of all is
another, the file is thrown away; and if not every byte of it came from the remote just now, all are fetched once more.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from threading import Event, Lock

from stereo.artifacts.region import FormatError
from stereo.distribution.receive import PIECE, Content, Unpacking, flush_behind, flush_rest
from stereo.distribution.stock import Stretch
from stereo.registry.documents import Descriptor
from stereo.registry.errors import DigestMismatch, RegistryError, Unreachable
from stereo.registry.remote import Remote


@dataclass(frozen=True)
class Patience:
    """How often a broken transfer is taken up again with less than `progress` bytes gained; pauses are in seconds."""

    attempts: int = 5
    progress: int = 4 << 20
    pause: float = 0.5
    longest_pause: float = 30.0


@dataclass
class Traffic:
    """Bytes that a pull fetched, and that it took from what was here. `tick` hears of each, as `Progress.advance`."""

    tick: Callable[[int], object] = lambda count: None
    stop: Event = field(default_factory=Event)
    fetched: int = 0
    reused: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def add(self, count: int, *, fetched: bool) -> None:
        """Count bytes. Raises StoppedError when the pull is to end."""
        with self._lock:
            self.fetched += count if fetched else 0
            self.reused += 0 if fetched else count
        self.tick(count)
        if self.stop.is_set():
            raise StoppedError

    def back(self, count: int) -> None:
        """Those bytes are needed again."""
        self.tick(-count)


class StoppedError(Exception):
    """Another blob failed, or the user wants no more of this."""


class _NoRangesError(Exception):
    """The remote gave all of a blob for a part of it."""


@dataclass(frozen=True)
class Wanted:
    """A blob, and the file for it. `content` says what it unpacks to, and is a file beside it."""

    blob: Descriptor
    path: Path
    content: Content | None = None


def obtain(
    remote: Remote,
    wanted: Wanted,
    traffic: Traffic,
    *,
    known: Callable[[], Sequence[Stretch]] = lambda: (),
    patience: Patience = Patience(),
) -> None:
    """Have the file hold the blob, and beside it the content. Both are on the disk only as far as the system likes.

    `known` is asked once for the stretches of the whole blob. Raises RegistryError when it cannot be had,
    `DigestMismatch` when what is served is not it (then the file is gone), OSError.
    """
    stretches, restarts = tuple(known()), 0
    while True:
        transfer = _Transfer(remote, wanted, traffic, patience, stretches)
        try:
            return transfer.run()
        except (DigestMismatch, FormatError) as error:
            wanted.path.unlink(missing_ok=True)
            if isinstance(error, DigestMismatch) and not transfer.trusted:
                raise
        except _NoRangesError as error:
            wanted.path.unlink(missing_ok=True)
            restarts += 1
            if restarts == patience.attempts:
                what = "the registry serves no parts of blobs, and its answers break off"
                raise Unreachable(what, where=wanted.path.name) from error
        traffic.back(transfer.done)
        stretches = ()


class _Transfer:
    """One try, from what is in the file to the end."""

    def __init__(
        self, remote: Remote, wanted: Wanted, traffic: Traffic, patience: Patience, stretches: Sequence[Stretch]
    ) -> None:
        self._remote, self._wanted, self._traffic, self._patience = remote, wanted, traffic, patience
        self._stretches = stretches or (Stretch(0, wanted.blob.size),)
        self.done = 0
        self.trusted = False
        """Whether bytes were used that did not come from the remote in this try."""

    def run(self) -> None:
        blob, content = self._wanted.blob, self._wanted.content
        digest = hashlib.sha256()
        unpacked = self._wanted.path.with_name(content.file) if content else None
        with (
            FileIO(
                os.open(self._wanted.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644), "r+"
            ) as file,
            Unpacking(unpacked, content) if content and unpacked else nullcontext() as unpacking,
        ):
            if os.fstat(file.fileno()).st_size > blob.size:
                file.truncate(0)
            for piece in _there(file):
                self._take(piece, fetched=False)
                digest.update(piece)
                if unpacking:
                    unpacking.put(piece)
            for piece, fetched in self._rest():
                digest.update(piece)
                _write(file, piece)
                flush_behind(file.fileno(), self.done + len(piece), len(piece))
                if unpacking:
                    unpacking.put(piece)
                self._take(piece, fetched=fetched)
            flush_rest(file.fileno(), self.done)
            if (found := f"sha256:{digest.hexdigest()}") != blob.digest:
                raise DigestMismatch(f"blob {blob.digest} came with the digest {found}", where=self._wanted.path.name)
            if unpacking:
                unpacking.finish()

    def _take(self, piece: bytes, *, fetched: bool) -> None:
        self.done += len(piece)
        self.trusted = self.trusted or not fetched
        self._traffic.add(len(piece), fetched=fetched)

    def _rest(self) -> Iterator[tuple[bytes, bool]]:
        """(piece, whether it was fetched) of all that is not in the file yet."""
        failures, gained_at = 0, self.done
        while self.done < self._wanted.blob.size:
            stretch = next(one for one in self._stretches if one.start <= self.done < one.end)
            if stretch.source is not None:
                for piece in stretch.local_pieces(self.done):
                    yield piece, False
                continue
            try:
                for piece in self._fetched(stretch):
                    yield piece, True
            except RegistryError as error:
                if self.done - gained_at >= self._patience.progress:
                    failures, gained_at = 0, self.done
                failures += 1
                if not error.retryable or failures >= self._patience.attempts:
                    raise
                self._wait(error, failures)

    def _fetched(self, stretch: Stretch) -> Iterator[bytes]:
        start, length = self.done, stretch.end - self.done
        with self._remote.open_blob(self._wanted.blob, start, length) as stream:
            if stream.offset != start:
                raise _NoRangesError
            for piece in stream.pieces:
                if len(piece) > length:
                    raise _NoRangesError
                length -= len(piece)
                yield piece
        if length:
            raise Unreachable(f"the registry ended {length} bytes too early", where=self._wanted.path.name)

    def _wait(self, error: RegistryError, failures: int) -> None:
        asked = error.after if isinstance(error, Unreachable) else 0
        pause = max(asked, self._patience.pause * 2 ** (failures - 1))
        until = time.monotonic() + min(pause, self._patience.longest_pause)
        if self._traffic.stop.wait(max(0.0, until - time.monotonic())):
            raise StoppedError


def _there(file: FileIO) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


def _write(file: FileIO, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]
