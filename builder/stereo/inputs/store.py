"""A content-addressed store: a file's name is the SHA-256 of its content, and every read checks that it still is.

Blobs arrive whole or not at all (written beside, then renamed), so any number of processes may share a store. A blob
that no longer has its digest is removed where it is noticed, and the caller fetches it anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stereo.errors import StereoError

CHUNK = 1 << 20  # bytes
_DIGEST = re.compile(r"[0-9a-f]{64}")


class MissingBlobError(StereoError):
    """The store does not hold (or no longer holds intact) what was asked for."""

    def __init__(self, sha256: str, *, corrupt: bool = False) -> None:
        what = "was damaged in the store and has been removed" if corrupt else "is not in the store"
        super().__init__(f"sha256 {sha256} {what}", hint="fetch it again: run without --offline")
        self.sha256 = sha256
        self.corrupt = corrupt


def sha256_of(stream: BinaryIO) -> tuple[str, int]:
    """Digest (hexadecimal) and size in bytes of what is left of a stream."""
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


class Store:
    """The store in the folder `root`, made when something is first added."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, sha256: str) -> Path:
        """Where a blob is or would be. Says nothing about its presence; see `verified`."""
        if not _DIGEST.fullmatch(sha256):
            raise StereoError(f"{sha256[:80]!r} is not a SHA-256")
        return self.root / "sha256" / sha256[:2] / sha256

    def part_of(self, sha256: str) -> Path:
        """Where an unfinished download of a blob is kept. Its content is not to be trusted."""
        self.path_of(sha256)
        return self.room("part") / sha256

    def has(self, sha256: str) -> bool:
        """Whether the blob is there and intact. A damaged one is removed."""
        try:
            self.verified(sha256)
        except MissingBlobError:
            return False
        return True

    def verified(self, sha256: str) -> Path:
        """The path of a blob whose content has just been checked. Raises MissingBlobError."""
        with self.open_verified(sha256):
            return self.path_of(sha256)

    @contextmanager
    def open_verified(self, sha256: str) -> Iterator[BinaryIO]:
        """A blob, opened, checked and rewound. Raises MissingBlobError; a damaged blob is removed first."""
        path = self.path_of(sha256)
        try:
            # Neither a link nor a pipe that somebody planted is a blob.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise MissingBlobError(sha256) from error
        except OSError as error:
            self._discard(path)
            raise MissingBlobError(sha256, corrupt=True) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            self._discard(path)
            raise MissingBlobError(sha256, corrupt=True)
        with os.fdopen(descriptor, "rb") as stream:
            try:
                intact = sha256_of(stream)[0] == sha256
            except OSError:  # the disk fails
                intact = False
            if not intact:
                self._discard(path)
                raise MissingBlobError(sha256, corrupt=True)
            stream.seek(0)
            yield stream

    def place(self, sha256: str, destination: Path) -> None:
        """Copy a blob to `destination`, checked first. Raises MissingBlobError, FileExistsError."""
        with self.open_verified(sha256) as source, destination.open("xb") as target:
            shutil.copyfileobj(source, target, CHUNK)

    def add(self, source: BinaryIO, sha256: str | None = None) -> str:
        """Add the rest of a stream and return its digest. Raises StereoError if it is not the expected `sha256`."""
        descriptor, name = tempfile.mkstemp(dir=self.room("new"))
        temporary = Path(name)
        try:
            digest = hashlib.sha256()
            with os.fdopen(descriptor, "wb") as target:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    target.write(chunk)
            found = digest.hexdigest()
            if sha256 is not None and found != sha256:
                raise StereoError(f"has SHA-256 {found}, not {sha256}")
            self.adopt(temporary, found)
        finally:
            temporary.unlink(missing_ok=True)
        return found

    def adopt(self, file: Path, sha256: str) -> None:
        """Move a file of the same file system into the store. The caller has checked that it has this digest."""
        path = self.path_of(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        file.replace(path)
        path.chmod(0o444)

    def room(self, name: str) -> Path:
        """A folder of the store for unfinished things, on the same file system as its blobs."""
        room = self.root / name
        room.mkdir(parents=True, exist_ok=True)
        return room

    @staticmethod
    def _discard(path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):
                path.unlink()
