"""A program that behaves towards us as vfkit does, on command: REST service and sockets, and no machine.

Its first argument says how it behaves; the rest is vfkit's command line. Behind the control socket somebody answers
each line with "pong".
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from makers.vfkit.arguments import parse
from makers.vfkit.service import Service


async def run(behaviour: str, words: list[str]) -> int:
    options = parse(words)
    ended = asyncio.Event()
    asked: list[str] = []

    async def change(state: str) -> bool:
        asked.append(state)
        if state == "HardStop" or behaviour != "deaf":
            Path(options.consoles[0]).write_text(f"{os.getpid()}\n{' '.join(asked)}\nlast words\n")
            asyncio.get_running_loop().call_later(0.05, ended.set)
        return True

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(b'{"type":"pong"}\n')
        writer.close()

    told = f"{os.getpid()}\n"
    if behaviour == "reads":
        found = Path(options.initrd).stat()
        told += f"{found.st_size} {found.st_mode:#o}\n"
    if behaviour == "echoes":
        told += f"{' '.join(words)}\n"
    if behaviour == "floods":
        told += "x" * 900_000
    Path(options.consoles[0]).write_text(told)
    assert options.rest
    await Service(options, lambda: "Starting" if behaviour == "slow" else "Running", change).listen(Path(options.rest))
    await asyncio.start_unix_server(answer, options.vsocks[0].path)
    if behaviour == "fails":
        print("hypervisor virtualization error", file=sys.stderr)
        return 1
    await ended.wait()
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "refuses":
        sys.exit("Error: invalid storage device attachment")
    sys.exit(asyncio.run(run(sys.argv[1], sys.argv[2:])))
