"""Whether a dist fits a hypervisor, form by form and row by row. Pure: facts and a hypervisor go in, rows come out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stereo.artifacts.gpt import SECTOR
from stereo.artifacts.kernel import Kernel
from stereo.artifacts.pe import REMOVABLE_PATH
from stereo.errors import shown
from stereo.hypervisors.facts import Facts, Fault, KernelFacts, Payload
from stereo.hypervisors.known import VIRTIO_CONSOLE, Hypervisor
from stereo.model.architecture import Architecture
from stereo.vm.boot import Form
from stereo.vm.vfkit_command import CONTROL_PORT

FILES = {Form.RAW: "stereos.img", Form.QCOW2: "stereos.qcow2", Form.KERNEL: "stereos.img"}
"""The disk that each form starts with."""

_CONSOLE_DRIVER = {"ttyS0": "8250", "ttyAMA0": "amba_pl011", VIRTIO_CONSOLE: "virtio_console"}
_NEEDED_EARLY = ("virtio_blk", "dm_verity", "erofs", "overlay")
_VSOCK = "vmw_vsock_virtio_transport"


class Verdict(StrEnum):
    """`LACKS`: it runs, but something that it could do elsewhere it cannot do there. `NO`: it does not run."""

    OK = "ok"
    LACKS = "lacks"
    NO = "no"


@dataclass(frozen=True)
class Row:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    message: str


@dataclass(frozen=True)
class Judged:
    """A form under a hypervisor. `console` is the one to use, None if there is none."""

    form: Form
    rows: tuple[Row, ...]
    console: str | None
    add_console: bool
    """Whether the kernel's command line has to be told of it."""

    @property
    def fits(self) -> bool:
        return all(row.verdict is not Verdict.NO for row in self.rows)


def judge(hypervisor: Hypervisor, facts: Facts, form: Form, wanted: Architecture | None = None) -> Judged:
    """Look at everything. `wanted` is the architecture that the caller means to run, if that was said."""
    return _Judge(hypervisor, facts, form, wanted or facts.arch).judged()


def consoles_of(cmdline: str) -> list[str]:
    """The devices that `console=` names, in order."""
    words = [word.removeprefix("console=") for word in cmdline.split() if word.startswith("console=")]
    return [word.partition(",")[0] for word in words]


