"""The shortest commands that start a dist under each hypervisor. Pure: facts and a judgement go in, words come out.

None of them writes to the dist: QEMU throws away what a machine writes, the others get a copy of the disk. (A disk that
is `transient` to libvirt is no way: what is written goes to a file beside it, so into the dist.)
Where a host keeps its firmware is as in Debian's packages ovmf and qemu-efi-aarch64. Sources: see `known`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stereo.artifacts.kernel import Kernel
from stereo.errors import StereoError, shown
from stereo.hypervisors.domain import domain_xml
from stereo.hypervisors.facts import Facts, Fault, KernelFacts
from stereo.hypervisors.judge import FILES, Judged
from stereo.hypervisors.known import MACHINE, VIRTIO_CONSOLE
from stereo.model.architecture import Architecture
from stereo.model.manifest import VMLINUX
from stereo.vm import vfkit_command
from stereo.vm.boot import Form
from stereo.vm.machine import Accelerator, Disk, KernelBoot, MachineSpec, Nat
from stereos_guest.protocol import PORT_NAME

CPUS, MEMORY = 2, 1024
"""Of every machine; memory in MiB."""

GUEST_CID = 3
CONTROL = "control.sock"
"""What a command makes where it is run: the control channel. Beside it are copies of disks, which are written to."""

_FIRMWARE = {
    Architecture.X86_64: "/usr/share/ovmf/OVMF.fd",
    Architecture.AARCH64: "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
}
_CLOUD_FIRMWARE = {Architecture.X86_64: "CLOUDHV.fd", Architecture.AARCH64: "CLOUDHV_EFI.fd"}


@dataclass(frozen=True)
class Run:
    """A program to run."""

    argv: tuple[str, ...]

    def __str__(self) -> str:
        """For a shell, an option a line when it is long."""
        words = shlex.join(self.argv)
        if len(words) <= 100:
            return words
        lines: list[list[str]] = [[]]
        for word in self.argv:
            if word.startswith("-"):
                lines.append([])
            lines[-1].append(word)
        return " \\\n  ".join(shlex.join(line) for line in lines if line)


@dataclass(frozen=True)
class Write:
    """A file to write."""

    name: str
    content: str

    def __str__(self) -> str:
        return f"cat >{shlex.quote(self.name)} <<'END'\n{self.content}\nEND"


Step = Run | Write


def steps(hypervisor: str, facts: Facts, judged: Judged, place: Path) -> tuple[Step, ...]:
    """How to start a form that fits, run in the folder `place`. Raises StereoError for what no command can say."""
    made = _Start(facts, judged, place)
    ways: dict[str, Callable[[], Iterator[Step]]] = {
        "applevirt": made.applevirt,
        "qemu": made.qemu,
        "libvirt": made.libvirt,
        "cloud-hypervisor": made.cloud_hypervisor,
        "firecracker": made.firecracker,
    }
    return tuple(ways[hypervisor]())


class _Start:
    def __init__(self, facts: Facts, judged: Judged, place: Path) -> None:
        self._facts = facts
        self._judged = judged
        self._place = place
        self._arch = facts.arch
        self._direct = judged.form is Form.KERNEL
        self._format = "qcow2" if judged.form is Form.QCOW2 else "raw"
        self._source = self._file(FILES[judged.form])
        self._copied = f"disk.{Path(FILES[judged.form]).suffix.removeprefix('.')}"

    @property
    def _cmdline(self) -> str:
        words = self._facts.files.cmdline
        assert not isinstance(words, Fault)
        return f"{words} console={self._judged.console}" if self._judged.add_console else words

    @property
    def _packed(self) -> bool:
        kernel = self._facts.files.kernel
        return isinstance(kernel, KernelFacts) and kernel.form is Kernel.BZIMAGE

    def _file(self, name: str) -> str:
        """A file of the dist, as a word that nobody takes for anything else."""
        return _word(self._facts.folder / name)

    def qemu(self) -> Iterator[Step]:
        if self._direct:
            boot = ["-kernel", self._file("bzImage"), "-initrd", self._file("initrd"), "-append", self._cmdline]
        else:
            boot = ["-bios", _FIRMWARE[self._arch]]
        disk = self._source.replace(",", ",,")  # which is how QEMU's own syntax has a comma
        yield Run(
            (
                f"qemu-system-{self._arch}",
                *("-machine", f"{MACHINE[self._arch]},accel=kvm:tcg", "-cpu", "max"),
                *("-smp", f"{CPUS}", "-m", f"{MEMORY}", "-nographic"),
                *boot,
                *("-drive", f"if=virtio,format={self._format},snapshot=on,file={disk}"),
                *("-nic", "user,model=virtio-net-pci"),
                *("-device", "virtio-rng-pci"),
                *("-device", "virtio-serial-pci"),
                *("-chardev", f"socket,id=control,path={CONTROL},server=on,wait=off"),
                *("-device", f"virtserialport,chardev=control,name={PORT_NAME}"),
            )
        )

    def libvirt(self) -> Iterator[Step]:
        name = f"{self._facts.name}.xml"
        kernel = None
        if self._direct:
            kernel = KernelBoot(self._absolute("bzImage"), self._absolute("initrd"), self._cmdline)
        disk = Disk(self._place / self._copied, "qcow2" if self._format == "qcow2" else "raw")
        _word(disk.path)
        yield self._copy()
        yield Write(name, domain_xml(self._facts.name, self._arch, disk, kernel, cpus=CPUS, memory=MEMORY))
        yield Run(("virsh", "create", name, "--console"))

    def applevirt(self) -> Iterator[Step]:
        # What `stereo up` starts, too: there is one place that knows vfkit's words.
        disk, kernel = self._place / self._copied, None
        if self._direct:
            kernel = KernelBoot(self._absolute("bzImage"), self._absolute("initrd"), self._cmdline)
        spec = MachineSpec(Disk(disk, "raw"), self._arch, kernel, Accelerator.HVF, CPUS, MEMORY, Nat())
        wiring = vfkit_command.Wiring(
            disk=disk,
            console=self._place / "serial.log",
            rest=self._place / "rest.sock",
            control=self._place / CONTROL,
            variables=None if self._direct else self._place / "efi-variables",
        )
        yield Run(("cp", "-c", self._source, _word(disk)))  # clonefile(2)
        yield Run(("vfkit", *vfkit_command.command_arguments(spec, wiring)))

    def cloud_hypervisor(self) -> Iterator[Step]:
        yield self._copy()
        if self._direct:
            boot = ["--kernel", self._file("bzImage"), "--initramfs", self._file("initrd"), "--cmdline", self._cmdline]
        else:
            boot = ["--firmware", _CLOUD_FIRMWARE[self._arch]]
        serial = self._judged.console != VIRTIO_CONSOLE
        yield Run(
            (
                "cloud-hypervisor",
                *("--cpus", f"boot={CPUS}", "--memory", f"size={MEMORY}M"),
                *boot,
                *("--disk", f"path={self._copied}"),
                *("--serial", "tty" if serial else "null", "--console", "off" if serial else "tty"),
                *("--vsock", f"cid={GUEST_CID},socket={CONTROL}"),
            )
        )

    def firecracker(self) -> Iterator[Step]:
        if self._packed:
            yield Run(("stereo", "vmlinux", _word(self._facts.folder)))
        yield self._copy()
        yield Write("vm.json", json.dumps(self.firecracker_config(), indent=2))
        yield Run(("firecracker", "--no-api", "--config-file", "vm.json"))

    def firecracker_config(self) -> dict[str, object]:
        """In the terms of Firecracker's API: `FullVmConfiguration` of its swagger."""
        kernel = VMLINUX if self._packed else "bzImage"
        return {
            "boot-source": {
                "kernel_image_path": self._file(kernel),
                "initrd_path": self._file("initrd"),
                "boot_args": self._cmdline,
            },
            "drives": [
                # Not the root device: root= would be said to a kernel whose initrd finds the root by its hash.
                {"drive_id": "disk", "path_on_host": self._copied, "is_root_device": False, "is_read_only": False}
            ],
            "machine-config": {"vcpu_count": CPUS, "mem_size_mib": MEMORY},
            "vsock": {"guest_cid": GUEST_CID, "uds_path": CONTROL},
            "entropy": {},
        }

    def _copy(self) -> Run:
        return Run(("cp", "--reflink=auto", "--sparse=always", self._source, self._copied))

    def _absolute(self, name: str) -> Path:
        path = (self._facts.folder / name).absolute()
        _word(path)
        return path


def _word(path: Path) -> str:
    """A path on a command line or in a configuration. Raises StereoError for one that neither shows as it is."""
    text = str(path)
    if not text.isprintable():
        raise StereoError("is no path that can be shown", where=shown(text))
    # "-x" is an option to all of them, and "nbd:x" a server to QEMU.
    return f"./{text}" if text.startswith("-") or ":" in text.partition("/")[0] else text
