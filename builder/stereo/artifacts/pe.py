"""The sections of a PE image: the parts of a unified kernel image. See the PE format specification and the UKI's.

(uapi-group.org/specifications/specs/unified_kernel_image)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from stereo.artifacts.region import Region

_COFF = struct.Struct("<HHIIIHH")
_SECTION = struct.Struct("<8sIIIIIIHHI")
_MOST_SECTIONS = 96

REMOVABLE_PATH = {"x86_64-linux": "/EFI/BOOT/BOOTX64.EFI", "aarch64-linux": "/EFI/BOOT/BOOTAA64.EFI"}
"""Where firmware looks for an image on an ESP, by architecture as a manifest names it. UEFI 2.10, section 3.5.1.1."""


@dataclass(frozen=True, slots=True)
class Section:
    """`size` is what the section means; `stored` what the file holds, padded with zeros up to the file's alignment."""

    name: str
    size: int
    offset: int
    stored: int


class Pe:
    """A PE image. Raises FormatError when its headers are not those of one."""

    def __init__(self, region: Region) -> None:
        self.region = region
        if region.read(0, 2) != b"MZ":
            raise region.fault("not a PE image")
        at = int.from_bytes(region.read(0x3C, 4), "little")
        if region.read(at, 4) != b"PE\0\0":
            raise region.fault("not a PE image")
        self.machine, count, _, _, _, optional, _ = region.unpack(_COFF, at + 4)
        if count > _MOST_SECTIONS:
            raise region.fault(f"a PE image of {count} sections")
        first = at + 4 + _COFF.size + optional
        self.sections = tuple(self._section(first + index * _SECTION.size) for index in range(count))

    def _section(self, at: int) -> Section:
        name, size, _, stored, offset, *_ = self.region.unpack(_SECTION, at)
        label = name.rstrip(b"\0").decode("ascii", "backslashreplace")
        if stored:
            self.region.part(offset, stored, label)
        return Section(label, size, offset, stored)

    def stored(self, section: Section) -> Region:
        """Everything that the file holds of a section, padding included."""
        return self.region.part(section.offset, section.stored, section.name)

    def content(self, section: Section) -> Region:
        """What a section means: without padding."""
        return self.region.part(section.offset, min(section.size, section.stored), section.name)

    def only(self, name: str) -> Section:
        """The one section of that name. Raises FormatError when there is none, or a second."""
        found = [section for section in self.sections if section.name == name]
        if len(found) != 1:
            raise self.region.fault(f"has {len(found)} sections {name}, not one")
        return found[0]
