"""Small kernels in each form that loaders know; none of them would boot."""

from __future__ import annotations

import struct

import zstandard

from stereo.model.architecture import Architecture

PVH_ENTRY = 0x0100_0B20
XEN_NOTE = (b"Xen\0", 18, struct.pack("<Q", PVH_ENTRY))


def make_elf(
    *,
    machine: int = 62,
    kind: int = 2,
    notes: tuple[tuple[bytes, int, bytes], ...] = (XEN_NOTE,),
    text: int = 5000,
    loader: bytes | None = None,
) -> bytes:
    """An ELF program with one segment to load, and one of notes; or with the path of its `loader` in place of these."""
    body = b""
    for owner, number, content in notes:
        body += struct.pack("<III", len(owner), len(content), number)
        body += owner.ljust(-(-len(owner) // 4) * 4, b"\0") + content.ljust(-(-len(content) // 4) * 4, b"\0")
    body = body if loader is None else loader
    code = b"\x90" * text
    code_at, notes_at = 64 + 2 * 56, 64 + 2 * 56 + len(code)
    head = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0x0100_0000, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    rows = struct.pack("<IIQQQQQQ", 1, 5, code_at, 0, 0x0100_0000, len(code), len(code), 4096)
    rows += struct.pack("<IIQQQQQQ", 4 if loader is None else 3, 4, notes_at, 0, 0, len(body), len(body), 4)
    return head + rows + code + body


def make_bzimage(elf: bytes | None = None, *, packed: bytes | None = None, size: int | None = None) -> bytes:
    """A bzImage around `elf`, or around what is packed already; `size` is what its end says of the kernel."""
    kernel = make_elf() if elf is None else elf
    payload = zstandard.ZstdCompressor(level=3).compress(kernel) if packed is None else packed
    payload += struct.pack("<I", len(kernel) if size is None else size)
    setup = bytearray(2 * 512)
    setup[0:2], setup[0x1F1], setup[0x1FE:0x200], setup[0x202:0x206] = b"MZ", 1, b"\x55\xaa", b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x20F)
    struct.pack_into("<I", setup, 0x238, 2047)
    struct.pack_into("<II", setup, 0x248, 100, len(payload))
    # An EFI program, too, as every Linux with an EFI stub is.
    struct.pack_into("<I", setup, 0x3C, 0x40)
    setup[0x40:0x44] = b"PE\0\0"
    struct.pack_into("<HH", setup, 0x44, 0x8664, 0)
    return bytes(setup) + bytes(100) + payload


def make_image(*, flags: int = 0b1010, memory: int | None = None, text: int = 4000) -> bytes:
    """An arm64 Image with an EFI stub's header."""
    size = 64 + text
    head = b"MZ\x40\xfa" + struct.pack("<IQQQ24x", 0x1400_0000, 0, memory or size + 8192, flags)
    head += b"ARM\x64" + struct.pack("<I", 0x40)
    return head + b"PE\0\0" + struct.pack("<HH", 0xAA64, 0) + bytes(text - 8)


def as_kernel(program: bytes, arch: Architecture) -> bytes:
    """An EFI program with what makes it a kernel of `arch`: where EFI looks at nothing, or in the first section."""
    data = bytearray(program)
    if arch is Architecture.X86_64:
        data[0x202:0x206] = b"HdrS"
    else:
        struct.pack_into("<QQQ", data, 8, 0, len(data) + 8192, 0b1010)
        data[56:60] = b"ARM\x64"
    return bytes(data)
