"""A Mac where there is none: an interpreter whose Python has what it has on macOS, and lacks what it lacks there.

`interpreter` makes one. What is started with it, and all that starts by `sys.executable` from there, thinks that it is
on a Mac; see `pretence`. The files, processes and sockets behind it are Linux's.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import makers
import stereo
import stereos_guest


def interpreter(folder: Path) -> Path:
    """Make the interpreter, a virtual environment in the empty `folder` with what ours has. Returns its program."""
    base = Path(sys._base_executable)  # type: ignore[attr-defined]
    site = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    python = folder / "bin/python"
    python.symlink_to(base)
    paths = [Path(package.__path__[0]).parent for package in (stereo, stereos_guest, makers)]
    lines = [*map(os.fspath, paths), sysconfig.get_path("purelib"), "import makers.mac.pretence"]
    (site / "mac.pth").write_text("\n".join([*lines, ""]))
    return python
