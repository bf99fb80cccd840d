"""Makes of the process that imports it one on a Mac, as far as Python code can tell.

What CPython has on Linux and not on macOS is taken away; see "Availability" in the documentation of each module. There
is no /proc, a unix socket's address is at most 103 bytes, a process group of zombies cannot be signalled, and libc has
clonefile(2) and no prctl(2). Import it before anything that looks at `sys.platform`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import posix
import re
import resource
import select
import selectors
import shutil
import signal
import socket
import struct
import sys
import sysconfig
import time
import types
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from makers.mac.missing import MISSING

_NO_PLACES = ("/proc/", "/sys/", "/etc/apt/", "/etc/os-release", "/etc/machine-id", "/usr/share/keyrings/", "/dev/kvm")
_NO_SYMBOLS = ("prctl", "unshare", "setns", "mount", "umount2", "pivot_root", "renameat2", "syscall", "memfd_create")
_LONGEST_ADDRESS = 103
# sys/un.h and sys/ucred.h of macOS
_SOL_LOCAL, _PEERCRED, _PEERPID = 0, 0x001, 0x002
_SO_PEERCRED, _UCRED = 17, struct.Struct("3i")

_real_killpg, _real_getsockopt = os.killpg, socket.socket.getsockopt
_looking = False


def _take_away() -> None:
    for module in (os, posix, signal, socket, socket._socket, select, fcntl, resource, time):  # type: ignore[attr-defined]
        pattern = MISSING[{"posix": "os", "_socket": "socket"}.get(module.__name__, module.__name__)]
        for name in [name for name in vars(module) if re.fullmatch(pattern, name)]:
            delattr(module, name)


def _find(path: object) -> None:
    """Raise FileNotFoundError if a Mac has no such place."""
    if isinstance(path, (str, bytes, os.PathLike)) and f"{os.fsdecode(path)}/".startswith(_NO_PLACES) and not _looking:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _finding(real: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(real)
    def instead(path: Any, *words: Any, **named: Any) -> Any:
        _find(path)
        return real(path, *words, **named)

    for able in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks, os.supports_effective_ids):
        if real in able:
            able.add(instead)
    return instead


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir"):
        _find(arguments[0])
    elif event in ("socket.bind", "socket.connect") and isinstance(arguments[1], (str, bytes, os.PathLike)):
        address = os.fsencode(arguments[1])
        if len(address) > _LONGEST_ADDRESS:
            raise OSError("AF_UNIX path too long")
        if address[:1] == b"\0":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _killpg(group: int, number: int) -> None:
    """What macOS says of a group in which nobody can hear: EPERM."""
    global _looking
    _looking = True
    try:
        states = [_stat(each) for each in Path("/proc").iterdir() if each.name.isdecimal()]
    finally:
        _looking = False
    members = [state for state, leader in states if leader == group]
    if members and all(state == "Z" for state in members):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    _real_killpg(group, number)


def _stat(process: Path) -> tuple[str, int]:
    """Its state, and its group."""
    try:
        state, _, group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return "", 0
    return state, int(group)


def _getsockopt(sock: socket.socket, level: int, option: int, *size: int) -> Any:
    if level == _SOL_LOCAL and sock.family == socket.AF_UNIX:
        pid, user, group = _UCRED.unpack(_real_getsockopt(sock, socket.SOL_SOCKET, _SO_PEERCRED, _UCRED.size))
        if option == _PEERCRED:
            return struct.pack("=IIh2x16I", 0, user, 1, group, *[0] * 15)[: size[0]]
        if option == _PEERPID:
            return struct.pack("i", pid)
    return _real_getsockopt(sock, level, option, *size)


class _Library(ctypes.CDLL):
    def __getattr__(self, name: str) -> Any:
        if name == "clonefile":
            return _clonefile
        if name in _NO_SYMBOLS:
            raise AttributeError(f"dlsym(RTLD_DEFAULT, {name}): symbol not found")
        return super().__getattr__(name)


def _clonefile(source: bytes, target: bytes, flags: object) -> int:
    if os.path.lexists(target):
        return -1
    shutil.copyfile(source, target)
    return 0


def _uname() -> os.uname_result:
    return os.uname_result(("Darwin", "mac.local", "23.6.0", "Darwin Kernel Version 23.6.0", "arm64"))


def _become() -> None:
    sysconfig.get_config_vars()  # it looks for a file that is named after the platform
    sys.platform = "darwin"
    os.uname = posix.uname = _uname
    proxies = types.ModuleType("_scproxy")  # what urllib asks for the system's settings
    vars(proxies).update(_get_proxy_settings=dict, _get_proxies=dict)
    sys.modules["_scproxy"] = proxies
    _take_away()
    for name in ("stat", "lstat", "readlink"):
        setattr(os, name, _finding(getattr(os, name)))
    os.killpg = _killpg
    socket.socket.getsockopt = _getsockopt  # type: ignore[assignment, method-assign]
    selectors.DefaultSelector = selectors.PollSelector  # type: ignore[assignment, misc]
    ctypes.CDLL = _Library  # type: ignore[misc]
    sys.addaudithook(_audit)


_become()
