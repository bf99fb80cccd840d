"""An ordinary user with subordinate ids, made for a test and gone after it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_FIRST, _COUNT = 1_600_000_000, 65_536  # far above what adduser(8) and useradd(8) give away by themselves


@dataclass(frozen=True)
class User:
    """Somebody who builds. `home` is theirs alone; `name` is None where nobody else than we could be made."""

    home: Path
    name: str | None = None

    def prefix(self, *, hostname: str | None = None) -> list[str]:
        """The words before a command that make it theirs, on a machine of another name."""
        if self.name is None:
            return []
        row = pwd.getpwnam(self.name)
        named = ["unshare", "--uts", "--", "sh", "-ec", 'hostname "$0"; exec "$@"', hostname] if hostname else []
        return [*named, "setpriv", f"--reuid={row.pw_uid}", f"--regid={row.pw_gid}", "--init-groups", "--"]

    def environment(self) -> dict[str, str]:
        """What logging in would change."""
        if self.name is None:
            return {"HOME": str(self.home)}
        # What lies in our own home (a Python, say) is not for others.
        ours = Path.home()
        path = [name for name in os.get_exec_path() if not Path(name).is_relative_to(ours)]
        return {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name, "PATH": os.pathsep.join(path)}

    def take(self, folder: Path) -> None:
        """Make everything in a folder theirs and nobody else's to read, as cloned under umask 077."""
        row = pwd.getpwnam(self.name) if self.name else None
        for path in (folder, *folder.rglob("*")):
            if row:
                os.chown(path, row.pw_uid, row.pw_gid, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o700)


@contextmanager
def ordinary_user(name: str) -> Iterator[User]:
    """Make a user. Whoever is not root cannot, and is the ordinary user; then only HOME is another."""
    home = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    home.chmod(0o755)
    if os.geteuid() != 0:
        try:
            yield User(home)
        finally:
            shutil.rmtree(home)
        return
    subids = [f"{_FIRST}-{_FIRST + _COUNT - 1}"]
    _remove(name)  # of a run that was killed
    for file in ("/etc/subuid", "/etc/subgid"):
        Path(file).touch()  # where they are missing, useradd gives no ids and usermod refuses to
    subprocess.run(["useradd", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh", name], check=True)
    try:
        if not any(line.startswith(f"{name}:") for line in Path("/etc/subuid").read_text().splitlines()):
            subprocess.run(["usermod", "--add-subuids", *subids, "--add-subgids", *subids, name], check=True)
        yield User(home, name)
    finally:
        shutil.rmtree(home)
        _remove(name)


def _remove(name: str) -> None:
    with suppress(KeyError):
        pwd.getpwnam(name)
        subprocess.run(["userdel", name], check=True, capture_output=True)