class _Judge:
    def __init__(self, hypervisor: Hypervisor, facts: Facts, form: Form, wanted: Architecture) -> None:
        self._hypervisor = hypervisor
        self._facts = facts
        self._form = form
        self._wanted = wanted
        self._direct = form is Form.KERNEL
        self._payload: Payload = facts.files if self._direct else facts.unified

    def judged(self) -> Judged:
        if self._wanted not in self._hypervisor.architectures:
            made = ", ".join(self._hypervisor.architectures)
            message = f"{self._wanted}, and {self._hypervisor.name} runs {made}"
            return Judged(self._form, (Row("architecture", Verdict.NO, message),), None, False)
        console, add = self._console()
        rows = [
            Row("architecture", *self._architecture()),
            Row("disk", *self._disk()),
            Row("loader", *self._loader()),
            Row("kernel", *self._kernel()),
            Row("initrd", *self._initrd()),
            Row("command line", *self._cmdline(console if add else None)),
            Row("console", *self._console_row(console, add)),
            Row("devices", *self._devices()),
            Row("control", *self._control()),
            Row("network", *self._network()),
            Row("shares", *self._shares()),
            Row("credentials", *self._credentials()),
            Row("power off", *self._power_off()),
        ]
        return Judged(self._form, tuple(rows), console, add)

    def _architecture(self) -> tuple[Verdict, str]:
        facts, kernel = self._facts, self._payload.kernel
        said = {"its manifest says": facts.arch}
        if isinstance(kernel, KernelFacts) and kernel.arch:
            said["its kernel is for"] = kernel.arch
        if not self._direct and not isinstance(facts.loader, Fault):
            said["its EFI program is for"] = facts.loader
        for who, arch in said.items():
            if arch is not self._wanted:
                return Verdict.NO, f"{self._wanted} is wanted, and {who} {arch}"
        return Verdict.OK, self._wanted.value

    def _disk(self) -> tuple[Verdict, str]:
        disk = self._facts.qcow2 if self._form is Form.QCOW2 else self._facts.raw
        if isinstance(disk, Fault):
            return Verdict.NO, disk
        if disk.format not in self._hypervisor.disks:
            return Verdict.NO, f"takes no {disk.format} disk, only {', '.join(self._hypervisor.disks)}"
        return Verdict.OK, f"{disk.format}, {disk.size} bytes in whole sectors of {SECTOR}, GPT of {disk.partitions}"

    def _loader(self) -> tuple[Verdict, str]:
        if self._direct:
            return Verdict.OK, "loads the kernel itself"
        if not self._hypervisor.firmware:
            return Verdict.NO, "has no UEFI: a kernel must be given"
        if isinstance(self._facts.loader, Fault):
            return Verdict.NO, self._facts.loader
        path = REMOVABLE_PATH[self._facts.arch.system]
        return Verdict.OK, f"UEFI ({self._hypervisor.firmware}) finds {path}"

    def _kernel(self) -> tuple[Verdict, str]:
        kernel = self._payload.kernel
        if isinstance(kernel, Fault):
            return Verdict.NO, kernel
        if not self._direct:
            return Verdict.OK, f"{kernel.form}, which is an EFI program, too"
        takes = self._hypervisor.kernels[self._wanted]
        if kernel.form is Kernel.ELF and kernel.form in takes and self._hypervisor.pvh and kernel.elf is None:
            return Verdict.NO, f"{kernel.form} without the PVH entry by which {self._hypervisor.name} enters one"
        if kernel.form in takes:
            return Verdict.OK, kernel.form.value
        if kernel.form is not Kernel.BZIMAGE or Kernel.ELF not in takes:
            return Verdict.NO, f"takes {' or '.join(takes)}, and bzImage is {kernel.form}"
        if isinstance(kernel.elf, Fault):
            return Verdict.NO, kernel.elf
        entry = "without a PVH entry" if kernel.elf is None else f"with a PVH entry at {kernel.elf:#x}"
        return Verdict.OK, f"ELF, which `stereo vmlinux` gets out of the {kernel.form}, {entry}"

    def _initrd(self) -> tuple[Verdict, str]:
        drivers = self._payload.drivers
        if isinstance(drivers, Fault):
            return Verdict.NO, drivers
        return Verdict.OK, f"with {len(drivers)} modules"

    def _cmdline(self, added: str | None) -> tuple[Verdict, str]:
        cmdline, kernel = self._payload.cmdline, self._payload.kernel
        if isinstance(cmdline, Fault):
            return Verdict.NO, cmdline
        hashes = [word for word in cmdline.split() if word.startswith("roothash=")]
        if hashes != [f"roothash={self._facts.root_hash}"]:
            said = shown(" ".join(hashes), 100) if hashes else "no roothash="
            return Verdict.NO, f"says {said}, and the manifest {self._facts.root_hash}"
        length = len(cmdline) + (len(f" console={added}") if added else 0)
        if isinstance(kernel, KernelFacts) and length > kernel.limit:
            return Verdict.NO, f"is {length} characters long, and the kernel takes {kernel.limit}"
        return Verdict.OK, f"{length} characters, with the root hash"

    def _console(self) -> tuple[str | None, bool]:
        """The last one that is named to the kernel and that the machine has, else its first; and whether to name it."""
        named = [] if isinstance(self._payload.cmdline, Fault) else consoles_of(self._payload.cmdline)
        has = [name for name in self._hypervisor.consoles[self._wanted] if self._driver(_CONSOLE_DRIVER[name])]
        both = [name for name in named if name in has]
        if both:
            return both[-1], False
        return (has[0], True) if self._direct and has else (None, False)

    def _console_row(self, console: str | None, add: bool) -> tuple[Verdict, str]:
        if console is None:
            has = ", ".join(self._hypervisor.consoles[self._wanted])
            return (
                Verdict.LACKS,
                self._unknown() or f"it has {has}, which the command line does not name: the boot is not seen",
            )
        if add:
            return Verdict.OK, f"{console}, when the command line is given console={console} too"
        return Verdict.OK, console

    def _devices(self) -> tuple[Verdict, str]:
        early = [name for name in (self._hypervisor.bus, *_NEEDED_EARLY) if not self._driver(name, early=True)]
        if early:
            if unknown := self._unknown():
                return Verdict.NO, unknown
            return Verdict.NO, f"neither kernel nor initrd has {', '.join(early)}"
        bus = "PCI" if self._hypervisor.bus == "virtio_pci" else "MMIO"
        return Verdict.OK, f"virtio by {bus}, {'built in' if self._built_in(self._hypervisor.bus) else 'in the initrd'}"

    def _control(self) -> tuple[Verdict, str]:
        if self._hypervisor.port:
            if self._driver("virtio_console"):
                return Verdict.OK, "a virtio-serial port"
            return Verdict.LACKS, self._unknown() or "no virtio_console, so no way to speak to stereosd"
        if self._driver(_VSOCK):
            return Verdict.OK, f"vsock {CONTROL_PORT}, by a socket of the host; there are no virtio-serial ports"
        return (
            Verdict.LACKS,
            self._unknown() or f"no {_VSOCK}, and no virtio-serial ports, so no way to speak to stereosd",
        )

    def _network(self) -> tuple[Verdict, str]:
        if self._driver("virtio_net"):
            return Verdict.OK, "virtio_net"
        return Verdict.LACKS, self._unknown() or "no virtio_net, so no network"

    def _shares(self) -> tuple[Verdict, str]:
        if not self._hypervisor.shares:
            return Verdict.LACKS, "has no virtiofs and no 9p, so no shares"
        if self._driver("virtiofs"):
            return Verdict.OK, "virtiofs"
        return Verdict.LACKS, self._unknown() or "no virtiofs in the image, so no shares"

    def _credentials(self) -> tuple[Verdict, str]:
        if self._direct:
            return Verdict.OK, "behind the initrd, as a second archive"
        if self._hypervisor.smbios:
            return Verdict.OK, "by SMBIOS"
        return Verdict.LACKS, "has no SMBIOS, so none with UEFI"

    def _power_off(self) -> tuple[Verdict, str]:
        if self._hypervisor.power_off[self._wanted]:
            return Verdict.OK, "ends the machine"
        return Verdict.LACKS, "halts, and leaves the machine to be ended; a reboot with reboot=k ends it"

    def _built_in(self, name: str) -> bool:
        return not isinstance(self._facts.builtin, Fault) and name in self._facts.builtin

    def _unknown(self) -> str:
        """Why it cannot be told which drivers there are; empty if it can."""
        places = (self._facts.builtin, self._payload.drivers, self._facts.modules)
        fault = next((place for place in places if isinstance(place, Fault)), None)
        return f"cannot be told: {fault}" if fault else ""

    def _driver(self, name: str, *, early: bool = False) -> bool:
        """Whether there is one: in the kernel or its initrd, or, unless it is needed `early`, in the root."""
        places = [self._facts.builtin, self._payload.drivers, *([] if early else [self._facts.modules])]
        return any(not isinstance(place, Fault) and name in place for place in places)
