"""A small dist that holds what hypervisors look for: a kernel of the right form, drivers, consoles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from makers.dist import make_dist
from makers.kernels import make_bzimage, make_elf, make_image
from makers.node import SAMPLE, Files, directory, file, symlink
from stereo.model.architecture import Architecture
from stereo.model.manifest import Manifest

CONSOLES = {
    Architecture.X86_64: "console=ttyS0,115200 quiet",
    Architecture.AARCH64: "console=ttyAMA0,115200 console=hvc0 quiet",
}
_MACHINES = {Architecture.X86_64: 62, Architecture.AARCH64: 183}
_MODULES = "/usr/lib/modules/6.12.0"
_BUILT_IN = (
    *("drivers/virtio/virtio_pci", "drivers/char/virtio_console", "drivers/tty/serial/8250/8250"),
    *("drivers/tty/serial/amba-pl011", "fs/fuse/virtiofs"),
)
EARLY = ("virtio_blk", "virtio_mmio", "erofs", "overlay", "dm-verity")
LATE = ("drivers/net/virtio_net.ko.xz", "net/vmw_vsock/vmw_vsock_virtio_transport.ko.xz")


def make_initrd(
    *modules: str, loaded: tuple[str, ...] | None = None, arch: Architecture = Architecture.X86_64
) -> Files:
    """An initrd with these modules, which loads those that are `loaded`: by default all of them."""
    folders = {path: directory() for path in ("/", "/bin", "/lib", "/lib/modules")}
    return {
        **folders,
        "/bin/busybox": file(make_elf(machine=_MACHINES[arch], notes=()), 0o755),
        "/bin/sh": symlink("busybox"),
        "/init": file(b"#!/bin/sh\n", 0o755),
        "/modules.list": file("".join(f"/lib/modules/{name}.ko\n" for name in loaded or modules).encode()),
        **{f"/lib/modules/{name}.ko": file(b"module") for name in modules},
    }


def make_system(*built_in: str, late: tuple[str, ...] = LATE) -> Files:
    """A root file system with a list of what is built in, and modules."""
    files = dict(SAMPLE)
    rows = "".join(f"kernel/{name}.ko\n" for name in built_in)
    files[f"{_MODULES}/modules.builtin"] = file(rows.encode())
    for path in late:
        parts = f"{_MODULES}/kernel/{path}".split("/")
        for count in range(5, len(parts)):
            files.setdefault("/".join(parts[:count]), directory())
        files["/".join(parts)] = file(b"module")
    return files


def make_bootable(folder: Path, arch: Architecture = Architecture.X86_64, **other: Any) -> Manifest:
    """Write the dist to `folder`; `other` replaces what it is made of, see `make_dist`."""
    parts: dict[str, Any] = {
        "root": make_system(*_BUILT_IN),
        "initrd": make_initrd(*EARLY, arch=arch),
        "bzimage": make_bzimage() if arch is Architecture.X86_64 else make_image(),
        "words": CONSOLES[arch],
    }
    return make_dist(folder, arch=arch, **{**parts, **other})
