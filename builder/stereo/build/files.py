"""Reads trees from disk and writes them, so that neither umask nor a checkout's modes leak into what is built."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from stereo.errors import StereoError
from stereo.paths import Checkout
from stereo.plan.tree import Entry, Kind, Tree

_PARTS = ("mkosi", "overlays", "guest")
_MODES = {Kind.FILE: 0o644, Kind.PROGRAM: 0o755}


def read_repository(checkout: Checkout) -> dict[str, Entry]:
    """The checkout's own files that go into an image, by path relative to it. Byte code and editors' files are left."""
    return {
        str(path.relative_to(checkout.root)): _read(path) for name in _PARTS for path in _walk(checkout.root / name)
    }


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        if entry.name == "__pycache__" or entry.name.endswith(("~", ".swp", ".pyc")):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def _read(path: Path) -> Entry:
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        return Entry(os.fsencode(path.readlink()), Kind.LINK)
    if not stat.S_ISREG(info.st_mode):
        raise StereoError("is neither a file nor a link, and has no place in an image", where=str(path))
    return Entry(path.read_bytes(), Kind.PROGRAM if info.st_mode & stat.S_IXUSR else Kind.FILE)


def write_tree(tree: Tree, folder: Path) -> None:
    """Write `tree` into `folder`, which is made if need be; modes do not depend on the umask."""
    made: set[Path] = set()
    for relative, entry in sorted(tree.items()):
        path = folder / relative
        for parent in reversed([path.parent, *path.parent.parents]):
            if parent in made or not parent.is_relative_to(folder):
                continue
            parent.mkdir(exist_ok=True, parents=parent == folder)
            parent.chmod(0o755)
            made.add(parent)
        if entry.kind is Kind.LINK:
            path.symlink_to(os.fsdecode(entry.data))
        else:
            path.write_bytes(entry.data)
            path.chmod(_MODES[entry.kind])
