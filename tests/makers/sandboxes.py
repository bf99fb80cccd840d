"""Sandboxes for tests: a state folder of their own, verbs of the real command line, and nothing left at the end."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from makers.command import Stereo
from makers.processes import Process, descendants, processes


class Desk:
    """A folder with a jcard.toml, and a state folder, of one sandbox."""

    def __init__(self, stereo: Stereo, root: Path, dist: Path) -> None:
        self.stereo = stereo
        self.root = root
        self.dist = dist
        self.home = root / "desk"
        self.home.mkdir(mode=0o755)
        self.state = root / "state"
        self.variables: dict[str, str] = {"XDG_STATE_HOME": str(self.state), "XDG_DATA_HOME": str(root / "data")}

    @property
    def folder(self) -> Path:
        """Where the host keeps the sandbox."""
        return self.state / "stereo/sandboxes/desk"

    def write(self, jcard: str) -> Path:
        """Write jcard.toml: `jcard` with the name and the dist put before it."""
        path = self.home / "jcard.toml"
        path.write_text(f'mixtape = "{self.dist}"\nname = "desk"\n{jcard}')
        return path

    def __call__(
        self, *words: str | Path, env: Mapping[str, str] | None = None, status: int | None = 0, timeout: float = 420
    ) -> CompletedProcess[str]:
        """Run a verb in the folder of jcard.toml. `up` gives a boot 300 s, and then says what the console showed."""
        variables = {**self.variables, **(env or {})}
        return self.stereo(*words, cwd=self.home, env=variables, status=status, timeout=timeout)

    def status(self) -> dict[str, Any]:
        """What `stereo status --json` says; the state is "none" where there is no sandbox."""
        done = self("status", "--json", status=None)
        if done.returncode == 2 and "there is no sandbox" in done.stderr:
            return {"state": "none"}
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def until(self, *states: str, seconds: float = 60) -> dict[str, Any]:
        """The status, once the sandbox is in one of `states`."""
        give_up = time.monotonic() + seconds
        while (told := self.status())["state"] not in states:
            assert time.monotonic() < give_up, told
            time.sleep(0.3)
        return told

    def family(self) -> list[Process]:
        """The supervisor, which holds the sandbox while `exec` and the like come and go, and all that it started."""
        held = self.folder / "lock"
        found = [one for one in processes().values() if b"stereo.sandbox" in argv_of(one) and _holds(one, held)]
        assert len(found) <= 1, found
        return [each for one in found for each in (one, *descendants(one.pid))]

    def helper(self, word: bytes) -> Process:
        """The last started process of the family with `word` in its command line, such as b"-blockdev" for QEMU."""
        return max((one for one in self.family()[1:] if word in argv_of(one)), key=lambda one: (one.started, one.pid))

    def agent(self, name: str) -> dict[str, Any]:
        """An agent's row of the status."""
        row: dict[str, Any] = next(row for row in self.status()["agents"] if row["name"] == name)
        return row

    def agent_until(self, name: str, *states: str, seconds: float = 240) -> dict[str, Any]:
        """An agent's row, once it is in one of `states`."""
        limit = time.monotonic() + seconds
        while True:
            row = self.agent(name)
            if row["state"] in states:
                return row
            assert time.monotonic() < limit, f"{name} is {row['state']}, not {states}: {row}"
            time.sleep(1)

    def lines(self, *words: str) -> list[dict[str, Any]]:
        """What a verb that prints one JSON object per line printed."""
        return [json.loads(line) for line in self(*words).stdout.splitlines()]


def argv_of(process: Process) -> bytes:
    """Its command line; nothing if it has ended."""
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _holds(process: Process, file: Path) -> bool:
    try:
        return any(link.resolve() == file for link in Path(f"/proc/{process.pid}/fd").iterdir())
    except OSError:
        return False


@contextmanager
def desk(stereo: Stereo, dist: Path) -> Iterator[Desk]:
    """A desk for the length of a `with` block."""
    with tempfile.TemporaryDirectory(prefix="stereo-desk-") as name:
        one = Desk(stereo, Path(name), dist)
        try:
            yield one
        finally:
            if one.folder.exists():
                one("destroy", "desk", "--yes", "--force", status=None)


def found_in(folder: Path, secret: bytes) -> list[Path]:
    """The files below `folder` that hold `secret`, disks included."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            tail = b""
            with path.open("rb") as file:
                while piece := file.read(1 << 22):
                    if secret in tail + piece:
                        found.append(path)
                        break
                    tail = piece[-len(secret) :]
    return found
