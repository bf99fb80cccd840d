"""What a sample tree is made of, whatever the format."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Node:
    """One file. `mode` has the type bits."""

    mode: int
    content: bytes = b""
    uid: int = 0
    gid: int = 0
    mtime: int = 1_700_000_000
    rdev: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


Files = dict[str, Node]
FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
"""What erofs and ext4 write into a directory for each type of file: FT_* of the kernel's fs_types.h."""


def directory(mode: int = 0o755, **more: int) -> Node:
    return Node(stat.S_IFDIR | mode, **more)  # type: ignore[arg-type]


def file(content: bytes, mode: int = 0o644, **more: int) -> Node:
    return Node(stat.S_IFREG | mode, content, **more)  # type: ignore[arg-type]


def symlink(target: str) -> Node:
    return Node(stat.S_IFLNK | 0o777, target.encode())


def children(files: Files, path: str) -> list[str]:
    """The names directly in the directory at `path`, sorted."""
    prefix = path.rstrip("/") + "/"
    return sorted(
        name[len(prefix) :]
        for name in files
        if name.startswith(prefix) and name != path and "/" not in name[len(prefix) :]
    )


SAMPLE: Files = {
    "/": directory(),
    "/empty": file(b""),
    "/etc": directory(0o750, uid=7, gid=9),
    "/etc/hostname": file(b"stereos\n"),
    "/etc/localtime": symlink("../usr/share/zoneinfo/UTC"),
    "/large": file(bytes(range(256)) * 50 + b"end", 0o4755, uid=1000, gid=1000),
    "/null": Node(stat.S_IFCHR | 0o666, rdev=(1, 3)),
    "/pipe": Node(stat.S_IFIFO | 0o600),
    "/tagged": Node(stat.S_IFREG | 0o644, b"x", xattrs={"user.note": b"seven"}),
    "/three-blocks": file(b"\x5a" * 4096 * 3),
}
"""One of each kind; with a size that ends in a block, one that fills blocks, and none."""
