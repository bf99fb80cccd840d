"""Who is at the other end of a unix socket, in the kernel's word, and how to end that process and no other."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
from contextlib import closing, suppress

_UCRED = struct.Struct("3i")
"""struct ucred: pid, uid, gid; see unix(7), SO_PEERCRED."""

# macOS: sys/un.h, sys/ucred.h
_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 0x001, 0x002
_XUCRED = struct.Struct("=IIh2x16I")


def peer_uid(sock: socket.socket) -> int:
    """The user who connected, or listens. Raises OSError."""
    if sys.platform == "darwin":
        return int(_XUCRED.unpack(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size))[1])
    return int(_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1])


def kill_peer(sock: socket.socket, seconds: float) -> None:
    """Kill the process at the other end, and wait at most `seconds` for its end. Raises OSError."""
    if sys.platform == "darwin":
        _kill_by_queue(sock, seconds)
        return
    pid, _, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], seconds)
    finally:
        os.close(descriptor)


if sys.platform == "darwin":

    def _kill_by_queue(sock: socket.socket, seconds: float) -> None:
        (pid,) = struct.unpack("i", sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4))
        watched = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        with closing(select.kqueue()) as queue, suppress(ProcessLookupError):
            queue.control([watched], 0)
            os.kill(pid, signal.SIGKILL)
            queue.control([], 1, seconds)
