"""What a machine is made of, and what every backend can do with one. Today's backend is QEMU."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

from stereo.model.architecture import Architecture

DiskFormat = Literal["raw", "qcow2"]
Transport = Literal["tcp", "udp"]

GUEST, GATEWAY, RESOLVER = "10.0.2.15", "10.0.2.2", "10.0.2.3"
"""What guests of `Nat` and `Gated` see: their own address (DHCP), their gateway, and with `Nat` who answers DNS."""

PROXY_PORT, DNS_PORT = 3128, 53


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
class Forward:
    """A port of this host's 127.0.0.1 that leads to a port of the guest."""

    host: int
    guest: int
    protocol: Transport = "tcp"


@dataclass(frozen=True)
class Nat:
    """What this host reaches the guest reaches too, except the host's loopback. IPv4; see `GUEST` for the addresses."""

    forwards: tuple[Forward, ...] = ()


@dataclass(frozen=True)
class Gated:
    """The guest reaches `Machine.gate` and nothing else: sockets that listen where only the guest can connect.

    It finds them at `GATEWAY`: the proxy's port, DNS, and each TCP port of `ports`.
    """

    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Bridged:
    """The guest is a neighbour of the host on an existing bridge, and gets its address there. Needs CAP_NET_ADMIN."""

    bridge: str


Network = Nat | Gated | Bridged


@dataclass(frozen=True)
class Share:
    """A folder of the host that the guest can mount by `tag` (virtiofs).

    Whoever starts the machine owns outside what user 1000 owns inside. `read_only` is enforced by the host.
    """

    tag: str
    path: Path
    read_only: bool = False


@dataclass(frozen=True)
class MachineSpec:
    """A machine to start. Without `kernel` it boots its disk by UEFI. `memory` is in MiB."""

    disk: Disk
    arch: Architecture
    kernel: KernelBoot | None = None
    accelerator: Accelerator = Accelerator.TCG
    cpus: int = 2
    memory: int = 1024
    network: Network | None = None
    shares: tuple[Share, ...] = ()
    credentials: Mapping[str, str] = field(default_factory=dict)
    """What systemd in the guest finds as system credentials, by name; see systemd.system-credentials(7)."""


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

    @property
    def gate(self) -> Mapping[tuple[Transport, int], socket.socket]:
        """With a `Gated` network what listens for the guest, by protocol and port; whoever serves them takes them."""

    async def wait(self) -> None:
        """Return when the machine has ended by itself.

        Raises StereoError if the hypervisor failed, or if what serves its network or a share ended before it.
        """

    async def stop(self, grace: float) -> None:
        """Press the power button, wait `grace` seconds, then switch off. Returns when nothing of it is left."""


class Backend(Protocol):
    """A way to run machines."""

    def start(self, spec: MachineSpec) -> AbstractAsyncContextManager[Machine]:
        """Run a machine for the length of a `with` block; whatever ends the block leaves nothing behind.

        Enter it on the main thread: the child dies with the thread that started it. Raises StereoError.
        """
