"""Running programs of another architecture while an image is made: its packages' maintainer scripts, its Python.

The kernel hands them to qemu-user of the tools tree, by a registration in a binfmt_misc of the sandbox's own (kernel
6.7 and later: one per user namespace), so that the host stays as it is, and which QEMU runs them is locked as all tools
are. Where the kernel has no such thing, a registration of the host's does. What is possible is tried, not looked up.
See Documentation/admin-guide/binfmt-misc.rst of Linux.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stereo.artifacts import elf
from stereo.build.sandbox import enclosed, mount_point
from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.process import CommandFailed, run

_MACHINE = {Architecture.X86_64: elf.X86_64, Architecture.AARCH64: elf.AARCH64}
_EXIT_0 = {
    # mov eax, 60; xor edi, edi; syscall
    Architecture.X86_64: bytes.fromhex("b83c000000 31ff 0f05"),
    # mov x8, #93; mov x0, #0; svc #0
    Architecture.AARCH64: bytes.fromhex("a80b80d2 000080d2 010000d4"),
}
_IDENT = b"\x7fELF\x02\x01\x01" + bytes(9)  # 64 bits, little-endian; no word on the system
# Any system (byte 7), and position-independent programs (ET_DYN is ET_EXEC with another last bit).
_MASK = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff\xff\xff"
# binfmt_misc onto $1, where it stays unseen below what is mounted there next; the registration $2 of a program in $3.
_REGISTER = 'mount -t binfmt_misc binfmt_misc "$1"; cd "$3"; printf %s "$2" >"$1/register"; cd /; shift 3; exec "$@"'
# A root with nothing in it but the program $2: the emulator has to work where it is not.
_PROBE = 'mount -t tmpfs probe "$1"; printf "$2" >"$1/probe"; chmod 0755 "$1/probe"; exec chroot "$1" /probe'
_NO_MODULE = "unknown filesystem type"  # of mount(8)


@dataclass(frozen=True)
class Emulator:
    """What runs programs of `arch` in the sandbox: `program`, registered there; with None, what the host registered."""

    arch: Architecture
    program: Path | None

    def enclosed(self, argv: Sequence[str | Path], place: str | Path) -> list[str]:
        """`argv` inside the sandbox. `place` is a folder that may be mounted over there."""
        if self.program is None:
            return enclosed(argv)
        entry = registration(self.arch, self.program.name)
        return enclosed(["sh", "-euc", _REGISTER, "sh", place, entry, self.program.parent, *argv], own_users=True)


def is_foreign(arch: Architecture) -> bool:
    """Whether it takes an emulator to run programs of `arch` here."""
    return arch != platform.machine()


def emulator_of(arch: Architecture, tools: Path) -> Emulator:
    """What runs programs of `arch` here: qemu-user of a tools tree, else the host's. Raises as `found` does."""
    return found(arch, tools / f"usr/bin/qemu-{arch}")


def found(arch: Architecture, program: Path) -> Emulator:
    """The first way to run programs of `arch` that works when it is tried: by `program`, else as the host is set up.

    Raises StereoError whose hint is the one command that mends it.
    """
    place = mount_point(program)
    probe: list[str | Path] = [
        "sh",
        "-euc",
        _PROBE,
        "sh",
        place,
        "".join(f"\\{byte:03o}" for byte in tiny_program(arch)),
    ]
    refusals: list[str] = []
    for emulator in (Emulator(arch, program), Emulator(arch, None)):
        try:
            run(emulator.enclosed(probe, place), timeout=60)
        except CommandFailed as error:
            refusals += (error.output.strip() or error.what).splitlines()[-1:]
            continue
        return emulator
    own, _ = refusals
    raise StereoError(
        f"this machine runs no programs of {arch}, as the making of an image for it does: {own}",
        hint="sudo modprobe binfmt_misc" if _NO_MODULE in own else "sudo apt-get install qemu-user-static",
    )


def check(arch: Architecture, folder: Path) -> Emulator:
    """Try the same with a program in `folder` that only ends, in an emulator's place. Raises as `found` does."""
    program = folder / "emulator"
    program.write_bytes(tiny_program(Architecture(platform.machine())))
    program.chmod(0o755)
    return found(arch, program)


def registration(arch: Architecture, program: str) -> str:
    r"""What binfmt_misc's file `register` is told of `program`, a name in the working directory.

    F: it is opened now, and needs not be found from another root. P: what it runs keeps its argv[0].
    """
    magic = _IDENT + (2).to_bytes(2, "little") + _MACHINE[arch].to_bytes(2, "little")
    fields = ("M", "0", *("".join(f"\\x{byte:02x}" for byte in text) for text in (magic, _MASK)), program, "PF")
    return ":".join(("", f"stereo-{arch}", *fields))


def tiny_program(arch: Architecture) -> bytes:
    """A static ELF program that ends with status 0: elf(5)'s header, one program header, a few instructions."""
    base, header, code = 0x400000, 64 + 56, _EXIT_0[arch]
    size = header + len(code)
    rows = (
        *((2, 2), (_MACHINE[arch], 2), (1, 4), (base + header, 8), (64, 8), (0, 8), (0, 4)),  # e_type to e_flags
        *((64, 2), (56, 2), (1, 2), (0, 2), (0, 2), (0, 2)),  # sizes and counts of headers
        *((1, 4), (5, 4), (0, 8), (base, 8), (base, 8), (size, 8), (size, 8), (0x1000, 8)),  # all of it, to run
    )
    return _IDENT + b"".join(value.to_bytes(width, "little") for value, width in rows) + code
