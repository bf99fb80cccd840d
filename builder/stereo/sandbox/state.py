"""What the host keeps of a sandbox: one private folder, and in it a record that never holds a secret.

The supervisor of a sandbox holds a lock on it for as long as it lives, so that whether it lives needs no guessing by
process numbers. A record that says "running" in a folder that nobody holds tells of a supervisor that was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from stereo.errors import StereoError, UsageError
from stereo.holding import is_seized
from stereo.model.architecture import Architecture
from stereo.paths import user_state

STARTING, RUNNING, STOPPING = "starting", "running", "stopping"  # somebody holds the lock
STOPPED, FAILED = "stopped", "failed"  # nobody does, and the last supervisor said how it ended
CRASHED = "crashed"  # nobody does, and it said nothing
UNREADABLE = "unreadable"  # what is kept of it is none of ours
_ALIVE = (STARTING, RUNNING, STOPPING)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}", re.ASCII)
_LARGEST_RECORD = 1 << 16
_LOCK_SECONDS = 2.0  # whoever only looks holds the lock for microseconds


class Taken(StereoError):  # noqa: N818 - reads as what happened
    """Another supervisor has the sandbox."""


def check_name(name: str) -> str:
    """`name`, if a sandbox may be called so: it becomes a folder. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:80]!r} is no name of a sandbox",
            hint="lower-case letters, digits and '-', at most 41, beginning with a letter or digit",
        )
    return name


@dataclass(frozen=True)
class Record:
    """What outlives the supervisor. Times are seconds since the epoch; `reason` says how the last run ended.

    `manifest` is the SHA-256 of the mixtape.toml that the disk, of `disk` bytes, was made for. `proven` turns true when
    a run has been ready: a disk whose first boot was cut short is made anew. `backend` has made the disk.
    `arch` is the guest's.
    """

    name: str
    jcard: str
    mixtape: str
    dist: str
    manifest: str
    created: float
    disk: int = 0
    state: str = STARTING
    reason: str = ""
    changed: float = 0.0
    proven: bool = False
    ssh_port: int | None = None
    network: str = ""
    backend: str = "qemu"
    arch: str = ""
    digest: str = ""
    """SHA-256 of the jcard as it was understood, without the values of secrets."""

    def now(self, state: str, reason: str = "") -> Record:
        """The record of a sandbox that has just come into `state`."""
        return replace(self, state=state, reason=reason[:2000], changed=time.time())


