"""The command line that makes vfkit the machine of a specification. Pure: everything that it depends on is an argument.

vfkit is a thin program over Apple's Virtualization framework; see its doc/usage.md, and pkg/config for what it accepts.
It takes a device's options apart at every comma, and knows no way to write one in a value: what would need it is
refused here, before vfkit takes the rest of a path for an option. Disks are always cached, and written with fsync(2) by
the host: vfkit asks for nothing else. It opens every share for writing, so that a read-only one is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stereo.errors import StereoError, shown
from stereo.model.architecture import Architecture
from stereo.vm.machine import Bridged, KernelBoot, MachineSpec, Nat, Share

CONTROL_PORT = 1024
"""Where stereosd listens on the guest's vsock; see docs/protocol.md."""

_FORBIDDEN = re.compile(r'[",\x00-\x1f\x7f]')
# vfkit reads the addresses of its sockets as URLs, and uses parts of them escaped and others not.
_SOCKET = re.compile(r"/[A-Za-z0-9/._-]+")
_LONGEST_SOCKET = 103  # bytes; struct sockaddr_un of macOS has 104 with the NUL, see unix(4) there


@dataclass(frozen=True)
class Wiring:
    """What belongs to one start of a machine. All paths are absolute.

    `disk` is written to. `console` gets what the guest writes to hvc0. `rest` and `control` are sockets that vfkit
    makes: for its REST service, and for connections to the guest's `CONTROL_PORT`. Each of `gate` is a socket where
    somebody listens for the guest's connections to the host's vsock port of that number.
    """

    disk: Path
    console: Path
    rest: Path
    control: Path
    initrd: Path | None = None  # the kernel's, or one that was made of it
    variables: Path | None = None  # UEFI's, made if they are not there
    mac: str = ""
    gate: Mapping[int, Path] = field(default_factory=dict)


def command_arguments(spec: MachineSpec, wiring: Wiring) -> list[str]:
    """The arguments that follow vfkit itself. Raises StereoError for what no command line of it can say."""
    check_spec(spec)
    return [
        *("--cpus", str(spec.cpus)),
        *("--memory", str(spec.memory)),  # MiB, as we have it
        *("--bootloader", _boot_loader(spec.kernel, wiring)),
        *_device("virtio-blk", path=_path(wiring.disk)),
        *_device("virtio-rng"),
        *_device("virtio-serial", logFilePath=_path(wiring.console)),
        *_device("virtio-vsock", "connect", port=str(CONTROL_PORT), socketURL=_socket(wiring.control)),
        *(
            word
            for port, path in sorted(wiring.gate.items())
            for word in _device("virtio-vsock", "listen", port=str(port), socketURL=_socket(path))
        ),
        *(_device("virtio-net", "nat", mac=wiring.mac) if isinstance(spec.network, Nat) else []),
        *(word for share in spec.shares for word in _share(share)),
        *("--restful-uri", f"unix://{_socket(wiring.rest)}"),
    ]


def check_spec(spec: MachineSpec) -> None:
    """Refuse a machine that no vfkit can run. Raises StereoError."""
    if spec.arch is not Architecture.AARCH64:
        raise StereoError(f"the backend applevirt runs aarch64, not {spec.arch}", hint="use --backend qemu")
    if spec.disk.format != "raw":
        raise StereoError(
            "Apple's Virtualization framework knows raw disks only", where=str(spec.disk.path), hint="use the raw disk"
        )
    if isinstance(spec.network, Bridged):
        raise StereoError("the backend applevirt has no bridged network", hint='use the network "nat"')
    if isinstance(spec.network, Nat) and spec.network.forwards:
        ports = ", ".join(f"{each.host}/{each.protocol}" for each in spec.network.forwards)
        raise StereoError(f"the backend applevirt cannot forward {ports}", hint="forward TCP alone")
    if spec.kernel is None and spec.credentials:
        raise StereoError("the backend applevirt has no credentials with UEFI", hint="boot the kernel directly")
    for share in spec.shares:
        _share(share)


def _boot_loader(kernel: KernelBoot | None, wiring: Wiring) -> str:
    if kernel is None:
        assert wiring.variables is not None
        return f"efi,variable-store={_path(wiring.variables)},create"
    if _FORBIDDEN.search(kernel.cmdline.replace(",", "")):
        raise StereoError(f"the kernel's command line cannot be given to vfkit: {shown(kernel.cmdline)}")
    initrd = wiring.initrd or kernel.initrd
    # In quotation marks, and nowhere else, vfkit leaves commas alone.
    return f'linux,kernel={_path(kernel.kernel)},initrd={_path(initrd)},cmdline="{kernel.cmdline}"'


def _share(share: Share) -> list[str]:
    if share.read_only:
        raise StereoError(
            "vfkit opens every share for writing, and a guest would only have to ask",
            where=str(share.path),
            hint="readonly = false, or `stereo cp` into the sandbox",
        )
    return _device("virtio-fs", sharedDir=_path(share.path), mountTag=share.tag)


def _device(kind: str, *flags: str, **options: str) -> list[str]:
    rows = [kind, *(f"{key}={value}" for key, value in options.items() if value), *flags]
    return ["--device", ",".join(rows)]


def _path(path: Path) -> str:
    """As vfkit takes it, without what would end it early."""
    assert path.is_absolute()
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise StereoError("vfkit takes paths in UTF-8 only", where=shown(text)) from None
    if _FORBIDDEN.search(text):
        raise StereoError(
            "vfkit cannot be given a path with a comma, a quotation mark or a control character", where=shown(text)
        )
    return text


def _socket(path: Path) -> str:
    text = str(path)
    if not _SOCKET.fullmatch(text) or len(text) > _LONGEST_SOCKET:
        raise StereoError("no address for a socket of vfkit", where=shown(text))
    return text
