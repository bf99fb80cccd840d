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
        self, *words: str | Path, env: Mapping[str, str] | None = None, status: int | None = 0, timeout: float = 300
    ) -> CompletedProcess[str]:
        """Run a verb in the folder of jcard.toml."""
        variables = {**self.variables, **(env or {})}
        return self.stereo(*words, cwd=self.home, env=variables, status=status, timeout=timeout)

    def status(self) -> dict[str, Any]:
        """What `stereo status --json` says."""
        told: dict[str, Any] = json.loads(self("status", "--json").stdout)
        return told

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
