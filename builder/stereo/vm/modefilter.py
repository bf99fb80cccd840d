"""The program that forbids itself setuid and setgid bits, and then becomes another. See seccomp(2).

Run as `python -I -S modefilter.py PROGRAM ARGUMENT...`. Each system call that gives a file its mode is looked at, and
one with such a bit fails with EPERM; those whose mode a filter cannot see do not exist any more.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from typing import NoReturn

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_EPERM, _ENOSYS = 1, 38
_BITS = 0o6000
_X32 = 0x40000000  # the same calls under other numbers
# By machine: its name in audit(7), and the number of the argument that is a mode, by system call.
_MODES = {
    "x86_64": (
        0xC000003E,
        {2: 2, 83: 1, 85: 1, 90: 1, 91: 1, 133: 1, 257: 3, 258: 2, 259: 2, 268: 2, 452: 2},
    ),
    "aarch64": (0xC00000B7, {33: 2, 34: 2, 52: 1, 53: 2, 56: 3, 452: 2}),
}
_UNSEEN = (425, 437)  # io_uring_setup, openat2


def program(machine: str) -> bytes:
    """The filter for a machine, as `struct sock_filter`s. Raises KeyError for a machine that we do not know."""
    audit, modes = _MODES[machine]
    rows = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    rows += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    for number in _UNSEEN:
        rows += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    for number, argument in modes.items():
        rows += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, 16 + 8 * argument), (_ANY_BIT, 0, 1, _BITS)]
        rows += [(_RETURN, 0, 0, _ERRNO | _EPERM), (_RETURN, 0, 0, _ALLOW)]
    rows += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("HBBI", *row) for row in rows)


def main() -> NoReturn:
    """Put the filter on, and become the program that the arguments name."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = program(os.uname().machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, head, 0, 0):
        os.write(2, f"no seccomp filter: {os.strerror(ctypes.get_errno())}\n".encode())
        os._exit(1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and so would what we become
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
