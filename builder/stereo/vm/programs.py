"""Where QEMU and what serves its machines come from: an unpacked tools tree, or else the host.

There is a QEMU, and a firmware, for each architecture of guests; a tools tree is of the host's own. A program of it is
started by the tree's own dynamic loader, so that it runs on a host whose C library is older; see ld.so(8),
--library-path. QEMU's data folders have to be named, since it was built to look for them in /usr.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stereo import process
from stereo.errors import StereoError
from stereo.model.architecture import Architecture

_PACKAGES = {
    Architecture.X86_64: ("qemu-system-x86", "ovmf"),
    Architecture.AARCH64: ("qemu-system-arm", "qemu-efi-aarch64"),
}
_HELPERS_HINT = "install passt and virtiofsd, or let a build make its tools tree"
_HELPERS = {"passt": ("usr/bin/passt",), "virtiofsd": ("usr/libexec/virtiofsd", "usr/lib/qemu/virtiofsd")}
# What a program of the host needs to see: its libraries and data, wherever that system keeps them.
_HOST_FOLDERS = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives", "/nix/store")
_LOADERS = {
    Architecture.X86_64: ("usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu"),
    Architecture.AARCH64: ("usr/lib/ld-linux-aarch64.so.1", "usr/lib/aarch64-linux-gnu"),
}
# By the guest's architecture: where distributions and Homebrew keep UEFI, and what they call code and variables.
_FIRMWARE = {
    Architecture.X86_64: (
        ("usr/share/OVMF", "usr/share/ovmf", "usr/share/edk2/x64", "opt/homebrew/share/qemu"),
        (
            ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
            ("OVMF_CODE.fd", "OVMF_VARS.fd"),
            ("OVMF_CODE.4m.fd", "OVMF_VARS.4m.fd"),
            ("edk2-x86_64-code.fd", "edk2-i386-vars.fd"),
        ),
    ),
    Architecture.AARCH64: (
        ("usr/share/AAVMF", "usr/share/edk2/aarch64", "opt/homebrew/share/qemu"),
        (
            ("AAVMF_CODE.fd", "AAVMF_VARS.fd"),
            ("QEMU_EFI-pflash.raw", "vars-template-pflash.raw"),
            ("QEMU_CODE.fd", "QEMU_VARS.fd"),
            ("edk2-aarch64-code.fd", "edk2-arm-vars.fd"),
        ),
    ),
}


def own_architecture() -> Architecture:
    """This host's. Raises StereoError if it is none of ours."""
    try:
        return Architecture.from_machine(platform.machine())
    except ValueError:
        raise StereoError(f"no machines on {platform.machine()}", hint=f"one of {', '.join(Architecture)}") from None


@dataclass(frozen=True)
class Firmware:
    """UEFI in two flash images: the code, and a template of the variables, of which every machine gets a copy."""

    code: Path
    variables: Path


@dataclass(frozen=True)
class Programs:
    """Ready argv prefixes, the environment that they need, and a word on where they are from."""

    qemu: tuple[str, ...]
    qemu_img: tuple[str, ...]
    firmware: Firmware | None
    origin: str
    arch: Architecture  # of the guests that this QEMU runs
    environment: Mapping[str, str] = field(default_factory=dict)
    seccomp: bool = True  # whether QEMU was built with `-sandbox`
    tree: Path | None = None  # the tools tree that they are from, if they are
    passt: tuple[str, ...] | None = None
    virtiofsd: tuple[str, ...] | None = None
    visible: tuple[str, ...] = ()  # the folders that they need to see

    @classmethod
    def find(cls, tools_tree: Path | None = None, arch: Architecture | None = None) -> Programs:
        """For guests of `arch` (default: this host's): from `tools_tree` if given, else from PATH.

        Raises StereoError if there is no such QEMU.
        """
        guest = arch or own_architecture()
        return _from_tree(tools_tree, guest) if tools_tree else _from_host(guest)

    def lacks(self, *, sandbox: bool) -> list[str]:
        """What is missing to boot any dist, or for a `sandbox` to have networks and shares."""
        needed = {
            "UEFI firmware": self.firmware,
            **({"passt": self.passt, "virtiofsd": self.virtiofsd} if sandbox else {}),
        }
        return [name for name, found in needed.items() if found is None]

    def need_firmware(self) -> Firmware:
        """The UEFI firmware, or a StereoError that says how to get it."""
        if self.firmware is None:
            raise StereoError("no UEFI firmware for machines", where=self.origin, hint=_hint(self.arch))
        return self.firmware

    def need_passt(self) -> tuple[str, ...]:
        """What carries the frames of a machine behind NAT, or a StereoError that says how to get it."""
        if self.passt is None:
            raise StereoError("no passt for the network of machines", where=self.origin, hint=_HELPERS_HINT)
        return self.passt

    def need_virtiofsd(self) -> tuple[str, ...]:
        """What serves shares, or a StereoError that says how to get it."""
        if self.virtiofsd is None:
            raise StereoError("no virtiofsd for the shares of machines", where=self.origin, hint=_HELPERS_HINT)
        return self.virtiofsd

    def closed_environment(self) -> dict[str, str]:
        """The whole environment to start any of the programs in."""
        return process.closed_environment(self.environment)

    def version(self) -> str:
        """The version that QEMU tells of itself, such as "10.0.13 (Debian ...)". Raises StereoError."""
        words = process.run([*self.qemu, "--version"], env=self.closed_environment(), timeout=30).stdout
        return words.splitlines()[0].removeprefix("QEMU emulator version ").strip() if words else "unknown"


