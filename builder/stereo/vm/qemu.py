"""The QEMU backend: a child process per machine, steered by QMP, leaving nothing behind.

The child dies with us even if we are killed (PR_SET_PDEATHSIG), and talks to us through socket pairs that it inherits:
no socket files, so no path limits, no races and nobody else who could connect.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from stereo import process
from stereo.artifacts.qcow2 import Qcow2
from stereo.artifacts.region import OpenFile
from stereo.errors import StereoError
from stereo.vm.machine import Channel, Machine, MachineSpec, Transport
from stereo.vm.programs import Programs
from stereo.vm.qemu_command import Wiring, command_arguments
from stereo.vm.qmp import Qmp
from stereo.vm.scratch import scratch_folder
from stereos_guest.protocol import MAX_LINE

_QMP_SECONDS = 30.0
_QUIT_SECONDS = 3.0
_COMPLAINT_BYTES = 2000


class QemuMachine:
    """A running QEMU. See `machine.Machine`."""

    def __init__(
        self, child: asyncio.subprocess.Process, qmp: Qmp, console: Channel, control: Channel, began: float
    ) -> None:
        self.console = console
        self.control = control
        self.began = began
        self.gate: Mapping[tuple[Transport, int], socket.socket] = {}
        self._child = child
        self._qmp = qmp
        self._complaints = b""
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self._child.stderr
        while chunk := await self._child.stderr.read(4096):
            self._complaints = (self._complaints + chunk)[-_COMPLAINT_BYTES:]

    def complaints(self) -> str:
        """What QEMU wrote to its standard error, the last of it."""
        return self._complaints.decode(errors="replace").strip()

    async def wait(self) -> None:
        """See `Machine.wait`."""
        status = await self._child.wait()
        await self._heard_all()
        if status:
            ended = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
            raise StereoError(f"QEMU {ended}: {self.complaints() or 'no message'}")

    async def stop(self, grace: float) -> None:
        """See `Machine.stop`."""
        if self._child.returncode is None and grace > 0 and await self._qmp.request("system_powerdown"):
            await self._ended_within(grace)
        if self._child.returncode is None and await self._qmp.request("quit"):
            await self._ended_within(_QUIT_SECONDS)
        await self.kill()

    async def kill(self) -> None:
        """Switch off at once. Returns when the process is gone."""
        if self._child.returncode is None:
            _kill_group(self._child.pid)
        await self._child.wait()
        await self._heard_all()
        await self._qmp.close()
        for channel in (self.console, self.control):
            channel.writer.close()

    async def _heard_all(self) -> None:
        with suppress(TimeoutError):  # whoever else holds the pipe open, we do not wait for long
            await asyncio.wait_for(asyncio.shield(self._listening), 1)

    async def _ended_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._child.wait(), seconds)


class QemuBackend:
    """Starts machines with the QEMU of `programs`; their throw-away files are below `scratch`."""

    def __init__(self, programs: Programs, scratch: Path) -> None:
        self._programs = programs
        self._scratch = scratch

    @asynccontextmanager
    async def start(self, spec: MachineSpec) -> AsyncIterator[Machine]:
        """See `machine.Backend`."""
        check_files(spec)
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(scratch_folder(self._scratch))
            machine = await self._launch(spec, folder, stack)
            try:
                yield machine
            finally:
                await machine.kill()

    async def _launch(self, spec: MachineSpec, folder: Path, stack: AsyncExitStack) -> QemuMachine:
        overlay = spec.disk.changes or folder / "overlay.qcow2"
        if not overlay.exists():
            self._make_overlay(spec, overlay)
        code = variables = None
        if spec.kernel is None:
            firmware = self._programs.need_firmware()
            code, variables = firmware.code, folder / "variables.fd"
            shutil.copyfile(firmware.variables, variables)
        ours, theirs = {}, {}
        for name in ("qmp", "console", "control"):
            near, far = socket.socketpair()
            ours[name] = near
            theirs[name] = stack.enter_context(far)
        wiring = Wiring(
            qmp=theirs["qmp"].fileno(),
            console=theirs["console"].fileno(),
            control=theirs["control"].fileno(),
            overlay=overlay,
            firmware_code=code,
            firmware_variables=variables,
        )
        arguments = command_arguments(spec, wiring, seccomp=self._programs.seccomp)
        began = time.monotonic()
        child = await asyncio.create_subprocess_exec(
            *self._programs.qemu,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=self._programs.closed_environment(),
            cwd=folder,
            pass_fds=[sock.fileno() for sock in theirs.values()],
            start_new_session=True,
            preexec_fn=process.die_with_parent,
            umask=0o077,
        )
        try:
            for sock in theirs.values():
                sock.close()
            console = Channel(*await asyncio.open_connection(sock=ours["console"]))
            control = Channel(*await asyncio.open_connection(sock=ours["control"], limit=2 * MAX_LINE))
            qmp = Qmp()
            machine = QemuMachine(child, qmp, console, control, began)
        except BaseException:
            _kill_group(child.pid)
            await child.wait()
            raise
        await self._greet(machine, qmp, ours["qmp"])
        return machine

    async def _greet(self, machine: QemuMachine, qmp: Qmp, sock: socket.socket) -> None:
        try:
            await qmp.connect(sock, _QMP_SECONDS)
        except BaseException as error:
            await machine.kill()
            if isinstance(error, StereoError):
                raise StereoError(f"QEMU did not start: {machine.complaints() or error}") from error
            raise

    def _make_overlay(self, spec: MachineSpec, overlay: Path) -> None:
        size = [str(spec.disk.size)] if spec.disk.size else []
        base = ["-b", str(spec.disk.path), "-F", spec.disk.format]
        process.run(
            [*self._programs.qemu_img, "create", "-q", "-f", "qcow2", *base, str(overlay), *size],
            env=self._programs.closed_environment(),
            umask=0o077,
            timeout=60,
        )


def check_files(spec: MachineSpec) -> None:
    """Refuse what is missing, and a qcow2 that would have QEMU open other files. Raises StereoError."""
    files = [spec.disk.path, *([spec.kernel.kernel, spec.kernel.initrd] if spec.kernel else [])]
    for path in files:
        if not path.is_file():
            raise StereoError("no such file", where=str(path))
    if spec.disk.format == "qcow2":
        with OpenFile(spec.disk.path) as opened:
            Qcow2(opened.region)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
