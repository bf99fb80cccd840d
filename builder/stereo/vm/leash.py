"""The program that becomes another one, which ends when whoever started it does, also on systems without PDEATHSIG.

Run as `python -I -S leash.py DESCRIPTOR PROGRAM ARGUMENT...`. DESCRIPTOR is a pipe whose other end the starter alone
holds, and nothing is ever written to it. A child stays beside PROGRAM and kills it when that end is closed, which it is
when the starter ends, however that comes.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def watch(held: int, leader: int) -> NoReturn:
    """Wait for the end of who started us, and then end `leader`, our parent, if it is still there."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # who stops the leader stops us by closing the pipe
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)  # whoever listens to the leader's complaints does not wait for ours
    while os.read(held, 1):
        pass
    if os.getppid() == leader:
        os.kill(leader, signal.SIGKILL)
    os._exit(0)


def main(held: int, argv: list[str]) -> int:
    """Become `argv`. Returns an exit status if that cannot be."""
    leader = os.getpid()
    if os.fork() == 0:
        watch(held, leader)
    os.close(held)
    try:
        os.execv(argv[0], argv)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    return 127


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
