"""The backend applevirt: a vfkit per machine, and through it Apple's Virtualization framework.

vfkit is told of files and sockets by their paths: disks and an initrd in the caller's scratch folder or where the
caller keeps them, sockets and the console's file in a private folder below /tmp, whose path is short. It dies with us
(see `leash`). Should one ever be left, it is found by the sockets in such a folder, and switched off at the next start.

What the framework has no way for is refused where the command line is made: see `vfkit_command`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

from stereo import process
from stereo.errors import StereoError
from stereo.scratch import left_behind, scratch_folder
from stereo.vm import credentials, leash, vfkit_command, vsockgate
from stereo.vm.child import Child
from stereo.vm.clone import clone
from stereo.vm.lasting import LastingChannel, pair
from stereo.vm.machine import Channel, Machine, MachineSpec
from stereo.vm.network import mac_address
from stereo.vm.shares import check_share
from stereo.vm.taillog import TailLog
from stereo.vm.vfkit import HARD_STOP, RUNNING, STOP, Rest
from stereo.vm.vfkit_command import Wiring, command_arguments

SHORT = Path("/tmp")
"""The folder of the folders with sockets."""

_PREFIX = "stereo-vm-"
_REST = "rest.sock"
_START_SECONDS = 30.0
_STOP_SECONDS = 3.0
_LAST_WORDS_SECONDS = 1.0
_POLL_SECONDS = 0.02
_END_SECONDS = 10.0


class AppleMachine:
    """A running vfkit. See `machine.Machine`. What is typed into the console goes nowhere."""

    def __init__(self, vfkit: Child, hold: int, wiring: Wiring, gate: vsockgate.Sockets, began: float) -> None:
        self.began = began
        self.gate = gate
        self.console: Channel
        self._vfkit = vfkit
        self._hold = hold
        self._wiring = wiring
        self._rest = Rest(wiring.rest)
        self._lasting: LastingChannel | None = None
        self._log: TailLog | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def control(self) -> Channel:
        """See `Machine.control`."""
        assert self._lasting
        return self._lasting.channel

    async def connect(self) -> None:
        """Wait until vfkit runs the machine, and have its channels. Raises StereoError."""
        self.console, far = await pair()
        self._log = TailLog(self._wiring.console, far.writer)
        work = (self._log.follow(), self._log.keep_small(), _ignore(far.reader))
        self._tasks = [asyncio.create_task(each) for each in work]
        give_up = time.monotonic() + _START_SECONDS
        while await self._state() != RUNNING:
            if self._vfkit.status is not None or time.monotonic() > give_up:
                await self._vfkit.kill()
                raise StereoError(f"vfkit did not start: {self._vfkit.complaints() or 'it gave no reason'}")
            await asyncio.sleep(_POLL_SECONDS)
        if self._wiring.initrd:
            self._wiring.initrd.unlink()  # it was read, and holds what belongs on no disk
        self._lasting = await LastingChannel.to(self._wiring.control)

    async def wait(self) -> None:
        """See `Machine.wait`."""
        if await self._vfkit.wait():
            raise self._vfkit.failure()
        await self._read_on()

    async def stop(self, grace: float) -> None:
        """See `Machine.stop`."""
        if self._vfkit.status is None and grace > 0 and await self._changes(STOP):
            await self._vfkit.ended_within(grace)
        if self._vfkit.status is None and await self._changes(HARD_STOP):
            await self._vfkit.ended_within(_STOP_SECONDS)
        await self.kill()

    async def kill(self) -> None:
        """Switch off at once. Returns when every process is gone."""
        await self._vfkit.kill()
        await self._read_on()
        if self._lasting:
            await self._lasting.close()
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1

    async def _read_on(self) -> None:
        """Have the console's last words, once nobody writes any more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            assert self._log
            with suppress(OSError, TimeoutError):  # perhaps nobody listens, and the guest said much
                await asyncio.wait_for(self._log.rest(), _LAST_WORDS_SECONDS)

    async def _state(self) -> str:
        try:
            return await asyncio.to_thread(self._rest.state)
        except StereoError:
            return ""

    async def _changes(self, state: str) -> bool:
        try:
            await asyncio.to_thread(self._rest.change, state)
        except StereoError:
            return False
        return True


