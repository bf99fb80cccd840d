"""`python -m makers.vfkit TOOLS_TREE ARGUMENT...`: what `vfkit ARGUMENT...` is on a Mac."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from makers.vfkit.arguments import Options, Refused, check, parse
from makers.vfkit.devices import qemu_arguments
from makers.vfkit.service import Service
from makers.vsock_device import HOST, serve
from stereo import process
from stereo.model.architecture import Architecture
from stereo.scratch import scratch_folder
from stereo.vm import shares
from stereo.vm.machine import Share
from stereo.vm.programs import Programs
from stereo.vm.qmp import Qmp

VERSION = "v0.6.1"


class Machine:
    """A QEMU, and what serves it."""

    def __init__(self, options: Options, programs: Programs, folder: Path, stack: AsyncExitStack) -> None:
        self._options, self._programs, self._folder, self._stack = options, programs, folder, stack
        self._state = "Starting"
        self._qmp = Qmp()

    async def run(self) -> int:
        """Until it is off. Returns vfkit's exit status."""
        options = self._options
        if options.rest:
            Path(options.rest).unlink(missing_ok=True)
            await Service(options, lambda: self._state, self._change).listen(Path(options.rest))
            self._stack.callback(Path(options.rest).unlink, missing_ok=True)
        qmp, qmp_far = self._pair()
        vsock, vsock_far = self._pair()
        words = qemu_arguments(
            options,
            self._programs,
            qmp=qmp_far.fileno(),
            vsock=vsock_far.fileno() if options.vsocks else None,
            shares=[self._share(tag, Path(path)) for tag, path in options.shares],
        )
        numbers = [int(word.rpartition("=")[2]) for word in words if word.startswith("socket,id=")]
        qemu = self._start(words, numbers)
        for sock in (qmp_far, vsock_far):
            sock.close()
        connect = {Path(each.path): (each.port, HOST) for each in options.vsocks if not each.listen}
        listen = {each.port: Path(each.path) for each in options.vsocks if each.listen}
        device = asyncio.create_task(serve(vsock, connect=connect, listen=listen))
        await self._qmp.connect(qmp, 30)
        self._state = "Running"
        status = await asyncio.to_thread(qemu.wait)
        self._state = "Stopped"
        device.cancel()
        with suppress(asyncio.CancelledError):
            await device
        return 1 if status else 0

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        near, far = socket.socketpair()
        return self._stack.enter_context(near), self._stack.enter_context(far)

    def _share(self, tag: str, path: Path) -> int:
        """Serve a folder as the framework does: whoever asks in the guest, it is the user of the host who acts."""
        served = shares.connect(Share(tag, path), self._folder)
        number = self._stack.enter_context(served.listening).fileno()
        arguments = shares.virtiofsd_arguments(served.share, number, os.geteuid(), os.getegid())
        self._start([*self._programs.need_virtiofsd(), *arguments], [number])
        return self._stack.enter_context(served.connected).fileno()

    def _start(self, words: list[str], descriptors: list[int]) -> subprocess.Popen[bytes]:
        env = {**self._programs.closed_environment(), "TMPDIR": str(self._folder)}
        child = subprocess.Popen(words, env=env, pass_fds=descriptors, preexec_fn=process.die_with_parent)
        self._stack.callback(child.wait)
        self._stack.callback(child.kill)
        return child

    async def _change(self, state: str) -> bool:
        command = {"Stop": "system_powerdown", "HardStop": "quit"}.get(state)
        return command is not None and await self._qmp.request(command)


async def run(options: Options, tools: Path) -> int:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(scratch_folder("fake-vfkit-", Path("/tmp")))
        machine = Machine(options, Programs.find(tools, Architecture.AARCH64), folder, stack)
        work = asyncio.create_task(machine.run())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        try:
            return await work
        except asyncio.CancelledError:
            return 1


def main(tools: str, *words: str) -> int:
    if words == ("--version",):
        print(f"vfkit version: {VERSION}")
        return 0
    try:
        options = parse(words)
        check(options)
    except Refused as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return asyncio.run(run(options, Path(tools)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
