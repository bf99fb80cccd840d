"""Reads back from a finished disk what mkosi decided: root hash, kernel and command line, partitions.

The disk itself is asked, not mkosi's words about it: what is written into mixtape.toml is what boots.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stereo.artifacts.gpt import Partition, partition_region, read_gpt
from stereo.artifacts.kernel import kernel_fault
from stereo.artifacts.pe import REMOVABLE_PATH, Pe
from stereo.artifacts.region import OpenFile, Region
from stereo.artifacts.vfat import Vfat
from stereo.errors import StereoError
from stereo.model.architecture import Architecture

_ROOT_HASH = re.compile(r"(?:^| )roothash=([0-9a-f]{64})(?= |$)")


@dataclass(frozen=True)
class Described:
    """What a disk says of itself. Offsets and sizes are in bytes."""

    kernel_version: str
    root_hash: str
    command_line: str
    disk_uuid: str
    partitions: tuple[Partition, ...]

    def document(self) -> dict[str, Any]:
        """The form of image.json."""
        rows = [
            {key: value for key, value in asdict(one).items() if key not in ("number", "attributes")}
            for one in self.partitions
        ]
        return {
            "kernel_version": self.kernel_version,
            "root_hash": self.root_hash,
            "disk_uuid": self.disk_uuid,
            "partitions": rows,
        }


def describe(disk: Path, arch: Architecture) -> Described:
    """Read partition table, ESP and UKI of a disk of ours. Raises StereoError if it is not laid out as they are."""
    with OpenFile(disk) as source:
        region = source.region
        table = read_gpt(region)
        esp = next((one for one in table.partitions if one.label == "esp"), None)
        if esp is None:
            raise StereoError("mkosi made a disk without an ESP", where=str(disk))
        uki = Pe(_removable(Vfat(partition_region(region, esp)), arch))
        if fault := kernel_fault(uki.content(uki.only(".linux")), arch.system):
            raise StereoError(f"the kernel of the UKI {fault}", where=str(disk))
        words = _text(uki, ".cmdline")
        found = _ROOT_HASH.search(words)
        if found is None:
            raise StereoError("the UKI's command line carries no root hash", where=str(disk))
        return Described(_text(uki, ".uname"), found[1], words, table.disk_uuid, table.partitions)


def _removable(esp: Vfat, arch: Architecture) -> Region:
    wanted = REMOVABLE_PATH[arch.system]
    for entry in esp.entries():
        if entry.path.upper() == wanted:
            return esp.content(entry)
    raise StereoError(f"the ESP holds no {wanted}")


def _text(uki: Pe, section: str) -> str:
    content = uki.content(uki.only(section))
    return content.read(0, content.size).rstrip(b"\0\n").decode("ascii")
