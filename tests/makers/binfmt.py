"""What registrations of emulators there are on the host."""

from __future__ import annotations

from pathlib import Path


def registered() -> tuple[list[Path], list[str]]:
    """The host's binfmt_misc: what is in it, and where it is mounted. It may be mounted by being looked at."""
    entries = sorted(Path("/proc/sys/fs/binfmt_misc").glob("*"))
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return entries, [line for line in mounts if "binfmt_misc" in line]
