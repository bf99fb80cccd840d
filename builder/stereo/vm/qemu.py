"""The QEMU backend: a child process per machine, steered by QMP, leaving nothing behind.

The child dies with us even if we are killed (PR_SET_PDEATHSIG), and talks to us through socket pairs that it inherits:
no socket files, so no path limits, no races and nobody else who could connect. What it cannot reach, see `enclosure`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from stereo import process
from stereo.artifacts.qcow2 import Qcow2
from stereo.artifacts.region import OpenFile
from stereo.errors import StereoError
from stereo.scratch import scratch_folder
from stereo.vm import shares
from stereo.vm.child import Child
from stereo.vm.enclosure import receive_gate, refusal
from stereo.vm.machine import Channel, Machine, MachineSpec, Transport
from stereo.vm.programs import Programs
from stereo.vm.qmp import Qmp
from stereo.vm.wires import Wires
from stereos_guest.protocol import MAX_LINE

_QMP_SECONDS = 30.0
_QUIT_SECONDS = 3.0
_END_SECONDS = 2.0  # in which QEMU's end follows that of what serves it, if both have one cause


class QemuMachine:
    """A running QEMU and what serves it. See `machine.Machine`."""

    def __init__(self, qemu: Child, helpers: Sequence[Child], began: float) -> None:
        self.began = began
        self.gate: Mapping[tuple[Transport, int], socket.socket] = {}
        self.console: Channel
        self.control: Channel
        self._qemu = qemu
        self._helpers = helpers
        self._qmp = Qmp()

    async def connect(self, wires: Wires) -> None:
        """Take our ends of the wires, and hear QEMU's greeting. Raises StereoError."""
        self.console = Channel(*await asyncio.open_connection(sock=wires.near("console")))
        self.control = Channel(*await asyncio.open_connection(sock=wires.near("control"), limit=2 * MAX_LINE))
        try:
            if wires.gate_ports:
                with wires.near("gate") as channel:
                    self.gate = await receive_gate(channel, wires.gate_ports)
            await self._qmp.connect(wires.near("qmp"), _QMP_SECONDS)
        except StereoError as error:
            failed = [helper for helper in self._helpers if helper.status]
            await self.kill()
            if failed:
                raise failed[0].failure() from error
            if reason := refusal(self._qemu):
                raise reason from error
            raise StereoError(f"QEMU did not start: {self._qemu.complaints() or error}") from error

    async def wait(self) -> None:
        """See `Machine.wait`."""
        ends = [asyncio.create_task(child.wait()) for child in (self._qemu, *self._helpers)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(ends[:1], timeout=_END_SECONDS)
        finally:
            for each in ends:
                each.cancel()
        if self._qemu.status is None:
            raise next(helper for helper in self._helpers if helper.status is not None).failure()
        if self._qemu.status:
            raise self._qemu.failure()

    async def stop(self, grace: float) -> None:
        """See `Machine.stop`."""
        if self._qemu.status is None and grace > 0 and await self._qmp.request("system_powerdown"):
            await self._qemu.ended_within(grace)
        if self._qemu.status is None and await self._qmp.request("quit"):
            await self._qemu.ended_within(_QUIT_SECONDS)
        await self.kill()

    async def kill(self) -> None:
        """Switch off at once. Returns when every process is gone."""
        for child in (self._qemu, *self._helpers):
            await child.kill()
        await self._qmp.close()
        for sock in self.gate.values():
            sock.close()
        for channel in (self.console, self.control):
            channel.writer.close()


class QemuBackend:
    """Starts machines with the QEMU of `programs`; their throw-away files are below `scratch`."""

    def __init__(self, programs: Programs, scratch: Path) -> None:
        self._programs = programs
        self._scratch = scratch

    @asynccontextmanager
    async def start(self, spec: MachineSpec) -> AsyncIterator[Machine]:
        """See `machine.Backend`."""
        check_spec(spec)
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(scratch_folder("machine-", self._scratch))
            machine = await self._launch(spec, folder)
            try:
                yield machine
            finally:
                await machine.kill()

    async def _launch(self, spec: MachineSpec, folder: Path) -> QemuMachine:
        overlay = spec.disk.changes or folder / "overlay.qcow2"
        if not overlay.exists():
            self._make_overlay(spec, overlay)
        started: list[Child] = []
        with Wires(spec, self._programs, folder, overlay) as wires:
            try:
                for name, argv, descriptors in wires.helpers():
                    started.append(await self._start(name, argv, folder, descriptors))
                began = time.monotonic()
                qemu = await self._start("QEMU", wires.qemu(), folder, wires.of_qemu())
                started.append(qemu)
                wires.close_far()
                machine = QemuMachine(qemu, started[:-1], began)
                await machine.connect(wires)
            except BaseException:
                for child in started:
                    await child.kill()
                raise
            return machine

    async def _start(self, name: str, argv: Sequence[str], folder: Path, descriptors: Sequence[int]) -> Child:
        env = self._programs.closed_environment()
        return await Child.start(name, argv, env=env, cwd=folder, descriptors=descriptors)

    def _make_overlay(self, spec: MachineSpec, overlay: Path) -> None:
        size = [str(spec.disk.size)] if spec.disk.size else []
        base = ["-b", str(spec.disk.path), "-F", spec.disk.format]
        process.run(
            [*self._programs.qemu_img, "create", "-q", "-f", "qcow2", *base, str(overlay), *size],
            env=self._programs.closed_environment(),
            umask=0o077,
            timeout=60,
        )


def check_spec(spec: MachineSpec) -> None:
    """Refuse what is missing, what this system cannot do, and a qcow2 that would have QEMU open other files.

    Raises StereoError.
    """
    files = [spec.disk.path, *([spec.kernel.kernel, spec.kernel.initrd] if spec.kernel else [])]
    for path in files:
        if not path.is_file():
            raise StereoError("no such file", where=str(path))
    if spec.disk.format == "qcow2":
        with OpenFile(spec.disk.path) as opened:
            Qcow2(opened.region)
    for share in spec.shares:
        shares.check_share(share)
    if sys.platform != "linux" and (spec.network or spec.shares or spec.credentials):
        raise StereoError("a network, shares and credentials of a machine need Linux", hint="start it without")
