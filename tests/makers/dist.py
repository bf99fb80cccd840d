"""A whole dist, small and valid: every check of verify holds for it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from uuid import UUID

import zstandard

from makers.disk import DISK_UUID, ESP, LINUX, make_cpio, make_gpt, make_pe, make_qcow2, make_verity
from makers.erofs import make_erofs
from makers.ext4 import make_ext4
from makers.kernels import as_kernel
from makers.node import SAMPLE, Files, directory, file
from makers.vfat import make_vfat
from stereo.artifacts import gpt
from stereo.artifacts.pe import REMOVABLE_PATH
from stereo.artifacts.region import Region
from stereo.model.architecture import Architecture
from stereo.model.manifest import CYCLONEDX_FILE, SCHEMA, SPDX_FILE, Manifest, parse_manifest, render_manifest

STATE_UUID = "99999999-8888-7777-6666-555555555555"
ESP_UUID = "99999999-8888-7777-6666-444444444444"
INITRD: Files = {"/": directory(), "/init": file(b"#!/bin/busybox sh\n", 0o755)}
STATE: Files = {"/": directory(), "/home": directory()}
OS_RELEASE = (
    b'ID=stereos\nVERSION="2026.01.02.0 (sample-mixtape)"\nIMAGE_ID=sample-mixtape\nIMAGE_VERSION=2026.01.02.0\n'
)
SYSTEM: Files = {
    "/usr": directory(),
    "/usr/lib": directory(),
    "/usr/lib/modules": directory(),
    "/usr/lib/modules/6.12.0": directory(),
    "/usr/lib/os-release": file(OS_RELEASE),
    "/usr/lib/systemd": directory(),
    "/usr/lib/systemd/systemd": file(b"#!/bin/sh\n", 0o755),
}
"""What verify looks for in a root partition."""
CYCLONEDX = (
    b"""{"bomFormat": "CycloneDX",
 "components": [{"name": "sed", "purl": "pkg:deb/debian/sed@4.9-2?arch=amd64",
   "hashes": [{"alg": "SHA-256", "content": "%064x"}]}],
 "metadata": {"tools": {"components": [{"name": "stereo", "purl": "pkg:generic/stereo@abcdef"}]}}}
