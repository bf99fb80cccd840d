"""Starts a real tool for tests, out of an unpacked tree of Debian packages: those of the builds, or test-tools.

It runs with the tree's own loader and libraries, so it does not matter what the host has.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from stereo import process

_LOADERS = {
    "x86_64": ("usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu"),
    "aarch64": ("usr/lib/ld-linux-aarch64.so.1", "usr/lib/aarch64-linux-gnu"),
}


class Tool:
    """A program to call; or its `argv` and `environment`, for who starts it otherwise."""

    def __init__(self, argv: list[str], tree: Path) -> None:
        self.argv = argv
        self._tree = tree

    @property
    def environment(self) -> dict[str, str]:
        """All that it is started with: nothing of the tests' own but PATH."""
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        extra = {
            "MTOOLS_SKIP_CHECK": "1",
            "MKE2FS_CONFIG": str(self._tree / "etc/mke2fs.conf"),
            "GCONV_PATH": str(self._tree / _LOADERS[platform.machine()][1] / "gconv"),
        }
        return process.closed_environment(extra, path=path)

    def __call__(self, *words: str | Path, cwd: Path | None = None, input_text: str | None = None) -> str:
        """Run it with these arguments and return what it printed."""
        argv: list[str | Path] = [*self.argv, *words]
        return process.run(argv, env=self.environment, cwd=cwd, timeout=60, input_text=input_text).stdout


def program(tree: Path, name: str) -> Tool:
    """The tool of that name, which the tree must have."""
    loader, folder = _LOADERS[platform.machine()]
    libraries = f"{tree / folder}:{tree / folder / 'systemd'}"  # systemd's programs share a library of their own
    for folder in ("usr/bin", "usr/sbin", "usr/lib/systemd"):
        program = tree / folder / name
        if program.exists():
            start = [str(tree / loader), "--argv0", name, "--library-path", libraries, str(program)]
            return Tool(start, tree)
    raise AssertionError(f"no {name} in {tree}")
