"""Finds a real tool for tests: on PATH, or in an unpacked tree of Debian packages that STEREO_TOOLS_TREE names.

A tool of the tree runs with the tree's own loader and libraries, so it does not matter what the host has.
"""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from stereo import process

_LOADERS = {
    "x86_64": ("usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu"),
    "aarch64": ("usr/lib/ld-linux-aarch64.so.1", "usr/lib/aarch64-linux-gnu"),
}


class Tool:
    """A program to call."""

    def __init__(self, argv: list[str], tree: Path | None) -> None:
        self._argv = argv
        self._tree = tree

    def __call__(self, *words: str | Path, cwd: Path | None = None, input_text: str | None = None) -> str:
        """Run it with these arguments and return what it printed."""
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        extra = {"MTOOLS_SKIP_CHECK": "1"}
        if self._tree:
            extra["MKE2FS_CONFIG"] = str(self._tree / "etc/mke2fs.conf")
            extra["GCONV_PATH"] = str(self._tree / _LOADERS[platform.machine()][1] / "gconv")
        environment = process.closed_environment(extra, path=path)
        argv: list[str | Path] = [*self._argv, *words]
        return process.run(argv, env=environment, cwd=cwd, timeout=60, input_text=input_text).stdout


def find_tool(name: str) -> Tool | None:
    """The tool of that name, None if there is none. The tree comes first: it is what the project builds with."""
    tree = os.environ.get("STEREO_TOOLS_TREE")
    if tree and platform.machine() in _LOADERS:
        root = Path(tree)
        loader, libraries = _LOADERS[platform.machine()]
        for folder in ("usr/bin", "usr/sbin"):
            program = root / folder / name
            if program.exists() and (root / loader).exists():
                start = [str(root / loader), "--argv0", name, "--library-path", str(root / libraries), str(program)]
                return Tool(start, root)
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    return Tool([found], None) if found else None
