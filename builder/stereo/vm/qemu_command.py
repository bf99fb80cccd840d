"""The command line that makes QEMU the machine of a specification. Pure: everything that it depends on is an argument.

Nothing is left to QEMU's defaults or to the user's configuration files: virtio devices only, the artifact itself opened
read-only below a throw-away overlay, sockets and disks as descriptors that nobody else can open. See qemu(1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.vm.machine import Accelerator, Bridged, Gated, MachineSpec, Nat, Share
from stereos_guest.protocol import PORT_NAME

# The best interrupt controller that the accelerator has: the older one knows eight processors.
_MACHINE = {Architecture.X86_64: "q35,smm=off", Architecture.AARCH64: "virt,gic-version=max"}
# Everything there is, but for what only costs where each instruction is emulated: signed pointers, vectors of any
# length, pages beyond 48 bits; and fast string instructions, for which kernels clear and copy memory byte by byte.
_EMULATED = {
    Architecture.X86_64: "max,erms=off,fsrm=off,la57=off",
    Architecture.AARCH64: "max,pauth=off,sve=off,sme=off,lpa2=off",
}
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Wiring:
    """What belongs to one start of a machine: sockets by descriptor number, and its files by the names QEMU knows.

    QEMU sees no path of the host: disks come as `descriptors`, which it knows as /dev/fdset/NUMBER.
    """

    qmp: int
    console: int
    control: int
    overlay: str
    disk: str
    kernel: str = ""
    initrd: str = ""
    firmware_code: str = ""
    firmware_variables: str = ""  # of a private copy: the machine writes to it
    descriptors: tuple[int, ...] = ()
    credentials: tuple[str, ...] = ()  # files with an SMBIOS string each
    network: int | None = None  # a stream of frames, or a tap device
    mac: str = ""
    shares: tuple[int, ...] = ()  # connections to virtiofsd, as many as the specification has shares


def machine_type(arch: Architecture) -> str:
    """The value of -machine, as far as all machines of an architecture share it; the probe uses the same."""
    return _MACHINE[arch]


def accelerator_arguments(arch: Architecture, accelerator: Accelerator) -> list[str]:
    """How to run on `accelerator`; the probe uses the same, or its verdict would be about something else."""
    if accelerator is Accelerator.TCG:
        return ["-accel", f"{accelerator},thread=multi", "-cpu", _EMULATED[arch]]
    return ["-accel", accelerator.value, "-cpu", "host"]


def closed_arguments(*, seccomp: bool) -> list[str]:
    """Nothing that was not asked for, and no way out."""
    return ["-nodefaults", "-no-user-config", "-display", "none", *(["-sandbox", _SANDBOX] if seccomp else [])]


def command_arguments(spec: MachineSpec, wiring: Wiring, *, seccomp: bool) -> list[str]:
    """The arguments that follow QEMU's own argv prefix. Raises StereoError for what no command line can say."""
    return [
        *closed_arguments(seccomp=seccomp),
        "-name",
        "stereo,debug-threads=on",
        "-machine",
        machine_type(spec.arch)
        + (",pflash0=code,pflash1=variables" if wiring.firmware_code else "")
        + (",memory-backend=memory" if spec.shares else ""),
        *accelerator_arguments(spec.arch, spec.accelerator),
        "-smp",
        str(spec.cpus),
        "-m",
        f"{spec.memory}M",
        *_shared_memory(spec),
        "-no-reboot",
        *(word for number in wiring.descriptors for word in ("-add-fd", f"fd={number},set={number}")),
        *_firmware(wiring),
        *_kernel(spec, wiring),
        *_disk(spec, wiring),
        *_channel("qmp", wiring.qmp),
        *("-mon", "chardev=qmp,mode=control"),
        *_channel("console", wiring.console),
        *("-serial", "chardev:console"),
        *_channel("control", wiring.control),
        *("-device", "virtio-serial-pci,id=ports,max_ports=2"),
        *("-device", f"virtserialport,bus=ports.0,chardev=control,name={PORT_NAME}"),
        *("-object", "rng-builtin,id=entropy"),
        *("-device", "virtio-rng-pci,rng=entropy"),
        *_network(spec, wiring),
        *(word for row in zip(spec.shares, wiring.shares, strict=True) for word in _share(*row)),
        *(word for path in wiring.credentials for word in ("-smbios", f"type=11,path={path}")),
    ]


def _firmware(wiring: Wiring) -> list[str]:
    if not wiring.firmware_code:
        return []
    return [
        *_blockdev("code", {"driver": "raw", "read-only": True, "file": _file(wiring.firmware_code, writable=False)}),
        *_blockdev("variables", {"driver": "raw", "file": _file(wiring.firmware_variables, writable=True)}),
    ]


def _kernel(spec: MachineSpec, wiring: Wiring) -> list[str]:
    if spec.kernel is None:
        return []
    if "\0" in spec.kernel.cmdline:
        raise StereoError("a NUL byte in the kernel's command line")
    return ["-kernel", wiring.kernel, "-initrd", wiring.initrd, "-append", spec.kernel.cmdline]


def _shared_memory(spec: MachineSpec) -> list[str]:
    """virtiofsd reads and writes the guest's memory itself."""
    if not spec.shares:
        return []
    return ["-object", f"memory-backend-memfd,id=memory,size={spec.memory}M,share=on"]


def _disk(spec: MachineSpec, wiring: Wiring) -> list[str]:
    base: dict[str, Any] = {"driver": spec.disk.format, "read-only": True, "file": _file(wiring.disk, writable=False)}
    if spec.disk.format == "qcow2":
        base["backing"] = None  # whatever its header may ask for
    overlay = {
        "driver": "qcow2",
        "file": _file(wiring.overlay, writable=True),
        "backing": base,
        # What is thrown away in the end does not have to survive the host's power failure.
        "cache": {"no-flush": spec.disk.changes is None},
        "discard": "unmap",
    }
    # With a kernel given, that is what boots first; QEMU refuses a second one of the same rank.
    rank = "" if spec.kernel else ",bootindex=0"
    return [*_blockdev("disk", overlay), "-device", f"virtio-blk-pci,drive=disk{rank}"]


def _network(spec: MachineSpec, wiring: Wiring) -> list[str]:
    match spec.network:
        case None:
            return []
        case Gated():
            # QEMU's own, which can connect to nothing but the gate: where QEMU runs there is only a loopback.
            backend = "user,id=net0,ipv6=off"
        case Nat():
            backend = f"stream,id=net0,server=off,addr.type=fd,addr.str={wiring.network}"
        case Bridged():
            backend = f"tap,id=net0,fd={wiring.network},vhost=off"
    mac = f",mac={wiring.mac}" if wiring.mac else ""
    return ["-netdev", backend, "-device", f"virtio-net-pci,netdev=net0,romfile={mac}"]


def _share(share: Share, connection: int) -> list[str]:
    name = f"share-{share.tag}"
    device = {"driver": "vhost-user-fs-pci", "chardev": name, "tag": share.tag}
    return [*_channel(name, connection), "-device", json.dumps(device)]


def _channel(name: str, descriptor: int) -> list[str]:
    return ["-chardev", f"socket,id={name},fd={descriptor}"]


def _blockdev(name: str, node: Mapping[str, Any]) -> list[str]:
    # As JSON, because in the comma syntax a path could smuggle in options.
    return ["-blockdev", json.dumps({"node-name": name, **node})]


def _file(name: str, *, writable: bool) -> dict[str, Any]:
    return {"driver": "file", "filename": name, "read-only": not writable}
