"""Runs what `stereo check` shows, until the guest's daemon says that it is ready."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stereo.model.architecture import Architecture
from stereo.process import die_with_parent
from stereo.vm.control import Control
from stereo.vm.machine import Channel
from stereo.vm.programs import Programs
from stereos_guest import protocol

CONTROL = "control.sock"
_GRACE = 120  # seconds that a guest has to switch itself off


def here(argv: Sequence[str], programs: Programs) -> list[str]:
    """The same words for this host: QEMU and firmware out of the tools tree, and no KVM, which may exist and hang."""
    assert programs.tree
    program, *words = argv
    assert program == f"qemu-system-{programs.arch}"
    inside = [word.replace("/usr/share/", f"{programs.tree}/usr/share/") for word in words]
    assert sum("accel=kvm:tcg" in word for word in inside) == 1
    return [*programs.qemu, *(word.replace("accel=kvm:tcg", "accel=tcg") for word in inside)]


def ready_from(argv: Sequence[str], tree: Path, arch: Architecture, folder: Path, *, seconds: float = 300) -> str:
    """Start it in `folder`, wait for ready, shut it down. Returns what the console showed."""
    programs = Programs.find(tree, arch)
    folder.mkdir()
    log = folder / "console"
    with log.open("wb") as out:
        machine = subprocess.Popen(
            here(argv, programs),
            cwd=folder,
            env=programs.closed_environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
    try:
        asyncio.run(_greet(folder / CONTROL, machine, seconds))
        machine.wait(_GRACE)
    except BaseException as error:
        error.add_note(log.read_text(errors="replace")[-3000:])
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(machine.pid, signal.SIGKILL)
        machine.wait()
    return log.read_text(errors="replace")


async def _greet(socket: Path, machine: subprocess.Popen[bytes], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not socket.exists():
            assert machine.poll() is None, "QEMU ended at once"
            await asyncio.sleep(0.05)
        while True:
            with suppress(ConnectionRefusedError):
                reader, writer = await asyncio.open_unix_connection(str(socket), limit=protocol.MAX_LINE)
                break
            await asyncio.sleep(0.05)
        control = Control(Channel(reader, writer))
        try:
            await control.wait_for_state((protocol.READY, protocol.HEALTHY), seconds)
            await control.ping()
            await control.shutdown()
        finally:
            await control.close()
            writer.close()
