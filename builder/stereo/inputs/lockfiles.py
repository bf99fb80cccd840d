"""The folder of locks: `NAME-ARCH.lock`, one for each mixtape and architecture, and the same for the tools."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from pathlib import Path

from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.model.lock import MAX_TEXT, Lock, parse_lock, render_lock
from stereo.paths import Checkout


class LockFolder:
    """Reads and writes locks by name and architecture."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str, arch: Architecture) -> Path:
        """Where that lock is, if it is there."""
        return self.root / f"{name}-{arch}.lock"

    def find(self, name: str, arch: Architecture) -> Lock | None:
        """The lock, or None when there is none. Raises ProblemsError with all that is wrong with it."""
        path = self.path(name, arch)
        try:
            # Without O_NONBLOCK a FIFO of that name would hang us before fstat(2) can tell what it is.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    raise StereoError("is not a regular file", where=str(path), hint=self._hint(name))
                data = stream.read(MAX_TEXT + 1)  # a character is at least a byte: the parser refuses what is longer
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StereoError(f"cannot be read: {error.strerror}", where=str(path), hint=self._hint(name)) from error
        lock = parse_lock(data.decode("utf-8", "replace"), str(path))
        if (lock.name, lock.arch) != (name, arch):
            raise StereoError(f"is the lock of {lock.name} for {lock.arch}", where=str(path), hint=self._hint(name))
        return lock

    def read(self, name: str, arch: Architecture) -> Lock:
        """The lock. Raises StereoError when there is none, ProblemsError with all that is wrong with it."""
        lock = self.find(name, arch)
        if lock is None:
            raise StereoError(
                f"{name} is not locked for {arch}", where=str(self.path(name, arch)), hint=self._hint(name)
            )
        return lock

    def _hint(self, name: str) -> str:
        folder = (
            "" if self.root == Checkout.containing_this_package().manifests else shlex.join(["--locks", str(self.root)])
        )
        return f"make it: stereo lock {name} {folder}".rstrip()

    def write(self, lock: Lock) -> bool:
        """Write a lock, in one rename. Returns whether the file changed."""
        path, data = self.path(lock.name, lock.arch), render_lock(lock).encode()
        try:
            if path.is_file() and path.read_bytes() == data:
                return False
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.root, prefix=f".{path.name}-")
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(data)
                    os.fchmod(stream.fileno(), 0o644)
                Path(name).rename(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise StereoError(f"cannot be written: {error.strerror}", where=str(path)) from error
        return True
