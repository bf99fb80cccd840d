"""The hypervisors that a dist can be checked for, as data: what each loads, and which devices it has.

| | read from |
|---|---|
| applevirt | vfkit's doc/usage.md, and Apple's VZLinuxBootLoader and VZEFIBootLoader |
| qemu | qemu-system(1) and docs/system of QEMU 10.0 |
| libvirt | formatdomain of libvirt 11.3, the schema of which a test validates against |
| cloud-hypervisor | README, docs/device_model.md, docs/uefi.md, docs/vsock.md and release notes up to v51 |
| firecracker | docs/kernel-policy.md, docs/vsock.md and the API's swagger of 1.17 |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stereo.artifacts.kernel import Kernel
from stereo.model.architecture import Architecture

X86_64, AARCH64 = Architecture.X86_64, Architecture.AARCH64
SERIAL = {X86_64: "ttyS0", AARCH64: "ttyAMA0"}
VIRTIO_CONSOLE = "hvc0"
MACHINE = {X86_64: "q35", AARCH64: "virt"}
"""What QEMU, and so libvirt, calls the board."""


@dataclass(frozen=True)
class Hypervisor:
    """One of them. `consoles` are those that it can have, best first; `kernels` the forms that it loads itself.

    `bus` is the driver that finds its virtio devices, `firmware` its UEFI ("" if it has none). `port` says whether it
    has virtio-serial ports, so that stereosd needs no vsock, `smbios` whether the guest gets strings of SMBIOS,
    `power_off` whether it can switch itself off, and `pvh` whether it enters an ELF kernel by its PVH entry alone.
    """

    name: str
    kernels: Mapping[Architecture, tuple[Kernel, ...]]
    consoles: Mapping[Architecture, tuple[str, ...]]
    disks: tuple[str, ...]
    firmware: str
    bus: str
    port: bool
    smbios: bool
    shares: bool
    power_off: Mapping[Architecture, bool]
    pvh: bool = False

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        """For which guests it is made."""
        return tuple(self.kernels)


_BOTH = {X86_64: (SERIAL[X86_64], VIRTIO_CONSOLE), AARCH64: (SERIAL[AARCH64], VIRTIO_CONSOLE)}
_ALWAYS = {X86_64: True, AARCH64: True}
_QEMU_KERNELS = {X86_64: (Kernel.BZIMAGE, Kernel.ELF), AARCH64: (Kernel.IMAGE, Kernel.GZIP, Kernel.ZBOOT)}

HYPERVISORS = (
    Hypervisor(
        name="applevirt",
        kernels={AARCH64: (Kernel.IMAGE,)},
        consoles={AARCH64: (VIRTIO_CONSOLE,)},
        disks=("raw",),
        firmware="Apple's",
        bus="virtio_pci",
        port=False,
        smbios=False,
        shares=True,
        power_off=_ALWAYS,
    ),
    Hypervisor(
        name="qemu",
        kernels=_QEMU_KERNELS,
        consoles=_BOTH,
        disks=("raw", "qcow2"),
        firmware="OVMF or AAVMF",
        bus="virtio_pci",
        port=True,
        smbios=True,
        shares=True,
        power_off=_ALWAYS,
        pvh=True,
    ),
    Hypervisor(
        name="libvirt",
        kernels=_QEMU_KERNELS,
        consoles=_BOTH,
        disks=("raw", "qcow2"),
        firmware="OVMF or AAVMF",
        bus="virtio_pci",
        port=True,
        smbios=True,
        shares=True,
        power_off=_ALWAYS,
        pvh=True,
    ),
    Hypervisor(
        name="cloud-hypervisor",
        # An ELF kernel is entered by PVH. A bzImage is taken from v39 on, and ELF by every version.
        kernels={X86_64: (Kernel.ELF, Kernel.BZIMAGE), AARCH64: (Kernel.IMAGE,)},
        consoles=_BOTH,
        disks=("raw", "qcow2"),
        firmware="CLOUDHV",
        bus="virtio_pci",
        port=False,
        smbios=True,
        shares=True,
        power_off=_ALWAYS,
        pvh=True,
    ),
    Hypervisor(
        name="firecracker",
        # A bzImage is taken from 1.17 on only, and costs time and memory.
        kernels={X86_64: (Kernel.ELF,), AARCH64: (Kernel.IMAGE,)},
        consoles={X86_64: ("ttyS0",), AARCH64: ("ttyS0",)},  # a 16550A on both
        disks=("raw",),
        firmware="",
        bus="virtio_mmio",  # PCI is from 1.13 on, with --enable-pci
        port=False,
        smbios=False,
        shares=False,
        power_off={X86_64: False, AARCH64: True},
    ),
)
"""In the order in which `stereo check` tells of them."""
