"""A small image directory, and a stand-in for qemu-img."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stereo.assemble.dist import ManifestFacts, assemble
from stereo.model.manifest import CYCLONEDX_FILE, SPDX_FILE, Agent, AgentPackage, Build, Manifest, PartitionEntry
from stereo.report import Silent

MIB = 1 << 20
EPOCH = 1_790_000_000
KEY = "ab" * 32

# Enough of qemu-img for whoever has none: a header, then the clusters that are not zeros, in order.
_STAND_IN = """
import sys
cluster = 65536
source, target = sys.argv[-2:]
with open(source, "rb") as raw, open(target, "wb") as out:
    out.write(b"QFI\\xfb" + bytes(5 * cluster - 4))
    while data := raw.read(cluster):
        if data.strip(b"\\0"):
            out.write(data)
"""
DOCUMENTS = {CYCLONEDX_FILE: b'{"bomFormat": "CycloneDX"}\n', SPDX_FILE: b'{"spdxVersion": "SPDX-2.3"}\n'}
STAND_IN = (sys.executable, "-c", _STAND_IN)


def make_image(folder: Path, *, megabytes: int = 6, seed: int = 1) -> Path:
    """An image directory whose disk has a boot sector, two partitions with data, zeros between and a hole behind."""
    folder.mkdir(parents=True)
    noise = random.Random(seed)
    with (folder / "image.raw").open("wb") as disk:
        disk.truncate((megabytes + 26) * MIB)
        disk.write(noise.randbytes(4096))
        for offset in (1 * MIB, 8 * MIB):
            disk.seek(offset)
            for _ in range(megabytes // 2):
                disk.write(noise.randbytes(MIB // 2) + b"the same again " * 30000 + bytes(MIB // 2 - 450000))
    (folder / "vmlinuz").write_bytes(noise.randbytes(5000))
    (folder / "initrd").write_bytes(noise.randbytes(3000))
    (folder / "cmdline").write_bytes(b"quiet roothash=" + b"0" * 64)
    (folder / "init").write_bytes(b"#!/bin/sh\n")
    return folder


FACTS = ManifestFacts(
    name="opencode-mixtape",
    version="dev-5d89c00",
    arch="x86_64-linux",
    dev=False,
    build=Build(
        source_revision="5d89c00",
        plan_key=KEY,
        lock_sha256="cd" * 32,
        tools_lock_sha256="ef" * 32,
        epoch=EPOCH,
        level=1,
        tools={"mkosi": "27.1", "qemu": "10.0.2"},
    ),
    kernel_version="6.12.117+deb13-cloud-amd64",
    root_hash="12" * 32,
    disk_uuid="00000000-0000-4000-8000-000000000000",
    partitions=(
        PartitionEntry(
            label="esp",
            type="c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
            uuid="00000000-0000-4000-8000-000000000001",
            offset=MIB,
            size=4 * MIB,
        ),
        PartitionEntry(
            label="root",
            type="4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
            uuid="00000000-0000-4000-8000-000000000002",
            offset=8 * MIB,
            size=7 * MIB,
        ),
    ),
    agent=Agent(
        harness="opencode",
        api_keys=("ANTHROPIC_API_KEY",),
        packages=(AgentPackage(name="opencode-ai", version="1.18.34", source="npm"),),
    ),
)


def build(
    image: Path,
    out: Path,
    frames: Path,
    *,
    version: str = FACTS.version,
    level: int = FACTS.build.level,
    jobs: int = 2,
    qemu_img: Sequence[str] = STAND_IN,
    force: bool = False,
) -> Manifest:
    """`assemble` with all that the tests do not care about."""
    return assemble(
        image,
        replace(FACTS, version=version, build=FACTS.build.model_copy(update={"level": level})),
        out,
        documents=DOCUMENTS,
        jobs=jobs,
        qemu_img=qemu_img,
        frames=frames,
        report=Silent(),
        force=force,
    )
