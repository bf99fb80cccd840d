"""The kernel inside of an x86 bzImage, as the ELF file that some hypervisors want. See the kernel's arch/x86/boot.rst.

A bzImage is a boot sector with a header, real mode code, and a program that unpacks its payload: the ELF kernel in one
zstd frame (which is how Debian packs it), followed by the kernel's size in four bytes.
"""

from __future__ import annotations

import struct

from stereo.artifacts import zst
from stereo.artifacts.elf import X86_64, Elf
from stereo.artifacts.region import Region

MAGIC, MAGIC_AT = b"HdrS", 0x202
LARGEST_KERNEL = 128 << 20
"""Bytes that a kernel may unpack to; Debian's is half of that."""

_SETUP_SECTS, _VERSION, _CMDLINE_SIZE, _PAYLOAD = 0x1F1, 0x206, 0x238, 0x248
_WINDOW = 128 << 20  # the kernel is packed by `zstd --ultra -22`; no more of it is touched than the kernel is large
_OLDEST = 0x208  # the first version of the protocol whose header tells where the payload is


class BzImage:
    """A bzImage. Raises FormatError when its header is not that of one.

    `protocol` is the version of the boot protocol (0x020f is 2.15), `cmdline_size` how many bytes of command line the
    kernel takes, `payload` the packed kernel with its size behind it.
    """

    def __init__(self, region: Region) -> None:
        self.region = region
        if region.size < 0x250 or region.read(0x1FE, 2) != b"\x55\xaa" or region.read(MAGIC_AT, 4) != MAGIC:
            raise region.fault("not a bzImage")
        self.protocol = self._number("<H", _VERSION)
        if self.protocol < _OLDEST:
            raise region.fault(
                f"a bzImage of boot protocol {self.protocol >> 8}.{self.protocol & 0xFF:02}, before 2.08"
            )
        self.cmdline_size = self._number("<I", _CMDLINE_SIZE)
        start = ((self._number("B", _SETUP_SECTS) or 4) + 1) * 512
        offset, length = self._number("<I", _PAYLOAD), self._number("<I", _PAYLOAD + 4)
        self.payload = region.part(start + offset, length, "payload")

    def _number(self, layout: str, at: int) -> int:
        (value,) = self.region.unpack(struct.Struct(layout), at)
        assert isinstance(value, int)
        return value

    @property
    def compression(self) -> str:
        """By what the kernel is packed, "zstd" for instance; "" if that is not known."""
        head = self.payload.read(0, min(4, self.payload.size))
        return "zstd" if head == zst.MAGIC else zst.OTHERS.get(head[:2], "")

    def unpack(self, spool: zst.Spool) -> Region:
        """The ELF kernel, in `spool`. Raises FormatError when it is packed otherwise, damaged or no such kernel."""
        if self.compression != "zstd":
            what = f"by {self.compression}" if self.compression else "in a way that is not known"
            raise self.payload.fault(f"is packed {what}, which is not supported; Debian's kernels are by zstd")
        packed, size = self.payload.size - 4, int.from_bytes(self.payload.read(self.payload.size - 4, 4), "little")
        if size > LARGEST_KERNEL:
            raise self.payload.fault(f"would unpack to {size} bytes, more than {LARGEST_KERNEL}")
        kernel = spool.fill(self.payload.part(0, packed), size, window=_WINDOW)
        if kernel.size != size:
            raise self.payload.fault(f"unpacks to {kernel.size} bytes, its end says {size}")
        kernel = kernel.named(f"{self.region.name}: kernel")
        elf = Elf(kernel)
        if elf.machine != X86_64 or not elf.executable:
            raise kernel.fault("no executable for x86_64")
        return kernel
