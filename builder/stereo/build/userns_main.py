"""Root's own user namespace: a program that makes one in which every id is itself, and becomes the command it is given.

    python -I -S userns_main.py COMMAND [ARGUMENT...]

A binfmt_misc of its own belongs to a user namespace (kernel 6.7 and later), and unshare(1) cannot make one with all ids
before it is as new as the kernel: it asks newuidmap(1), which asks subuid(5), where root has none. See
user_namespaces(7). Standard library alone: this runs where nothing of ours is on Python's path.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ends with status 1 and the kernel's word if it is refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent, me = os.getppid(), os.getpid()
    reading, writing = os.pipe()
    mapper = os.fork()
    if mapper == 0:
        # Only who has stayed outside may say whom the ids inside stand for.
        os.close(writing)
        os._exit(0 if os.read(reading, 1) and _map_all(me) else 1)
    os.close(reading)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        sys.exit(f"no user namespace: {os.strerror(ctypes.get_errno())}")
    os.write(writing, b".")
    os.close(writing)
    if os.waitpid(mapper, 0)[1] != 0:
        sys.exit("no user namespace with all ids")
    # Entering the namespace took it back: whoever started us, and dies, takes us along.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    os.execvp(sys.argv[1], sys.argv[1:])


def _map_all(pid: int) -> bool:
    for kind in ("uid_map", "gid_map"):
        # In a container there may be fewer than all: those that we have ourselves.
        with open(f"/proc/self/{kind}") as own:
            rows = [line.split() for line in own]
        with open(f"/proc/{pid}/{kind}", "w") as new:
            new.write("".join(f"{inside} {inside} {count}\n" for inside, _, count in rows))
    return True


if __name__ == "__main__":
    main()
