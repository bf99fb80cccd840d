"""Runs programs inside a machine over its control channel, as `stereo exec` does, and hears what they say."""

from __future__ import annotations

from typing import Any

from stereo.vm.control import Control
from stereo.vm.stream import Exit, Stream
from stereos_guest import protocol

Said = tuple[dict[str, bytes], Exit]


async def hear(stream: Stream) -> Said:
    """What comes until the end, and how that was."""
    heard = {"stdout": b"", "stderr": b""}
    while piece := await stream.read():
        heard[piece[0]] += piece[1]
    return heard, await stream.wait()


async def run(control: Control, *argv: str, **more: Any) -> Said:
    """Run a program; `more` are fields of the request, such as `user`."""
    request = {"argv": list(argv), **more}
    async with await control.open_stream(protocol.EXEC, request, seconds=60) as stream:
        return await hear(stream)


async def shell(control: Control, script: str, **more: Any) -> Said:
    """Run a script."""
    return await run(control, "/bin/sh", "-c", script, **more)


def out(said: Said) -> str:
    """What it wrote to its standard output."""
    return said[0]["stdout"].decode()
