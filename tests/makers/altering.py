"""Alters a dist in place, as somebody would who does not want to be found out, and puts it right again."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import zstandard

from stereo.assemble.dist import read_manifest
from stereo.model.manifest import MANIFEST_FILE


@contextmanager
def flipped(path: Path, at: int) -> Iterator[None]:
    """One bit of a file is another."""

    def flip() -> None:
        with path.open("r+b") as file:
            byte = os.pread(file.fileno(), 1, at)[0]
            os.pwrite(file.fileno(), bytes([byte ^ 0x10]), at)

    flip()
    try:
        yield
    finally:
        flip()


@contextmanager
def kept(*paths: Path) -> Iterator[None]:
    """These files are again as before, whatever becomes of them. They are moved aside, not copied."""
    with ExitStack() as stack:
        for path in paths:
            aside = path.parent.with_name(f"kept-{path.name}")
            path.rename(aside)
            subprocess.run(["cp", "-a", "--reflink=auto", "--sparse=always", aside, path], check=True)
            stack.callback(aside.replace, path)
        yield


@contextmanager
def instead(path: Path) -> Iterator[None]:
    """A file is gone, and something else may take its place."""
    aside = path.parent.with_name("gone")
    path.rename(aside)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        aside.rename(path)


def reseal(folder: Path) -> None:
    """Make every digest and size of the manifest fit the files, as somebody would who knows how."""
    manifest = folder / MANIFEST_FILE
    before = read_manifest(folder)
    text = manifest.read_text()
    for name, digest, size in before.files():
        with (folder / name).open("rb") as file:
            now = hashlib.file_digest(file, "sha256").hexdigest()
        text = text.replace(digest, now)
        if (length := (folder / name).stat().st_size) != size:
            assert text.count(f"size = {size}\n") == 1
            text = text.replace(f"size = {size}\n", f"size = {length}\n")
    with (folder / "stereos.img").open("rb") as disk:
        for row in before.image.partition:
            now = hashlib.sha256(os.pread(disk.fileno(), row.size, row.offset)).hexdigest()
            text = text.replace(row.sha256, now)
    manifest.write_text(text)


def recompress(path: Path) -> None:
    with path.open("rb") as source, path.with_name(f"{path.name}.zst").open("wb") as target:
        zstandard.ZstdCompressor(level=1, write_checksum=True).copy_stream(
            source, target, size=path.stat().st_size, read_size=1 << 20, write_size=1 << 20
        )
