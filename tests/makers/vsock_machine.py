"""A machine as on Apple's framework: no network card and no virtio port, vsock alone leads to it and out of it.

Started without the project's own backend, which has no vsock; what answers is the same image.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from makers.vsock_device import GUEST, serve
from stereo.vm.boot import BootFiles
from stereo.vm.child import Child
from stereo.vm.control import Control, GuestError
from stereo.vm.machine import Channel
from stereo.vm.programs import Programs
from stereo.vm.qemu_command import closed_arguments
from stereos_guest.protocol import MAX_LINE

MEMORY = "1024M"
_RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class VsockMachine:
    """A running one. `control` is the socket that leads to its port 1024; `console` what it wrote to its own."""

    control: Path
    console: Path
    device: asyncio.Task[None]

    async def greeted(self, seconds: float) -> Control:
        """A new conversation with its daemon, as soon as that answers."""
        async with asyncio.timeout(seconds):
            while True:
                with suppress(OSError, GuestError):
                    control = Control(await channel_to(self.control))
                    try:
                        await control.hello()
                        return control
                    except GuestError:
                        await control.close()
                await asyncio.sleep(_RETRY_SECONDS)


async def channel_to(path: Path) -> Channel:
    """A connection to a unix socket as a control channel."""
    return Channel(*await asyncio.open_unix_connection(path, limit=2 * MAX_LINE))


@asynccontextmanager
async def vsock_machine(
    dist: Path,
    programs: Programs,
    folder: Path,
    *,
    connect: Mapping[Path, tuple[int, int]] | None = None,
    listen: Mapping[int, Path] | None = None,
) -> AsyncIterator[VsockMachine]:
    """Boot the kernel of a dist for x86-64; `connect` and `listen` are those of `makers.vsock_device.serve`."""
    files = BootFiles.in_folder(dist)
    control, console = folder / "control", folder / "console"
    ours, theirs = socket.socketpair()
    argv = [
        *programs.qemu,
        *closed_arguments(seccomp=False),
        *("-machine", "q35,smm=off,memory-backend=memory", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", "2", "-m", MEMORY, "-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on"),
        *("-no-reboot", "-kernel", str(files.kernel), "-initrd", str(files.initrd)),
        *("-append", files.cmdline.read_text()),
        *("-drive", f"file={files.raw},format=raw,if=virtio,snapshot=on"),
        *("-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"),
        *("-object", "rng-builtin,id=entropy", "-device", "virtio-rng-pci,rng=entropy"),
        *("-chardev", f"socket,id=vsock,fd={theirs.fileno()}", "-device", "vhost-user-vsock-pci,chardev=vsock"),
    ]
    env = {**programs.closed_environment(), "TMPDIR": str(folder)}
    with ours, theirs:
        qemu = await Child.start("QEMU", argv, env=env, cwd=folder, descriptors=[theirs.fileno()])
        theirs.close()
        doors = {control: (1024, 2), **(connect or {})}
        device = asyncio.create_task(serve(ours, connect=doors, listen=listen, guest_cid=GUEST))
        try:
            yield VsockMachine(control, console, device)
        except BaseException as error:
            told = console.read_text(errors="replace")[-1500:] if console.exists() else ""
            error.add_note(f"QEMU: {qemu.status} {qemu.complaints()}\ndevice: {device}\nconsole:\n{told}")
            raise
        finally:
            await qemu.kill()
            await asyncio.wait([device], timeout=5)
            device.cancel()
