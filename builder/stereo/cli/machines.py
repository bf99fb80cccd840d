"""Which QEMU boots: the locked one of a tools tree in the cache, or else the host's."""

from __future__ import annotations

from pathlib import Path

from stereo.errors import StereoError
from stereo.paths import Cache
from stereo.vm.programs import Programs


def find_programs(cache: Cache) -> Programs:
    """QEMU, qemu-img and firmware. Raises StereoError when there are none."""
    for tree in _trees(cache):
        try:
            return Programs.find(tree)
        except StereoError:
            continue  # tools of another kind or time, without a QEMU
    return Programs.find()


def _trees(cache: Cache) -> list[Path]:
    """The unpacked tools trees, newest first."""
    trees = [path for path in cache.tools.glob("*") if path.is_dir()] if cache.tools.is_dir() else []
    return sorted(trees, key=lambda path: path.stat().st_mtime, reverse=True)