"""
    % 4
)
FRAME = 64 << 10


def compress(data: bytes, level: int = 3) -> bytes:
    """Independent frames, one after the other."""
    compressor = zstandard.ZstdCompressor(level=level)
    return b"".join(compressor.compress(data[at : at + FRAME]) for at in range(0, len(data), FRAME))


def make_dist(
    folder: Path,
    *,
    root: Files = SAMPLE,
    initrd: Files = INITRD,
    state: Files = STATE,
    kernel: bytes = b"kernel" * 2000,
    bzimage: bytes | None = None,
    words: str = "quiet",
    uki_initrd: bytes | None = None,
    level: int = 3,
    packed_qcow2: bytes | None = None,
    qcow2_bits: int = 12,
    arch: Architecture = Architecture.X86_64,
) -> Manifest:
    """Write a dist to `folder` and return its manifest.

    `uki_initrd` is another initrd than the UKI should hold, `bzimage` a whole kernel file instead of one with `kernel`.
    """
    system = make_erofs(SYSTEM | root)
    hashes, root_hash = make_verity(system)
    packed = zstandard.compress(make_cpio(initrd))
    cmdline = f"{words} roothash={root_hash}".encode()
    bzimage = as_kernel(make_pe([(".text", kernel)]), arch) if bzimage is None else bzimage
    uki = make_pe(
        [
            (".osrel", b"ID=stereos\n"),
            (".uname", b"6.12.0"),
            (".cmdline", cmdline + b"\0"),
            (".linux", bzimage),
            (".initrd", packed if uki_initrd is None else uki_initrd),
        ],
        machine={Architecture.X86_64: 0x8664, Architecture.AARCH64: 0xAA64}[arch],
    )
    loader = {"/": directory(), "/EFI": directory(), "/EFI/BOOT": directory(), REMOVABLE_PATH[arch.system]: file(uki)}
    raw = make_gpt(
        [
            ("esp", ESP, ESP_UUID, make_vfat(loader, clusters=400)),
            ("root", gpt.ROOT[arch.system], str(UUID(root_hash[:32])), system),
            ("root-verity", gpt.ROOT_VERITY[arch.system], str(UUID(root_hash[32:])), hashes),
            ("state", LINUX, STATE_UUID, make_ext4(state)),
        ]
    )
    qcow2 = make_qcow2(raw, bits=qcow2_bits)
    return write_dist(
        folder,
        {
            "stereos.img": raw,
            "stereos.img.zst": compress(raw, level),
            "stereos.qcow2": qcow2,
            "stereos.qcow2.zst": compress(qcow2, level) if packed_qcow2 is None else packed_qcow2,
            "bzImage": bzimage,
            "initrd": packed,
            "cmdline": cmdline,
            "init": b"/usr/lib/systemd/systemd",
            **make_sboms(root_hash),
        },
        root_hash,
        arch,
    )


def make_sboms(root_hash: str) -> dict[str, bytes]:
    """Two SBOMs that say which image they are about, and little else."""
    cyclonedx = json.loads(CYCLONEDX)
    row = {"name": "stereo:root-hash", "value": root_hash}
    cyclonedx["metadata"]["component"] = {"name": "sample-mixtape", "properties": [row]}
    image = {"SPDXID": "SPDXRef-image", "name": "sample-mixtape", "comment": f"root hash {root_hash}"}
    described = {"relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-image"}
    spdx = {"spdxVersion": "SPDX-2.3", "packages": [image], "relationships": [described]}
    return {CYCLONEDX_FILE: json.dumps(cyclonedx).encode(), SPDX_FILE: json.dumps(spdx).encode()}


def write_dist(
    folder: Path, files: dict[str, bytes], root_hash: str, arch: Architecture = Architecture.X86_64
) -> Manifest:
    """Write the files and a manifest that describes them."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    raw = files["stereos.img"]
    manifest = Manifest.model_validate(
        {
            "schema": SCHEMA,
            "name": "sample-mixtape",
            "version": "2026.01.02.0",
            "arch": arch.system,
            "dev": False,
            "artifacts": {
                "raw": _disk(files, "stereos.img"),
                "qcow2": _disk(files, "stereos.qcow2"),
                "kernel": {name.lower(): _plain(files, name) for name in ("bzImage", "initrd", "cmdline", "init")},
            },
            "sbom": {"cyclonedx": _plain(files, CYCLONEDX_FILE), "spdx": _plain(files, SPDX_FILE)},
            "build": {
                "source_revision": "abc",
                "plan_key": "0" * 64,
                "lock_sha256": "1" * 64,
                "tools_lock_sha256": "2" * 64,
                "epoch": 1_700_000_000,
                "level": 3,
                "tools": {"mkosi": "27.1"},
            },
            "image": {
                "kernel_version": "6.12.0",
                "root_hash": root_hash,
                "disk_uuid": DISK_UUID,
                "partition": [
                    {
                        "label": row.label,
                        "type": row.type,
                        "uuid": row.uuid,
                        "offset": row.offset,
                        "size": row.size,
                        "sha256": hashlib.sha256(raw[row.offset : row.offset + row.size]).hexdigest(),
                    }
                    for row in gpt.read_gpt(Region.of_bytes(raw)).partitions
                ],
            },
            "agent": {"harness": "none", "api_keys": [], "packages": []},
        }
    )
    text = render_manifest(manifest).encode()
    (folder / "mixtape.toml").write_bytes(text)
    return parse_manifest(text, "mixtape.toml")


def _plain(files: dict[str, bytes], name: str) -> dict[str, object]:
    return {"file": name, "sha256": hashlib.sha256(files[name]).hexdigest(), "size": len(files[name])}


def _disk(files: dict[str, bytes], name: str) -> dict[str, object]:
    packed = files[f"{name}.zst"]
    compressed = {
        "compressed_file": f"{name}.zst",
        "compressed_sha256": hashlib.sha256(packed).hexdigest(),
        "compressed_size": len(packed),
    }
    return {**_plain(files, name), **compressed}
