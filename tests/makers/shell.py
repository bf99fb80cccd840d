"""A root shell inside a machine that has no way in, for tests that have to do something there.

As makers/probe.py, it needs no other image: an initrd adds a unit to the tmpfs over the root. The shell is on the
serial console, so it needs no network either.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from makers.probe import initrd_with
from stereo.model.architecture import Architecture
from stereo.report import Silent
from stereo.vm.boot import Booted, running
from stereo.vm.machine import Backend, MachineSpec

_SERIAL = {Architecture.X86_64: "ttyS0", Architecture.AARCH64: "ttyAMA0"}
_UNIT = """\
[Unit]
DefaultDependencies=no
After=basic.target stereosd.service

[Service]
ExecStart=/bin/sh -c 'stty -echo -onlcr; exec /bin/sh'
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/{}
"""


def shell_initrd(initrd: Path, target: Path, arch: Architecture = Architecture.X86_64) -> Path:
    """Write `initrd` to `target`, with the shell."""
    return initrd_with(initrd, target, "shell.service", _UNIT.format(_SERIAL[arch]))


class RootShell:
    """Runs one command after the other."""

    def __init__(self, booted: Booted, said: bytearray) -> None:
        self.booted, self._said, self._number = booted, said, 0

    async def until(self, pattern: re.Pattern[bytes], start: int, seconds: float) -> re.Match[bytes]:
        """The first match of the pattern in what the console said behind `start`."""
        end = time.monotonic() + seconds
        while not (found := pattern.search(self._said, start)):
            assert time.monotonic() < end, self._said[start:][-2000:].decode(errors="replace")
            await asyncio.sleep(0.02)
        return found

    async def __call__(self, command: str, *, seconds: float = 60, status: int | None = 0) -> str:
        """What the command printed; fails unless it ends with `status`."""
        self._number += 1
        start = len(self._said)
        words = f"echo be''gins{self._number}; ( {command}\n) 2>&1 </dev/null; echo en''ds{self._number} $?\n"
        self.booted.machine.console.writer.write(words.encode())
        pattern = re.compile(rb"begins%d\r?\n(.*?)ends%d (\d+)" % (self._number, self._number), re.S)
        found = await self.until(pattern, start, seconds)
        out, ended = found[1].decode(errors="replace"), int(found[2])
        assert status is None or ended == status, f"{command}: status {ended}: {out}"
        return out


@asynccontextmanager
async def machine_with_shell(backend: Backend, spec: MachineSpec, folder: Path) -> AsyncIterator[RootShell]:
    """Boot `spec` (by its kernel) with the shell, for the length of the block; `folder` gets the initrd."""
    assert spec.kernel
    initrd = shell_initrd(spec.kernel.initrd, folder / "initrd-with-shell", spec.arch)
    said = bytearray()
    with_shell = replace(spec, kernel=replace(spec.kernel, initrd=initrd))
    async with running(backend, with_shell, Silent(), timeout=300, sink=said.extend) as booted:
        shell = RootShell(booted, said)
        await shell.until(re.compile(rb"# $"), 0, 120)  # what is typed earlier, opening the terminal throws away
        yield shell
