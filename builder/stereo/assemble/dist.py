"""From an image directory to a dist: derive, hash, compress, describe, and move into place.

`assemble` reads top to bottom as what happens. Every byte of a disk is read once; see `chunks` and `compress`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from stereo.assemble.chunks import data_size
from stereo.assemble.files import copy_hashed, failures_explained, open_plain, settle
from stereo.assemble.place import publish, staging
from stereo.assemble.qcow2 import convert
from stereo.errors import ProblemsError, StereoError
from stereo.model.manifest import (
    ADDED_LATER,
    CYCLONEDX_FILE,
    MANIFEST_FILE,
    MAX_BYTES,
    SCHEMA,
    SPDX_FILE,
    Agent,
    Build,
    Manifest,
    PartitionEntry,
    is_release,
    parse_manifest,
    problems_of,
    render_manifest,
)
from stereo.report import Report

if TYPE_CHECKING:
    from stereo.assemble.compress import Compressor, DiskSums

FRAMES_LIMIT = 4 << 30
"""Bytes of compressed frames that a build leaves in the cache."""

_WORKER_MEMORY = 256 << 20
_DOCUMENTS = {"cyclonedx": CYCLONEDX_FILE, "spdx": SPDX_FILE}
_KERNEL_FILES = {"vmlinuz": "bzImage", "initrd": "initrd", "cmdline": "cmdline", "init": "init"}


@dataclass(frozen=True)
class ManifestFacts:
    """What the manifest says and only the caller knows: all but the digests. `arch` is "x86_64-linux" or so."""

    name: str
    version: str
    arch: str
    dev: bool
    build: Build
    kernel_version: str
    root_hash: str
    disk_uuid: str
    partitions: tuple[PartitionEntry, ...]
    agent: Agent


def assemble(
    image_dir: Path,
    facts: ManifestFacts,
    out: Path,
    *,
    documents: Mapping[str, bytes],
    jobs: int,
    qemu_img: Sequence[str],
    frames: Path,
    report: Report,
    qemu_env: Mapping[str, str] | None = None,
    force: bool = False,
) -> Manifest:
    """Make the dist `out` (dist/NAME/VERSION/ARCH) from `image_dir` (image.raw, vmlinuz, initrd, cmdline, init).

    `documents` are the two SBOMs by file name, `jobs` the compressors at work at most (the bytes do not depend on it),
    `qemu_img` the first words of the command, `qemu_env` its environment. Raises StereoError; then `out` is as it was.
    A release whose bytes would change is refused unless `force`.
    """
    # Most who import this module only read a manifest.
    from stereo.assemble.compress import Compressor, Span
    from stereo.assemble.frames import FrameCache, prune_frames
    from stereo.assemble.geometry import geometries

    with failures_explained("cannot assemble the dist", out), staging(out, report) as folder:
        image, raw, qcow2 = image_dir / "image.raw", folder / "stereos.img", folder / "stereos.qcow2"
        level = facts.build.level
        total = _data_size(image)
        artifacts: dict[str, object] = {"kernel": _kernel(image_dir, folder)}
        sbom = _written(documents, folder)
        _refuse_unfit(facts, artifacts, sbom, image.stat().st_size)  # now, and not after a minute of compressing
        with report.step("Deriving the qcow2"):
            convert(image, qcow2, qemu_img=qemu_img, env=qemu_env)
        total += _data_size(qcow2)
        spans = [Span(one.offset, one.size) for one in facts.partitions]
        with (
            report.progress("Hashing and compressing", total) as progress,
            Compressor(FrameCache(frames, level), level=level, jobs=_jobs(jobs), progress=progress) as compressor,
        ):
            raw_sums = compressor.read_disk(image, copy_to=raw, spans=spans, starts=geometries(image, spans))
            qcow2_sums = compressor.read_disk(qcow2, marks=raw_sums.marks)
            compressor.finish()
            artifacts["raw"] = _joined(compressor, raw_sums, folder / "stereos.img.zst")
            artifacts["qcow2"] = _joined(compressor, qcow2_sums, folder / "stereos.qcow2.zst")
        manifest = _describe(facts, artifacts, sbom, raw_sums.spans)
        text = render_manifest(manifest).encode()
        _refuse_other_bytes(out, manifest.version, text, force=force)
        with report.step("Moving the dist into place"):
            (folder / MANIFEST_FILE).write_bytes(text)
            for file in sorted(folder.iterdir()):
                settle(file, facts.build.epoch)
            publish(folder, out)
        prune_frames(frames, FRAMES_LIMIT, keep={*raw_sums.chunks, *qcow2_sums.chunks})
    return manifest


def is_current(dist: Path, plan_key: str) -> bool:
    """Whether `dist` is whole and made from the plan `plan_key`, as far as can be told without reading its disks."""
    try:
        manifest = read_manifest(dist)
    except (OSError, StereoError):
        return False
    sizes = {file: size for file, _, size in manifest.files()}
    here = {*os.listdir(dist)} - ADDED_LATER  # noqa: PTH208 - names are what is wanted
    if manifest.build.plan_key != plan_key or here != {*sizes, MANIFEST_FILE}:
        return False
    for file, size in sizes.items():
        status = (dist / file).lstat()
        if not _is_plain(status, size) or status.st_mtime != manifest.build.epoch:
            return False
    return True


def read_manifest(dist: Path) -> Manifest:
    """The manifest of a dist. Raises OSError, StereoError, ProblemsError."""
    return read_manifest_with_digest(dist)[0]


def read_manifest_with_digest(dist: Path) -> tuple[Manifest, str]:
    """The manifest of a dist and the SHA-256 of its bytes. Raises OSError, StereoError, ProblemsError."""
    path = dist / MANIFEST_FILE
    with open_plain(path) as file:
        data = file.read(MAX_BYTES + 1) or b""
    return parse_manifest(data, str(path)), hashlib.sha256(data).hexdigest()


def _joined(compressor: Compressor, sums: DiskSums, compressed: Path) -> dict[str, str | int]:
    with compressed.open("xb") as out:
        compressed_sha256, compressed_size = compressor.join(sums.chunks, out)
    return {
        "sha256": sums.sha256,
        "size": sums.size,
        "compressed_sha256": compressed_sha256,
        "compressed_size": compressed_size,
    }


def _kernel(image_dir: Path, folder: Path) -> dict[str, dict[str, str | int]]:
    tables: dict[str, dict[str, str | int]] = {}
    for source, target in _KERNEL_FILES.items():
        sha256, size = copy_hashed(image_dir / source, folder / target)
        tables[target.lower()] = {"sha256": sha256, "size": size}
    if b"\n" in (folder / "cmdline").read_bytes():
        raise StereoError("holds a newline, which consumers would hand to the kernel", where=str(image_dir / "cmdline"))
    return tables


def _written(documents: Mapping[str, bytes], folder: Path) -> dict[str, dict[str, str | int]]:
    """Write the SBOMs; returns their tables of the manifest."""
    tables: dict[str, dict[str, str | int]] = {}
    for key, name in _DOCUMENTS.items():
        (folder / name).write_bytes(documents[name])
        tables[key] = {"sha256": hashlib.sha256(documents[name]).hexdigest(), "size": len(documents[name])}
    return tables


def _refuse_unfit(facts: ManifestFacts, artifacts: Mapping[str, object], sbom: Mapping[str, object], size: int) -> None:
    """Raises ProblemsError for facts that no reader of the manifest would accept. `size` is the disk's, in bytes."""
    digest = "0" * 64
    disk = {"sha256": digest, "size": size, "compressed_sha256": digest, "compressed_size": 1}
    _describe(facts, {**artifacts, "raw": disk, "qcow2": disk}, sbom, [digest] * len(facts.partitions))