def _from_tree(tree: Path, guest: Architecture) -> Programs:
    tree = tree.absolute()
    interpreter, folder = _LOADERS[own_architecture()]
    libraries = tree / folder
    loader = (str(tree / interpreter), "--library-path", str(libraries))
    qemu, qemu_img = tree / f"usr/bin/qemu-system-{guest}", tree / "usr/bin/qemu-img"
    for needed in (Path(loader[0]), qemu, qemu_img):
        if not needed.exists():
            raise StereoError(
                "not in the tools tree", where=str(needed), hint="remove the tree; the next build makes it anew"
            )
    # Debian keeps SeaBIOS beside QEMU's data, in a folder that its QEMU knows by an absolute path.
    data = [word for name in ("qemu", "seabios") for word in ("-L", str(tree / "usr/share" / name))]
    return Programs(
        qemu=(*loader, str(qemu), *data),
        qemu_img=(*loader, str(qemu_img)),
        firmware=_firmware(tree, guest),
        origin=f"the tools tree {tree}",
        arch=guest,
        environment={"QEMU_MODULE_DIR": str(libraries / "qemu")},
        tree=tree,
        passt=_helper("passt", tree, loader),
        virtiofsd=_helper("virtiofsd", tree, loader),
        visible=(str(tree / "usr"),),
    )


def _from_host(guest: Architecture) -> Programs:
    name = f"qemu-system-{guest}"
    qemu, qemu_img = shutil.which(name), shutil.which("qemu-img")
    if not qemu or not qemu_img:
        raise StereoError(f"no {'qemu-img' if qemu else name} on this machine", hint=_hint(guest))
    return Programs(
        qemu=(qemu,),
        qemu_img=(qemu_img,),
        firmware=_firmware(Path("/"), guest),
        origin="the host",
        arch=guest,
        seccomp=sys.platform == "linux",
        passt=_helper("passt", Path("/")),
        virtiofsd=_helper("virtiofsd", Path("/")),
        visible=(*host_folders(), *_beside(qemu)),
    )


def packages(guest: Architecture) -> str:
    """Debian's packages, in words, that run machines for guests of an architecture."""
    system, firmware = _PACKAGES[guest]
    return f"{system}, qemu-utils and {firmware}"


def _hint(guest: Architecture) -> str:
    if sys.platform == "darwin":
        return "install QEMU, for instance with `brew install qemu`"
    return f"install {packages(guest)}, or let a build make its tools tree"


def host_folders() -> tuple[str, ...]:
    """What programs of the host need to see of it."""
    return tuple(name for name in _HOST_FOLDERS if Path(name).exists())


def _beside(program: str) -> list[str]:
    """The installation that a program outside of /usr belongs to."""
    own = Path(program).resolve()
    return [] if own.is_relative_to("/usr") or own.is_relative_to("/nix") else [str(own.parent.parent)]


def _helper(name: str, root: Path, loader: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    for path in (root / place for place in _HELPERS[name]):
        if path.exists():
            return (*loader, str(path))
    return None


def _firmware(root: Path, guest: Architecture) -> Firmware | None:
    folders, pairs = _FIRMWARE[guest]
    for folder in folders:
        for code, variables in pairs:
            found = Firmware(root / folder / code, root / folder / variables)
            if found.code.is_file() and found.variables.is_file():
                return found
    return None