class AppleBackend:
    """Starts machines with `vfkit`; their throw-away disks are below `scratch`."""

    def __init__(self, vfkit: Path, scratch: Path) -> None:
        self._vfkit = vfkit
        self._scratch = scratch

    @asynccontextmanager
    async def start(self, spec: MachineSpec) -> AsyncIterator[Machine]:
        """See `machine.Backend`."""
        check_spec(spec)
        await end_orphans()
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder("machine-", self._scratch))
            short = stack.enter_context(scratch_folder(_PREFIX, SHORT))
            gate, doors = vsockgate.listen(spec.network, short)
            for sock in gate.values():
                stack.enter_context(sock)
            wiring = _wire(spec, folder, short, doors)
            machine = await self._launch(spec, folder, wiring, gate)
            try:
                await machine.connect()
                yield machine
            finally:
                await machine.kill()

    async def _launch(self, spec: MachineSpec, folder: Path, wiring: Wiring, gate: vsockgate.Sockets) -> AppleMachine:
        words = command_arguments(spec, wiring)
        if not wiring.disk.exists():
            await asyncio.to_thread(clone, spec.disk.path, wiring.disk, spec.disk.size)
        if spec.kernel and wiring.initrd:
            _append(spec.kernel.initrd, spec.credentials, wiring.initrd)
        held, hold = os.pipe()
        argv = [sys.executable, "-I", "-S", leash.__file__, str(held), str(self._vfkit), *words]
        began = time.monotonic()
        try:
            env = process.closed_environment()
            vfkit = await Child.start("vfkit", argv, env=env, cwd=folder, descriptors=[held])
        except BaseException:
            os.close(hold)
            raise
        finally:
            os.close(held)
        return AppleMachine(vfkit, hold, wiring, gate, began)


def _wire(spec: MachineSpec, folder: Path, short: Path, doors: Mapping[int, Path]) -> Wiring:
    """Where everything of a start is: its files in `folder`, what needs a short path in `short`."""
    disk = spec.disk.changes or folder / "disk.raw"
    return Wiring(
        disk=disk,
        console=short / "serial.log",
        rest=short / _REST,
        control=short / "control.sock",
        initrd=folder / "initrd" if spec.kernel and spec.credentials else None,
        variables=None if spec.kernel else folder / "efi-variables",
        mac=mac_address(disk),
        gate=doors,
    )


def check_spec(spec: MachineSpec) -> None:
    """Refuse what is missing, and what this backend cannot do. Raises StereoError."""
    vfkit_command.check_spec(spec)
    for path in [spec.disk.path, *([spec.kernel.kernel, spec.kernel.initrd] if spec.kernel else [])]:
        if not path.is_file():
            raise StereoError("no such file", where=str(path))
    credentials.check(spec.credentials)
    for share in spec.shares:
        check_share(share)


def _append(initrd: Path, secrets: Mapping[str, str], target: Path) -> None:
    """Put credentials behind an initrd, in a file for its owner alone."""
    with initrd.open("rb") as old, target.open("xb") as new:
        target.chmod(0o600)
        shutil.copyfileobj(old, new)
        new.write(credentials.behind_initrd(new.tell(), secrets))


async def end_orphans(parent: Path = SHORT) -> None:
    """Switch off what a killed process of ours has left running, which only happens if its leash was killed too."""
    for folder in left_behind(_PREFIX, parent):
        if (folder / _REST).is_socket():
            rest = Rest(folder / _REST)
            with suppress(StereoError):  # until nobody is there who could answer
                await asyncio.to_thread(rest.change, HARD_STOP)
                give_up = time.monotonic() + _END_SECONDS
                while time.monotonic() < give_up:
                    await asyncio.to_thread(rest.state)
                    await asyncio.sleep(_POLL_SECONDS)
            shutil.rmtree(folder, ignore_errors=True)


async def _ignore(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass
