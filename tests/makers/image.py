"""An opened dist, for tests that look into it: its partitions as trees, by our own readers."""

from __future__ import annotations

import platform
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from stereo.artifacts.cpio import Cpio
from stereo.artifacts.erofs import Erofs
from stereo.artifacts.ext4 import Ext4
from stereo.artifacts.gpt import partition_region, read_gpt
from stereo.artifacts.pe import REMOVABLE_PATH, Pe
from stereo.artifacts.region import OpenFile, Region
from stereo.artifacts.tree import Entry, Kind, Tree
from stereo.artifacts.vfat import Vfat
from stereo.assemble.dist import read_manifest

UKI = REMOVABLE_PATH[f"{platform.machine()}-linux"]
"""Where this machine's firmware looks on a removable disk; the UKI is all that it finds."""

_MOST_STEPS = 128

# What the original system sets (kernel.* and net.*); its values are the least that ours may have.
ORIGINAL_SETTINGS = {
    "kernel.yama.ptrace_scope": "2",
    "kernel.kptr_restrict": "2",
    "kernel.dmesg_restrict": "1",
    "kernel.core_pattern": "|/bin/false",
    "net.ipv4.conf.all.accept_redirects": "0",
    "net.ipv4.conf.default.accept_redirects": "0",
    "net.ipv6.conf.all.accept_redirects": "0",
    "net.ipv4.conf.all.send_redirects": "0",
}


class Files:
    """A tree whose entries are at hand by path."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.entries = {entry.path: entry for entry in tree.entries()}

    def __contains__(self, path: str) -> bool:
        return path in self.entries

    def __getitem__(self, path: str) -> Entry:
        return self.entries[path]

    def region(self, path: str) -> Region:
        return self._tree.content(self.entries[path])

    def data(self, path: str) -> bytes:
        """All of a file that is not large."""
        region = self.region(path)
        return region.read(0, region.size)

    def text(self, path: str) -> str:
        return self.data(path).decode()

    def below(self, folder: str) -> list[str]:
        """Every path below a folder, sorted."""
        return sorted(path for path in self.entries if path.startswith(f"{folder.rstrip('/')}/"))

    def children(self, folder: str) -> list[str]:
        """The names directly in a folder, sorted."""
        prefix = f"{folder.rstrip('/')}/"
        return [path.removeprefix(prefix) for path in self.below(folder) if "/" not in path.removeprefix(prefix)]

    def resolve(self, path: str) -> Entry | None:
        """What a path leads to, all links followed as the booted system would; None if it leads nowhere."""
        left, at = list(PurePosixPath(path).parts[1:]), "/"
        for _ in range(_MOST_STEPS):
            if not left:
                return self.entries.get(at)
            part = left.pop(0)
            step = str(PurePosixPath(at).parent) if part == ".." else f"{at.rstrip('/')}/{part}"
            entry = self.entries.get(step)
            if entry is None:
                return None
            if entry.kind is Kind.SYMLINK:
                assert entry.target
                target = PurePosixPath(entry.target)
                left = [*(target.parts[1:] if target.is_absolute() else target.parts), *left]
                at = "/" if target.is_absolute() else at
            else:
                at = step
        return None


class Image:
    """A dist: the raw disk's partitions, its UKI and the files beside it. Use it as a context manager."""

    def __init__(self, dist: Path) -> None:
        self.dist = dist
        self._stack = ExitStack()
        disk = self._stack.enter_context(OpenFile(dist / "stereos.img")).region
        self.table = read_gpt(disk)
        by_label = {row.label: partition_region(disk, row) for row in self.table.partitions}
        self.esp = Files(Vfat(by_label["esp"]))
        self.root = Files(Erofs(by_label["root"]))
        self.state = Files(Ext4(by_label["state"]))
        self.uki = Pe(self.esp.region(REMOVABLE_PATH[read_manifest(dist).arch]))
        initrd = self._stack.enter_context(OpenFile(dist / "initrd")).region
        self.initrd = Files(self._stack.enter_context(Cpio(initrd)))

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
