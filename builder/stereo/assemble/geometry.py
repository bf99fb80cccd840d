"""Where a disk is cut coarsely, and where finely: what every version changes stands in small chunks of its own.

Between two builds that differ in a version number and a line of ours, a few blocks of the root differ: its superblock
and the inodes in front, what stereo lays over Debian, and the few files that name the version. Amid large chunks each
of them would cost a download of megabytes. So the chunks are small there, and large where an agent or Debian is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from stereo.artifacts.erofs import Erofs
from stereo.artifacts.region import FormatError, OpenFile
from stereo.artifacts.tree import Kind
from stereo.assemble.chunks import CLUSTER, COARSE, FINE, Geometry
from stereo.assemble.compress import Span

# What is ours, or mostly: see `plan.render`. An agent's own packages are large, and change as a whole.
_OURS = ("/etc/", "/usr/lib/os-release", "/usr/lib/stereos/", "/usr/lib/systemd/system/")
_AGENTS = "/usr/lib/stereos/agent/"


def geometries(disk: Path, partitions: Sequence[Span]) -> dict[int, Geometry]:
    """How to cut from which byte of the raw disk on, for `Chunker`. The largest partition holds the system."""
    starts = {one.offset: FINE for one in partitions}
    root = max(partitions, key=lambda one: one.size, default=None)
    if root is None:
        return starts
    starts[root.offset] = COARSE
    with OpenFile(disk) as file:
        for begin, end in _joined(_ours(file, root)):
            starts[begin] = FINE
            starts[end] = COARSE
    return starts


def _ours(file: OpenFile, root: Span) -> list[tuple[int, int]]:
    """(start, end) of what may change with every version, as bytes of the disk, in order."""
    found: list[tuple[int, int]] = []
    first = root.size
    try:
        system = Erofs(file.region.part(root.offset, root.size))
        for entry in system.entries():
            if entry.kind is not Kind.FILE:
                continue
            for offset, size in system.extents(entry):
                first = min(first, offset)
                if entry.path.startswith(_OURS) and not entry.path.startswith(_AGENTS):
                    found.append((root.offset + offset, root.offset + offset + size))
    except FormatError:
        return []  # no root of ours: its content alone says where to cut
    return sorted([(root.offset, root.offset + first), *found])


def _joined(stretches: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The stretches widened to whole clusters, as the marks for the qcow2 need it, and those made one that touch."""
    begin = end = None
    for start, stop in stretches:
        start, stop = start // CLUSTER * CLUSTER, -(-stop // CLUSTER) * CLUSTER
        if begin is not None and end is not None and start <= end:
            end = max(end, stop)
            continue
        if begin is not None and end is not None:
            yield begin, end
        begin, end = start, stop
    if begin is not None and end is not None:
        yield begin, end