class Folder:
    """The state folder of one sandbox. Making the object touches nothing."""

    def __init__(self, name: str, root: Path | None = None) -> None:
        self.name = check_name(name)
        self.root = root if root is not None else sandboxes()
        self.path = self.root / name
        self.socket = self.path / "control.sock"
        self.disks = {"qemu": self.path / "overlay.qcow2", "applevirt": self.path / "disk.raw"}
        """What the guest wrote to its disk, by the backend that has it so."""
        self.console_log = self.path / "console.log"
        self.log = self.path / "supervisor.log"
        self.egress_log = self.path / "egress.jsonl"
        self.actions_log = self.path / "actions.jsonl"
        self.ssh_key = self.path / "ssh_key"
        self.known_hosts = self.path / "known_hosts"
        self._record = self.path / "sandbox.json"

    def exists(self) -> bool:
        """Whether there is such a sandbox, running or not."""
        return self.path.is_dir() and not self.path.is_symlink()

    def make(self) -> bool:
        """Have the folder, private; True if it was not there. Raises StereoError if it is not ours alone."""
        self.root.parent.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self.root.parent, self.root):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            self.check()
            return False
        self.check()
        return True

    def check(self) -> None:
        """Raises StereoError unless the folder and those above it up to the state's root belong to us alone."""
        for folder in (self.root, self.path):
            try:
                found = folder.lstat()
            except FileNotFoundError:
                raise UsageError(f"there is no sandbox {self.name}", hint="stereo list shows those that are") from None
            if not stat.S_ISDIR(found.st_mode):
                raise StereoError("is in the way: not a folder", where=str(folder))
            if found.st_uid != os.geteuid():
                raise StereoError("belongs to another user", where=str(folder))
            if found.st_mode & 0o077:
                raise StereoError("is open to others", where=str(folder), hint=f"chmod 700 {folder}")

    def lock(self) -> int:
        """Hold the sandbox for as long as the returned descriptor is open. Raises Taken if somebody else does."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        give_up = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < give_up:
                    time.sleep(0.02)
                    continue
                os.close(descriptor)
                raise Taken(f"{self.name} has a supervisor already", hint=f"stereo status {self.name}") from None
            if self._is_lock(descriptor):
                return descriptor
            os.close(descriptor)
            raise Taken(f"{self.name} was destroyed just now", hint="run again")

    def _is_lock(self, descriptor: int) -> bool:
        """Whether that is the lock still: while we waited for it, its folder may have gone, and another come."""
        try:
            return os.path.samestat(os.fstat(descriptor), (self.path / "lock").lstat())
        except FileNotFoundError:
            return False

    def held(self) -> bool:
        """Whether a supervisor has the sandbox."""
        return is_seized(self.path / "lock")

    def record(self) -> Record | None:
        """What was written down; None if nothing was. Raises StereoError for a file that is none of ours."""
        try:
            with self._record.open("rb") as file:
                data = json.loads(file.read(_LARGEST_RECORD))
            return _record(data, self.name)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, RecursionError) as error:
            raise StereoError(
                f"cannot be read: {error}", where=str(self._record), hint=f"stereo destroy {self.name}"
            ) from None

    def write(self, record: Record) -> None:
        """Replace what was written down, at once or not at all."""
        with tempfile.NamedTemporaryFile("w", dir=self.path, prefix=".sandbox-", delete=False) as file:
            json.dump(asdict(record), file, indent=1)
            file.write("\n")
        Path(file.name).replace(self._record)

    def condition(self) -> tuple[str, Record | None]:
        """The state of the sandbox, as far as it can be told from outside, and its record. Raises StereoError."""
        held = self.held()
        record = self.record()
        if held:
            return (record.state if record and record.state in _ALIVE else STARTING), record
        return (CRASHED if record is None or record.state in _ALIVE else record.state), record

    def remove(self) -> None:
        """Leave nothing. Hold the lock: under another name first, so that no half of it is ever taken for a sandbox."""
        gone = Path(tempfile.mkdtemp(prefix=".gone-", dir=self.root)) / self.name
        self.path.rename(gone)
        shutil.rmtree(gone.parent)

    def connect(self) -> socket.socket:
        """A connection to the supervisor. Raises OSError."""
        with self._short_path() as path:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(path)
            except BaseException:
                connection.close()
                raise
            return connection

    def listen(self) -> socket.socket:
        """The supervisor's end: a socket that only the owner of the folder can reach. Hold the lock."""
        self.socket.unlink(missing_ok=True)
        with self._short_path() as path:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listener.bind(path)
                self.socket.chmod(0o600)
                listener.listen(64)
            except BaseException:
                listener.close()
                raise
            return listener

    @contextmanager
    def _short_path(self) -> Iterator[str]:
        """The socket by a path of few bytes: addresses hold 107 of them (unix(7)), and XDG_STATE_HOME may be deep."""
        if sys.platform == "linux":
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                yield f"/proc/self/fd/{descriptor}/{self.socket.name}"
            finally:
                os.close(descriptor)
            return
        with tempfile.TemporaryDirectory(prefix="stereo-", dir="/tmp") as short:
            link = Path(short, "s")
            link.symlink_to(self.path)
            yield str(link / self.socket.name)


def sandboxes() -> Path:
    """The folder of all sandboxes of this user."""
    return user_state() / "sandboxes"


def all_folders(root: Path | None = None) -> list[Folder]:
    """Every sandbox of this user, by name."""
    root = root if root is not None else sandboxes()
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    return [Folder(name, root) for name in names if _NAME.fullmatch(name)]


def users_of_dists(root: Path | None = None) -> dict[Path, str]:
    """Which sandbox has its disk over which dist, by the dist's path.

    Raises StereoError if that of a sandbox cannot be told.
    """
    folders = all_folders(root)
    return {Path(found.dist).resolve(): f"sandbox {folder.name}" for folder in folders if (found := folder.record())}


def _record(data: Any, name: str) -> Record:
    if not isinstance(data, dict):
        raise ValueError("not an object")  # noqa: TRY004
    known = {field.name for field in fields(Record)}
    record = Record(**{key: value for key, value in data.items() if key in known})
    texts = (record.name, record.jcard, record.mixtape, record.dist, record.manifest, record.state, record.reason)
    if not all(isinstance(text, str) for text in texts) or record.name != name:
        raise ValueError("not the record of this sandbox")
    if not all(isinstance(moment, (int, float)) for moment in (record.created, record.changed)):
        raise ValueError("not a time")
    if record.backend not in ("qemu", "applevirt"):
        raise ValueError("not a backend")
    if record.arch not in ("", *Architecture):
        raise ValueError("not an architecture")
    if record.ssh_port is not None and not (isinstance(record.ssh_port, int) and 0 < record.ssh_port < 65536):
        raise ValueError("not a port")
    return record
