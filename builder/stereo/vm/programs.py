"""Where QEMU and what serves its machines come from: an unpacked tools tree, or else the host.

A program of the tools tree is started by that tree's own dynamic loader, so that it runs on a host whose C library is
older; see ld.so(8), --library-path. QEMU's data folders have to be named, since it was built to look for them in /usr.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stereo import process
from stereo.errors import StereoError

_HINT = "install qemu-system-x86, qemu-utils and ovmf, or let a build make its tools tree"
_HELPERS_HINT = "install passt and virtiofsd, or let a build make its tools tree"
_HELPERS = {"passt": ("usr/bin/passt",), "virtiofsd": ("usr/libexec/virtiofsd", "usr/lib/qemu/virtiofsd")}
# What a program of the host needs to see: its libraries and data, wherever that system keeps them.
_HOST_FOLDERS = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives", "/nix/store")
_FIRMWARE_FOLDERS = ("usr/share/OVMF", "usr/share/ovmf", "usr/share/edk2/x64", "opt/homebrew/share/qemu")
_FIRMWARE_PAIRS = (
    ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
    ("OVMF_CODE.fd", "OVMF_VARS.fd"),
    ("OVMF_CODE.4m.fd", "OVMF_VARS.4m.fd"),
    ("edk2-x86_64-code.fd", "edk2-i386-vars.fd"),
)


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
    environment: Mapping[str, str] = field(default_factory=dict)
    seccomp: bool = True  # whether QEMU was built with `-sandbox`
    tree: Path | None = None  # the tools tree that they are from, if they are
    passt: tuple[str, ...] | None = None
    virtiofsd: tuple[str, ...] | None = None
    visible: tuple[str, ...] = ()  # the folders that they need to see

    @classmethod
    def find(cls, tools_tree: Path | None = None) -> Programs:
        """From `tools_tree` if given, else from PATH. Raises StereoError if there is no QEMU."""
        return _from_tree(tools_tree) if tools_tree else _from_host()

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
            raise StereoError("no UEFI firmware for machines", where=self.origin, hint=_HINT)
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


def _from_tree(tree: Path) -> Programs:
    tree = tree.absolute()
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    loader = (str(tree / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", str(libraries))
    qemu, qemu_img = tree / "usr/bin/qemu-system-x86_64", tree / "usr/bin/qemu-img"
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
        firmware=_firmware(tree),
        origin=f"the tools tree {tree}",
        environment={"QEMU_MODULE_DIR": str(libraries / "qemu")},
        tree=tree,
        passt=_helper("passt", tree, loader),
        virtiofsd=_helper("virtiofsd", tree, loader),
        visible=(str(tree / "usr"),),
    )


def _from_host() -> Programs:
    qemu, qemu_img = shutil.which("qemu-system-x86_64"), shutil.which("qemu-img")
    if not qemu or not qemu_img:
        missing = "qemu-system-x86_64" if not qemu else "qemu-img"
        raise StereoError(f"no {missing} on this machine", hint=_HINT)
    return Programs(
        qemu=(qemu,),
        qemu_img=(qemu_img,),
        firmware=_firmware(Path("/")),
        origin="the host",
        seccomp=sys.platform == "linux",
        passt=_helper("passt", Path("/")),
        virtiofsd=_helper("virtiofsd", Path("/")),
        visible=(*host_folders(), *_beside(qemu)),
    )


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


def _firmware(root: Path) -> Firmware | None:
    for folder in _FIRMWARE_FOLDERS:
        for code, variables in _FIRMWARE_PAIRS:
            found = Firmware(root / folder / code, root / folder / variables)
            if found.code.is_file() and found.variables.is_file():
                return found
    return None