def _describe(
    facts: ManifestFacts,
    artifacts: Mapping[str, object],
    sbom: Mapping[str, object],
    digests: Sequence[str],
) -> Manifest:
    table = {
        "schema": SCHEMA,
        "name": facts.name,
        "version": facts.version,
        "arch": facts.arch,
        "dev": facts.dev,
        "artifacts": artifacts,
        "sbom": sbom,
        "build": facts.build,
        "image": {
            "kernel_version": facts.kernel_version,
            "root_hash": facts.root_hash,
            "disk_uuid": facts.disk_uuid,
            "partition": [
                {**one.model_dump(), "sha256": digest} for one, digest in zip(facts.partitions, digests, strict=True)
            ],
        },
        "agent": facts.agent,
    }
    try:
        return Manifest.model_validate(table)
    except ValidationError as error:
        raise ProblemsError(problems_of(error, MANIFEST_FILE)) from error


def _refuse_other_bytes(out: Path, version: str, text: bytes, *, force: bool) -> None:
    """A release that somebody may have fetched keeps its bytes. The manifest has the digests of all of them."""
    if force or not is_release(version) or not out.exists():
        return
    try:
        with open_plain(out / MANIFEST_FILE) as file:
            before = file.read(MAX_BYTES)
    except (OSError, StereoError):
        before = b""
    if before != text:
        raise StereoError(
            f"release {version} exists with other bytes",
            where=str(out),
            hint="give a new --version, or replace it with --force if nobody has it",
        )


def _data_size(path: Path) -> int:
    with open_plain(path) as file:
        return data_size(file.fileno(), os.fstat(file.fileno()).st_size)


def _jobs(wanted: int) -> int:
    """As many compressors as wanted, if there is memory for them. The bytes do not depend on it."""
    available = wanted * _WORKER_MEMORY
    with suppress(OSError, ValueError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    return max(1, min(wanted, available // _WORKER_MEMORY))


def _is_plain(status: os.stat_result, size: int) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_size == size
