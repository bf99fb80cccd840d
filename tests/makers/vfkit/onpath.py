"""The fake vfkit as a program on PATH."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import makers
import stereo
import stereos_guest


def install(folder: Path, tools_tree: Path) -> Path:
    """Write `vfkit` into `folder`, with the QEMU of a tools tree behind it. Returns the program."""
    packages = (Path(package.__path__[0]).parent for package in (stereo, stereos_guest, makers))
    words = [sys.executable, "-P", "-s", "-m", "makers.vfkit", str(tools_tree)]
    program = folder / "vfkit"
    path = ":".join(map(str, packages))
    program.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(path)} exec {shlex.join(words)} "$@"\n')
    program.chmod(0o755)
    return program
