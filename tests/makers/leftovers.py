"""What test sessions that were killed left: gigabytes, which pytest itself would keep for three days."""

from __future__ import annotations

import getpass
import tempfile
from contextlib import suppress
from pathlib import Path

from stereo.build import sandbox


def clear_dead_sessions(root: Path | None = None) -> list[Path]:
    """Remove the folders of sessions whose process, by the number in their lock, is no more. Returns which."""
    root = root or Path(tempfile.gettempdir()) / f"pytest-of-{getpass.getuser()}"
    cleared: list[Path] = []
    if not Path("/proc/self").exists():
        return cleared  # nobody to ask who lives
    for lock in sorted(root.glob("pytest-*/.lock")):
        with suppress(OSError, ValueError):
            if not lock.parent.is_symlink() and not Path(f"/proc/{int(lock.read_text())}").exists():
                sandbox.remove(lock.parent)
                cleared.append(lock.parent)
    return cleared
