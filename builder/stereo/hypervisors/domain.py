"""A dist as a domain of libvirt, in XML. Follows libvirt's formatdomain; a test holds it against the schema of that."""

from __future__ import annotations

from xml.etree import ElementTree

from stereo.hypervisors.known import MACHINE
from stereo.model.architecture import Architecture
from stereo.vm.machine import Disk, KernelBoot
from stereos_guest.protocol import PORT_NAME

Element = ElementTree.Element


def domain_xml(name: str, arch: Architecture, disk: Disk, kernel: KernelBoot | None, *, cpus: int, memory: int) -> str:
    """A domain that boots `disk`, which it writes to, by UEFI or by `kernel`. `memory` is MiB; paths are absolute."""
    domain = Element("domain", type="kvm")
    _add(domain, "name", name)
    _add(domain, "memory", str(memory), unit="MiB")
    _add(domain, "vcpu", str(cpus))
    _boot(domain, arch, kernel)
    if kernel is None or arch is Architecture.X86_64:
        # On aarch64 it comes with UEFI alone, and libvirt refuses it without; the kernel gets a device tree then.
        _add(_add(domain, "features"), "acpi")
    _add(domain, "cpu", mode="host-passthrough")
    devices = _add(domain, "devices")
    row = _add(devices, "disk", type="file", device="disk")
    _add(row, "driver", name="qemu", type=disk.format)
    _add(row, "source", file=str(disk.path))
    _add(row, "target", dev="vda", bus="virtio")
    _add(_add(devices, "interface", type="user"), "model", type="virtio")
    _add(devices, "console", type="pty")
    _add(_add(devices, "channel", type="unix"), "target", type="virtio", name=PORT_NAME)
    _add(_add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    ElementTree.indent(domain)
    return ElementTree.tostring(domain, encoding="unicode")


def _boot(domain: Element, arch: Architecture, kernel: KernelBoot | None) -> None:
    os = _add(domain, "os", **({} if kernel else {"firmware": "efi"}))
    _add(os, "type", "hvm", arch=str(arch), machine=MACHINE[arch])
    if kernel is None:
        # The kernel image is not signed for it: whoever has its root hash knows what boots.
        _add(_add(os, "firmware"), "feature", enabled="no", name="secure-boot")
        return
    _add(os, "kernel", str(kernel.kernel))
    _add(os, "initrd", str(kernel.initrd))
    _add(os, "cmdline", kernel.cmdline)


def _add(parent: Element, tag: str, text: str | None = None, **attributes: str) -> Element:
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = text
    return child
