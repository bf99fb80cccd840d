"""The smallest guests there are, one for each architecture: what a probe of an accelerator boots. See `accel`.

Each turns on paging, works on memory for so long that the host interrupts it many times, and then ends QEMU in a way
that no firmware, and no QEMU that failed, ends it.
"""

from __future__ import annotations

import json
from pathlib import Path

from stereo.model.architecture import Architecture

# A boot sector, run by SeaBIOS. Offsets are from 0x7c00, where the BIOS puts it. AMD64 manual, volume 2, 14.6:
# activating long mode.
_X86_64 = bytes.fromhex(
    "fa 31c0 8ed8 8ec0 8ed0 bc007c fc"  # 00 cli; ax, ds, es, ss = 0; sp = 0x7c00; cld
    "bf0010 6631c0 b9000c 66f3ab"  # 0d clear 0x1000-0x3fff for the page tables
    "c70600100320 c70600200330 c70600308300"  # 19 PML4 -> PDPT -> PD with one 2 MiB page
    "66b800100000 0f22d8"  # 2b cr3 = 0x1000
    "66b820000000 0f22e0"  # 34 cr4.PAE
    "66b9800000c0 0f32 80cc01 0f30"  # 3d EFER.LME
    "0f0116887c"  # 4a lgdt [0x7c88]
    "0f20c0 660d01000080 0f22c0"  # 4f cr0.PG, cr0.PE
    "ea607c0800"  # 5b jmp 8:0x7c60, now in 64-bit mode
    "b900000001"  # 60 ecx = 16 Mi rounds
    "0fb7f9 ff8700000100 e2f5"  # 65 edi = cx; inc dword [rdi + 0x10000]; loop
    "b02a e6f4"  # 70 out 0xf4, 42: QEMU exits with (42 << 1) | 1
    "f4 ebfd 90"  # 74 hlt, for ever
    "0000000000000000 00000000009a2000"  # 78 GDT: null; code, 64-bit
    "0f00 787c0000"  # 88 GDT: 16 bytes at 0x7c78
)
_X86_64_STATUS = 42 << 1 | 1
_DISK_SIZE = 1 << 20

# An uncompressed kernel, which QEMU starts by itself: its header (the kernel's arch/arm64/booting.rst), then words that
# are instructions, little-endian. It says "stereo" at the serial port and switches off by PSCI.
_AARCH64 = bytes.fromhex(
    "10000014 00000000 0000000000000000"  # 00 b 0x40; load at a multiple of 2 MiB
    "0000200000000000 0a00000000000000"  # 10 2 MiB of memory; little-endian, 4 KiB pages, anywhere
    "000000000000000000000000000000000000000000000000"  # 20
    "41524d64 00000000"  # 38 magic
    "00feff10 00044091"  # 40 x0 = its own begin + 4 KiB, the table of 1 GiB blocks
    "a18080d2 010000f9"  # 48 at 0 the devices
    "21e080d2 0100a8f2 010400f9"  # 50 at 1 GiB the memory
    "bf3f03d5 207608d5"  # 5c dmb; dc ivac, x0: no cache knows better
    "e11f80d2 01a218d5"  # 64 mair_el1: memory that may be cached, and devices
    "21a386d2 0110a0f2 412018d5"  # 6c tcr_el1: 39 bits of addresses, 4 KiB pages, the lower half alone
    "002018d5 1f8708d5 9f3f03d5 df3f03d5"  # 78 ttbr0_el1 = x0; tlbi vmalle1; dsb; isb
    "011038d5 a20082d2 2100 02aa 011018d5 df3f03d5"  # 88 sctlr_el1: translation, caches
    "00404091 0120a052"  # 9c x0 += 64 KiB; w1 = 16 Mi rounds
    "223c4092 036862b8 63040011 036822b8"  # a4 x2 = x1 & 0xffff; inc dword [x0 + x2]
    "21040071 61ffff54"  # b4 subs w1; b.ne
    "0020a1d2 21608052 013000b9"  # bc x0 = 0x9000000, the PL011: on, to transmit
    "41010010 22144038 62000034 020000b9 fdffff17"  # c8 the characters at f0
    "00018052 0080b072 020000d4"  # dc w0 = PSCI SYSTEM_OFF; hvc
    "7f2003d5 ffffff17"  # e8 wfi, for ever
    "73746572656f0a00"  # f0 "stereo\n"
)
_AARCH64_WORDS = "stereo\n"


def boot_disk() -> bytes:
    """The guest of x86_64: a disk whose boot sector does the work."""
    return _X86_64.ljust(510, b"\0") + b"\x55\xaa" + bytes(_DISK_SIZE - 512)


def kernel_image() -> bytes:
    """The guest of aarch64: a kernel, as `bzImage` of a dist is one."""
    return _AARCH64


def arguments(arch: Architecture, folder: Path) -> list[str]:
    """What QEMU has to be told to run the guest, beside the machine and the accelerator. Writes it to `folder`."""
    guest = folder / "guest"
    if arch is Architecture.AARCH64:
        guest.write_bytes(kernel_image())
        return ["-kernel", str(guest), "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    guest.write_bytes(boot_disk())
    node = json.dumps({"node-name": "disk", "driver": "file", "filename": str(guest), "read-only": True})
    return [
        *("-blockdev", node, "-device", "virtio-blk-pci,drive=disk,bootindex=0"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
    ]


def did_its_work(arch: Architecture, status: int, output: str) -> bool:
    """Whether QEMU ended with what only the guest makes it end with."""
    if arch is Architecture.AARCH64:
        return status == 0 and output == _AARCH64_WORDS
    return status == _X86_64_STATUS
