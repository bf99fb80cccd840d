"""Folders of the host inside a machine: one virtiofsd each, which can do to them only what the caller could.

Inside, everything of the caller's belongs to `agent`, and whatever the guest makes, be it as root, belongs to the
caller. virtiofsd shuts itself in (namespaces, seccomp) with the shared folder as its root; see virtiofsd(1). It does
not keep guests from setting setuid bits, with which a file of the caller's would let others of this host act as the
caller, so it is started under a filter of ours; see `modefilter`.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stereo.errors import StereoError
from stereo.vm import modefilter
from stereo.vm.machine import Share

_AGENT, _NOBODY, _ALL = 1000, 65534, 2**32 - 1
# virtiofsd runs as the caller, and needs no more than that.
_CAPABILITIES = ("chown", "dac_override", "fowner", "fsetid", "setgid", "setuid", "mknod", "setfcap")
_LONGEST_TAG = 36  # bytes; struct virtio_fs_config


@dataclass(frozen=True)
class Served:
    """A share before its virtiofsd was started: that gets `listening`, QEMU gets `connected`."""

    share: Share
    listening: socket.socket
    connected: socket.socket


def check_share(share: Share) -> None:
    """Refuse what cannot be shared. Raises StereoError."""
    if not share.path.is_dir():
        raise StereoError("only a folder can be shared", where=str(share.path))
    tag = share.tag.encode()
    if not 0 < len(tag) <= _LONGEST_TAG or not share.tag.replace("-", "").replace("_", "").isalnum():
        raise StereoError(f"a share cannot be called {share.tag!r}", where=str(share.path))


def connect(share: Share, folder: Path) -> Served:
    """Both ends of a share's connection, met in the private `folder`; nobody else can connect later."""
    here = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    path = f"/proc/self/fd/{here}/{share.tag}"  # short, as the address of a socket has to be
    listening = socket.socket(socket.AF_UNIX)
    connected = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(path)
        listening.listen(1)
        connected.connect(path)
        os.unlink(share.tag, dir_fd=here)
    finally:
        os.close(here)
    return Served(share, listening, connected)


def virtiofsd_arguments(share: Share, listening: int, user: int, group: int) -> list[str]:
    """The arguments that follow virtiofsd's own argv prefix, for the caller `user` and a listening socket.

    The user namespace that it makes for an ordinary user has nobody but the caller, under the caller's own number.
    """
    return [
        *(f"--fd={listening}", f"--shared-dir={share.path.absolute()}"),
        *("--sandbox=namespace", "--seccomp=kill", "--inode-file-handles=never", "--log-level=error"),
        "--modcaps=" + ":".join(f"-{name}" for name in _CAPABILITIES),
        *(f"--translate-uid={row}" for row in _translation(user)),
        *(f"--translate-gid={row}" for row in _translation(group)),
        *(["--readonly"] if share.read_only else []),
    ]


def _translation(caller: int) -> list[str]:
    """Between the numbers of the host and of the guest, where everybody else on the host is nobody."""
    others = [
        f"squash-host:{first}:{_NOBODY}:{count}" for first, count in ((0, caller), (caller + 1, _ALL - caller - 1))
    ]
    return [
        f"squash-guest:0:{caller}:{_ALL}",
        f"host:{caller}:{_AGENT}:1",
        *(row for row in others if not row.endswith(":0")),
    ]


def wrapped(argv: Sequence[str]) -> list[str]:
    """`argv` under the filter that keeps setuid and setgid bits away."""
    return [sys.executable, "-I", "-S", modefilter.__file__, *argv]
