"""Boot a dist in one of its forms, watch it come up, and tell where the time went."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.report import Report
from stereo.vm.console import Console, Sink
from stereo.vm.control import Control, GuestError
from stereo.vm.machine import Accelerator, Backend, Disk, KernelBoot, Machine, MachineSpec, Network
from stereo.vm.timeline import Timeline, make_timeline
from stereos_guest import protocol

_AGREE_SECONDS = 5.0
_LARGEST_CMDLINE = 4096  # bytes; x86's COMMAND_LINE_SIZE is half of that


class Form(StrEnum):
    """The ways in which a dist boots."""

    RAW = "raw"
    QCOW2 = "qcow2"
    KERNEL = "kernel"


@dataclass(frozen=True)
class BootFiles:
    """The files of a dist that a machine starts from."""

    raw: Path
    qcow2: Path
    kernel: Path
    initrd: Path
    cmdline: Path

    @classmethod
    def in_folder(cls, dist: Path) -> BootFiles:
        """Under the names that every dist has."""
        names = ("stereos.img", "stereos.qcow2", "bzImage", "initrd", "cmdline")
        return cls(*((dist / name).absolute() for name in names))


@dataclass(frozen=True)
class MachineSize:
    """How much of the host a machine gets. `memory` is in MiB; `disk` in bytes, default as large as the image."""

    cpus: int = 2
    memory: int = 1024
    disk: int | None = None


def make_spec(
    files: BootFiles,
    form: Form,
    arch: Architecture,
    accelerator: Accelerator,
    *,
    size: MachineSize = MachineSize(),
    network: Network | None = None,
) -> MachineSpec:
    """The machine of `arch` that boots `files` in `form`.

    Raises StereoError if the kernel's command line cannot be read.
    """
    disk = Disk(files.qcow2, "qcow2", size.disk) if form is Form.QCOW2 else Disk(files.raw, "raw", size.disk)
    kernel = None
    if form is Form.KERNEL:
        kernel = KernelBoot(files.kernel, files.initrd, _read_cmdline(files.cmdline))
    return MachineSpec(disk, arch, kernel, accelerator, size.cpus, size.memory, network)


class Booted:
    """A machine that is up: its console is being read, and its daemon can be asked."""

    def __init__(self, machine: Machine, console: Console, control: Control) -> None:
        self.machine = machine
        self.console = console
        self.control = control
        self.timeline: Timeline | None = None


def boot(
    backend: Backend,
    spec: MachineSpec,
    report: Report,
    *,
    until: str = protocol.READY,
    timeout: float = 300,
    grace: float = 20,
    sink: Sink | None = None,
) -> Timeline:
    """Boot `spec`, wait `until` "ready" or another text that the console shows, and shut it down.

    `timeout` (seconds) counts from the start; `grace` is what the guest has to shut down before it is switched off. The
    timeline ends at what was waited for. Raises StereoError with the console's last lines if it does not come. Call it
    on the main thread; see `Backend.start`.
    """

    async def run() -> Timeline:
        async with running(backend, spec, report, until=until, timeout=timeout, sink=sink) as booted:
            assert booted.timeline
            with report.step("Shutting down"):
                await shut_down(booted, grace)
            return booted.timeline

    return asyncio.run(run())


def attend(backend: Backend, spec: MachineSpec, sink: Sink, keyboard: int | None) -> None:
    """Boot `spec` and stay until it is switched off from inside.

    `sink` gets the console's bytes; what is read from the descriptor `keyboard` is typed into it. Raises StereoError.
    """

    async def run() -> None:
        async with backend.start(spec) as machine:
            pump = asyncio.create_task(Console(machine.console.reader, sink).pump())
            if keyboard is not None:
                _type_from(keyboard, machine)
            try:
                await machine.wait()
            finally:
                if keyboard is not None:
                    asyncio.get_running_loop().remove_reader(keyboard)
                await asyncio.wait([pump], timeout=1)
                pump.cancel()

    asyncio.run(run())


@asynccontextmanager
async def running(
    backend: Backend,
    spec: MachineSpec,
    report: Report,
    *,
    until: str = protocol.READY,
    timeout: float = 300,
    sink: Sink | None = None,
) -> AsyncIterator[Booted]:
    """As `boot`, but hands over the machine once it is up; it is switched off at the end of the `async with` block."""
    async with backend.start(spec) as machine:
        booted = Booted(machine, Console(machine.console.reader, sink), Control(machine.control))
        pump = asyncio.create_task(booted.console.pump())
        try:
            with report.step("Booting", f"Up: {until}"):
                booted.timeline = await _come_up(booted, until, timeout)
            yield booted
        finally:
            pump.cancel()


async def _come_up(booted: Booted, until: str, timeout: float) -> Timeline:
    machine = booted.machine
    watch = asyncio.create_task(_reached(booted, until, timeout))
    ended = asyncio.create_task(machine.wait())
    try:
        await asyncio.wait([watch, ended], return_when=asyncio.FIRST_COMPLETED)
        if watch.done() and not watch.exception():
            return watch.result()
        await asyncio.wait([ended], timeout=0.5)  # a channel that closed may only be the first sign of the end
        if ended.done():
            ended.result()
            raise StereoError(f"the machine ended before it was {until}")
        return watch.result()
    except StereoError as error:
        await asyncio.sleep(0.1)  # let the console's last words arrive
        tail = booted.console.tail()
        said = f"; its console's last lines:\n{tail}" if tail else "; its console shows nothing"
        raise StereoError(f"{error.what}{said}", where=error.where, hint=error.hint) from error
    finally:
        for task in (watch, ended):
            task.cancel()


async def _reached(booted: Booted, until: str, timeout: float) -> Timeline:
    machine = booted.machine
    if until != protocol.READY:
        try:
            await asyncio.wait_for(booted.console.wait_for(until), timeout)
        except TimeoutError:
            raise GuestError(f"the console did not show {until!r} within {timeout:g} s") from None
        return make_timeline(asyncio.get_running_loop().time() - machine.began, {}, until)
    pushed = await booted.control.wait_for_state((protocol.READY, protocol.HEALTHY), timeout)
    return make_timeline(pushed.at - machine.began, pushed.boot)


async def shut_down(booted: Booted, grace: float) -> None:
    """Ask the guest's daemon to shut down, or else press the power button; switch off after `grace` seconds."""
    if grace > 0:
        with suppress(GuestError):
            await booted.control.shutdown(min(grace, _AGREE_SECONDS))
            with suppress(StereoError, TimeoutError):
                await asyncio.wait_for(booted.machine.wait(), grace)
            grace = 0
    await booted.machine.stop(grace)


def _type_from(keyboard: int, machine: Machine) -> None:
    loop = asyncio.get_running_loop()

    def typed() -> None:
        if data := os.read(keyboard, 1024):
            machine.console.writer.write(data)
        else:
            loop.remove_reader(keyboard)

    loop.add_reader(keyboard, typed)


def _read_cmdline(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_CMDLINE + 1)
    except OSError as error:
        raise StereoError(f"cannot read the kernel's command line: {error.strerror}", where=str(path)) from error
    if len(text) > _LARGEST_CMDLINE or not text.isascii() or not text.decode().isprintable():
        raise StereoError("this is no kernel command line", where=str(path))
    return text.decode()
