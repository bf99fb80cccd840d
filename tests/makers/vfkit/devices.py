"""QEMU with what Apple's framework gives a Linux guest on ARM: virtio devices, and none that was not asked for.

No SMBIOS and no fw_cfg: with the Linux loader a guest finds neither, and nothing tells it of a boot but its command
line. The machine has a PL011 as each `virt` has one; it leads nowhere, and what is read of the guest comes from hvc0.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from makers.vfkit.arguments import Options
from stereo.vm.programs import Programs
from stereo.vm.qemu_command import closed_arguments

_NETWORK = "192.168.64.0/24"  # as the framework's, and not as QEMU's own


def qemu_arguments(
    options: Options, programs: Programs, *, qmp: int, vsock: int | None, shares: list[int]
) -> list[str]:
    """The whole command. `qmp`, `vsock` and each of `shares` are descriptors of sockets."""
    memory = f"{options.memory}M"
    words = [
        *(*programs.qemu, *closed_arguments(seccomp=False), "-serial", "none"),
        *("-machine", "virt,memory-backend=memory" + _flash(options)),
        *("-accel", "tcg,thread=multi", "-cpu", "max,pauth-impdef=on"),
        *("-smp", str(options.cpus), "-m", memory),
        *("-object", f"memory-backend-memfd,id=memory,size={memory},share=on"),
        "-no-reboot",
        *("-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"),
        *_loader(options, programs),
    ]
    for number, disk in enumerate(options.disks):
        words += ["-drive", f"if=none,id=disk{number},format=raw,discard=unmap,file={disk}"]
        words += ["-device", f"virtio-blk-pci,drive=disk{number}"]
    if options.rng:
        words += ["-object", "rng-builtin,id=entropy", "-device", "virtio-rng-pci,rng=entropy"]
    for number, console in enumerate(options.consoles):
        words += ["-chardev", f"file,id=console{number},path={console}"]
        words += ["-device", f"virtio-serial-pci,id=ports{number}"]
        words += ["-device", f"virtconsole,bus=ports{number}.0,chardev=console{number}"]
    for number, mac in enumerate(options.cards):
        words += ["-netdev", f"user,id=net{number},net={_NETWORK}"]
        words += ["-device", f"virtio-net-pci,netdev=net{number},romfile=" + (f",mac={mac}" if mac else "")]
    if vsock is not None:
        words += ["-chardev", f"socket,id=vsock,fd={vsock}", "-device", "vhost-user-vsock-pci,chardev=vsock"]
    for (tag, _), number in zip(options.shares, shares, strict=True):
        words += ["-chardev", f"socket,id=fs{number},fd={number}"]
        words += ["-device", f"vhost-user-fs-pci,chardev=fs{number},tag={tag}"]
    return words


def _flash(options: Options) -> str:
    return ",pflash0=code,pflash1=variables" if options.loader == "efi" else ""


def _loader(options: Options, programs: Programs) -> list[str]:
    if options.loader == "linux":
        return ["-kernel", options.kernel, "-initrd", options.initrd, "-append", options.cmdline]
    firmware = programs.need_firmware()
    variables = Path(options.variables)
    if not variables.exists():
        shutil.copyfile(firmware.variables, variables)
    return [
        *("-blockdev", f"node-name=code,driver=raw,read-only=on,file.driver=file,file.filename={firmware.code}"),
        *("-blockdev", f"node-name=variables,driver=raw,file.driver=file,file.filename={variables}"),
    ]
