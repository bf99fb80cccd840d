"""What a machine is made of, and what every backend can do with one. Today's backend is QEMU."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

DiskFormat = Literal["raw", "qcow2"]


class Accelerator(StrEnum):
    """What executes the guest's instructions, best first."""

    KVM = "kvm"
    HVF = "hvf"
    TCG = "tcg"


@dataclass(frozen=True)
class Disk:
    """A disk image, never written to: writes go to an overlay of `size` bytes (default: as large).

    The overlay is thrown away, or it is the file `changes`: made by the first machine, taken up by the next.
    """

    path: Path
    format: DiskFormat
    size: int | None = None
    changes: Path | None = None


@dataclass(frozen=True)
class KernelBoot:
    """Files to start without firmware: the boot loader's job is done by the hypervisor."""

    kernel: Path
    initrd: Path
    cmdline: str


@dataclass(frozen=True)
class MachineSpec:
    """A machine to start. Without `kernel` it boots its disk by UEFI. `memory` is in MiB."""

    disk: Disk
    kernel: KernelBoot | None = None
    accelerator: Accelerator = Accelerator.TCG
    cpus: int = 2
    memory: int = 1024
    network: bool = False  # a NIC behind the hypervisor's own NAT
    ssh_port: int | None = None  # of this host's loopback; leads to the guest's port 22, and needs `network`


@dataclass(frozen=True)
class Channel:
    """Both directions of a byte stream to the guest. `reader` was made with a limit; see `asyncio.StreamReader`."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Machine(Protocol):
    """A running machine."""

    @property
    def console(self) -> Channel:
        """The serial console."""

    @property
    def control(self) -> Channel:
        """The far end of the guest's port `io.stereos.control`."""

    @property
    def began(self) -> float:
        """When the hypervisor was started, on the clock of `time.monotonic`."""

    async def wait(self) -> None:
        """Return when the machine has ended by itself. Raises StereoError if the hypervisor failed."""

    async def stop(self, grace: float) -> None:
        """Press the power button, wait `grace` seconds, then switch off. Returns when nothing of it is left."""


class Backend(Protocol):
    """A way to run machines."""

    def start(self, spec: MachineSpec) -> AbstractAsyncContextManager[Machine]:
        """Run a machine for the length of a `with` block; whatever ends the block leaves nothing behind.

        Enter it on the main thread: the child dies with the thread that started it. Raises StereoError.
        """
