"""Writes the ELF kernel of a dist's bzImage to a file, for hypervisors that load nothing else."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from stereo.artifacts.bzimage import BzImage
from stereo.artifacts.elf import Elf
from stereo.artifacts.region import FormatError, OpenFile, Region, first_difference
from stereo.artifacts.zst import Spool
from stereo.errors import StereoError, UsageError
from stereo.model.architecture import Architecture
from stereo.model.manifest import VMLINUX, Manifest
from stereo.scratch import scratch_folder


@dataclass(frozen=True)
class Extracted:
    """A kernel in ELF. `size` is bytes, `entry` the physical address of its PVH entry, if it has one."""

    file: Path
    size: int
    sha256: str
    entry: int | None
    written: bool
    """False if the very same bytes were there."""


def extract(dist: Path, manifest: Manifest, file: Path | None = None) -> Extracted:
    """Write the kernel of `dist` to `file` (default: `vmlinux` in it), whole or not at all.

    Raises UsageError when there is none to write, FormatError or StereoError when the dist's bzImage is not sound.
    """
    if Architecture.from_system(manifest.arch) is not Architecture.X86_64:
        what = "has no vmlinux: hypervisors of aarch64 take the uncompressed Image, which its bzImage is"
        raise UsageError(what, where=str(dist), hint=f"give them {dist / manifest.artifacts.kernel.bzimage.file}")
    target = (file or dist / VMLINUX).absolute()
    _refuse_place(target, dist)
    with Spool() as spool:
        with OpenFile(dist / manifest.artifacts.kernel.bzimage.file) as packed:
            _refuse_altered(packed.region, manifest, dist)
            kernel = BzImage(packed.region).unpack(spool)
        digest = hashlib.sha256()
        for chunk in kernel.chunks():
            digest.update(chunk)
        written = not _holds(target, kernel)
        if written:
            _write(target, kernel, manifest.build.epoch, dist=dist)
        return Extracted(target, kernel.size, digest.hexdigest(), Elf(kernel).pvh_entry(), written)


def _refuse_place(target: Path, dist: Path) -> None:
    """Nothing is put in the place of what cannot be had back: a device, a pipe, a file of the dist."""
    if target.is_dir():
        raise UsageError("is a folder", where=str(target), hint="name a file")
    if target.exists() and not target.is_file():
        raise UsageError("is no regular file, and would be replaced by one", where=str(target))
    if target.name != VMLINUX and target.parent.resolve() == dist.resolve():
        raise UsageError(f"is no name for it in a dist, where {VMLINUX} is the only one", where=str(target))


def _refuse_altered(region: Region, manifest: Manifest, dist: Path) -> None:
    wanted, digest = manifest.artifacts.kernel.bzimage, hashlib.sha256()
    if region.size == wanted.size:
        for chunk in region.chunks():
            digest.update(chunk)
    if digest.hexdigest() != wanted.sha256:
        what = "is not the file that the manifest describes"
        raise StereoError(what, where=str(dist / wanted.file), hint=f"see `stereo verify {dist}`; nothing was written")


def _holds(target: Path, kernel: Region) -> bool:
    try:
        with OpenFile(target) as there:
            return first_difference(there.region, kernel) is None
    except FormatError:
        return False


def _write(target: Path, kernel: Region, epoch: int, *, dist: Path) -> None:
    parent = target.parent.resolve()
    with scratch_folder(".vmlinux-", _beside(parent) if parent == dist.resolve() else parent) as folder:
        fresh = folder / target.name
        with fresh.open("xb") as out:
            for chunk in kernel.chunks():
                out.write(chunk)
            out.flush()
            os.fchmod(out.fileno(), 0o644)
            os.utime(out.fileno(), (epoch, epoch))
            os.fsync(out.fileno())
        fresh.replace(target)


def _beside(folder: Path) -> Path:
    """Where what somebody kills is no part of a dist in `folder`; that itself if nothing can come from there."""
    parent = folder.parent
    return parent if os.access(parent, os.W_OK) and parent.stat().st_dev == folder.stat().st_dev else folder
