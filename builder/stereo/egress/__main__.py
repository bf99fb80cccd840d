"""The gate as a process: `python -m stereo.egress LOG [--user UID] --listen PROTOCOL:PORT:DESCRIPTOR ...`.

Its parent hands it sockets that listen, and rules on stdin: `{"rules": ["example.com:443"]}`, a line for each time that
they change. Each line is answered on stdout by `{"closed": N}` once they are in force. When stdin ends, so does it.
It gives up what it does not need: privileges that it could gain, being traced and dumped, endless resources, and with
`--user` the identity that it was started with.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from stereo import process
from stereo.egress.gate import Gate
from stereo.egress.log import Log
from stereo.egress.policy import HostNetwork
from stereo.model.egress import Rules

LARGEST_LINE: Final = 1 << 20  # bytes
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_NOFILE: 2048,
    resource.RLIMIT_FSIZE: 64 << 20,  # bytes
    resource.RLIMIT_DATA: 1 << 30,  # bytes
}


def main(arguments: list[str]) -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(prog="stereo.egress")
    parser.add_argument("log", type=Path)
    parser.add_argument("--user", type=int)
    parser.add_argument("--listen", action="append", default=[], type=_listener)
    options = parser.parse_args(arguments)
    log = Log(options.log)
    _confine(options.user)
    asyncio.run(_serve(dict(options.listen), log))


def _listener(text: str) -> tuple[tuple[str, int], socket.socket]:
    protocol, port, descriptor = text.split(":")
    return (protocol, int(port)), socket.socket(fileno=int(descriptor))


def _confine(user: int | None) -> None:
    for limit, wanted in _LIMITS.items():
        hard = resource.getrlimit(limit)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(limit, (value, value))
    os.umask(0o077)
    if user is not None and user != os.geteuid():
        os.setgroups([])
        os.setgid(user)  # of root, also the saved one: there is no way back, see setuid(2)
        os.setuid(user)
    if sys.platform != "linux":
        return  # prctl(2) is Linux's; without it the end of stdin tells that our parent is gone
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    process.die_with_parent()  # again: a change of identity forgets it, prctl(2)


async def _serve(sockets: dict[tuple[str, int], socket.socket], log: Log) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=LARGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    first = await lines.readline()
    if not first:
        return
    async with Gate(sockets, _rules(first), log, HostNetwork()) as gate:
        _tell(0)
        while line := await lines.readline():
            _tell(gate.apply(_rules(line)))


def _rules(line: bytes) -> Rules:
    return Rules.parse(json.loads(line)["rules"])


def _tell(closed: int) -> None:
    sys.stdout.write(json.dumps({"closed": closed}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for our parent, who ends us
    main(sys.argv[1:])
    os._exit(0)  # a lookup that hangs must not hold us
