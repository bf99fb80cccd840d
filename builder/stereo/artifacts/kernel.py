"""Which of the forms a kernel file has that loaders tell apart, and what the header of an arm64 Image says.

See the kernel's arch/arm64/booting.rst for Image; EFI zboot is that of drivers/firmware/efi/libstub/zboot-header.S.
"""

from __future__ import annotations

import struct
from enum import StrEnum

from stereo.artifacts import bzimage, elf
from stereo.artifacts.region import FormatError, Region

_IMAGE_MAGIC, _IMAGE_MAGIC_AT = b"ARM\x64", 56
_IMAGE = struct.Struct("<16xQQ")
_IMAGE_HEADER = 64
_ZBOOT = b"zimg"


class Kernel(StrEnum):
    """The form of a kernel file. The value is how one calls it."""

    BZIMAGE = "bzImage"
    ELF = "ELF vmlinux"
    IMAGE = "uncompressed arm64 Image"
    ZBOOT = "EFI zboot"
    GZIP = "gzip"
    PE = "EFI program"


# Names of architectures as in mixtape.toml. What every loader of aarch64 takes, Apple's too, is the Image as it is.
_FORM = {"x86_64-linux": Kernel.BZIMAGE, "aarch64-linux": Kernel.IMAGE}


def kernel_form(region: Region) -> Kernel:
    """What `region` holds, by its first bytes alone. Raises FormatError for anything else.

    A bzImage and an Image are EFI programs too, and a zboot kernel is nothing else: what says more is asked first.
    """
    head = region.read(0, min(0x206, region.size))
    if head[bzimage.MAGIC_AT : bzimage.MAGIC_AT + 4] == bzimage.MAGIC:
        return Kernel.BZIMAGE
    if head[:4] == elf.MAGIC:
        return Kernel.ELF
    if head[_IMAGE_MAGIC_AT : _IMAGE_MAGIC_AT + 4] == _IMAGE_MAGIC:
        return Kernel.IMAGE
    if head[:2] == b"MZ":
        return Kernel.ZBOOT if head[4:8] == _ZBOOT else Kernel.PE
    if head[:2] == b"\x1f\x8b":
        return Kernel.GZIP
    raise region.fault("no kernel that is known: neither bzImage nor ELF, Image, EFI program or gzip")


class Image:
    """An uncompressed arm64 Image. Raises FormatError when its header is not that of one that can be booted here.

    `memory` is how many bytes it takes once it is loaded.
    """

    def __init__(self, region: Region) -> None:
        if region.size < _IMAGE_HEADER or region.read(_IMAGE_MAGIC_AT, 4) != _IMAGE_MAGIC:
            raise region.fault("not an arm64 Image")
        self.memory, flags = region.unpack(_IMAGE, 0)
        if flags & 1:
            raise region.fault("a big-endian arm64 Image")
        if self.memory < region.size:
            raise region.fault(f"an arm64 Image of {region.size} bytes that claims to need {self.memory}")


def kernel_fault(region: Region, arch: str) -> str | None:
    """Why `region` cannot be the kernel of a dist for `arch`, a name as in mixtape.toml; None if it can."""
    wanted = _FORM[arch]
    try:
        form = kernel_form(region)
        if form is wanted is Kernel.IMAGE:
            Image(region)
    except FormatError as error:
        return error.what
    return None if form is wanted else f"is {form}, and a dist for {arch} has {wanted}"
