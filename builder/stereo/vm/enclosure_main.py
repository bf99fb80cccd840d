"""The program that shuts itself in and then becomes QEMU: no network, no files but its own, no privileges.

Run as `python -I -S enclosure_main.py JOB PROGRAM ARGUMENT...`, where JOB is what `enclosure.Job` says, as JSON.
It stands on the way of every boot, so it imports little. Python 3.11 knows neither unshare(2) nor mount(2): libc does.

What cannot be done is told in one line on stderr, and the exit status is REFUSED. See namespaces(7), pivot_root(2).
"""

# ruff: noqa: PTH102, PTH103, PTH112, PTH114, PTH115, PTH116, PTH120, PTH211
# (pathlib would cost as much time as all the rest)

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import struct
import sys
from typing import Any, NoReturn

REFUSED = 125

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 1 << 18
_MS_NOSUID, _MS_NOEXEC = 0x2, 0x8
_MNT_DETACH = 2
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_MOUNT_SETATTR = 442  # on every architecture
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Shut ourselves in as the first argument says, and become the program that the others name."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    try:
        _separate(own_user=job["uid"] is None)
        _raise_loopback()
        if job["gate"] is not None:
            _listen(job["gate"], job["listen"])
        _furnish(job)
        _give_up_privileges(job["uid"])
        _die_with(job["parent"])
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and so would what we become
        os.execv(sys.argv[2], sys.argv[2:])
    except OSError as error:
        doing = f" {error.filename}:" if error.filename else ""
        os.write(2, f"the enclosure of QEMU:{doing} {error.strerror}\n".encode())
    os._exit(REFUSED)


def _separate(*, own_user: bool) -> None:
    """New namespaces. An ordinary user needs one for users too, to be allowed the others; there it is itself."""
    user, group = os.geteuid(), os.getegid()
    spaces = _CLONE_NEWNET | _CLONE_NEWNS | (_CLONE_NEWUSER if own_user else 0)
    _check(_libc.unshare(spaces), "namespaces cannot be made")
    if own_user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _raise_loopback() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    request = struct.pack("16sh14x", b"lo", 0)
    _, flags = struct.unpack("16sh14x", fcntl.ioctl(sock.fileno(), _SIOCGIFFLAGS, request))
    fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    sock.close()


def _listen(channel: int, ports: list[tuple[str, int]]) -> None:
    """Listen on our loopback and hand the sockets to whoever started us, in the order of `ports`."""
    sockets = []
    for protocol, port in ports:
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        sock = socket.socket(socket.AF_INET, kind)
        sock.bind(("127.0.0.1", port))
        if protocol == "tcp":
            sock.listen(128)
        sockets.append(sock)
    with socket.socket(fileno=channel) as to:
        socket.send_fds(to, [b"g"], [sock.fileno() for sock in sockets])
    for sock in sockets:
        sock.close()


def _furnish(job: dict[str, Any]) -> None:
    """A root of our own with the program's own folders, read-only, and what it has to open by a path.

    Whoever takes over QEMU finds nothing else there, not even proc(5).
    """
    root, uid = job["root"], job["uid"]
    mask = os.umask(0o022)  # what is seen from within may be seen by whom we become
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NOEXEC, "mode=0755")
    for path in job["visible"]:
        _show(path, root)
    for name, source in job["files"].items():
        _lend(source, f"{root}/{name}", uid)
    for device in job["devices"]:
        _give_device(device, f"{root}{device}", uid)
    os.chdir(root)
    _check(_libc.syscall(_SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount")
    os.chdir("/")
    _protect("/", _MOUNT_ATTR_RDONLY)
    os.umask(mask)


def _show(path: str, root: str) -> None:
    """The folder `path` at the same place below `root`; or what it is a symbolic link to (/lib in a merged /usr)."""
    target = root + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    _mount(path, target, None, _MS_BIND | _MS_REC)
    _protect(target, _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV)


def _lend(source: str | int, target: str, uid: int | None) -> None:
    """A file to read, of a path or from a descriptor: itself if it can be shown, or else a copy in memory."""
    new = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o400)
    if isinstance(source, str) and (uid is None or os.stat(source).st_mode & stat.S_IROTH):
        _mount(source, target, None, _MS_BIND)
    else:
        old = os.open(source, os.O_RDONLY) if isinstance(source, str) else source
        while os.sendfile(new, old, None, 1 << 30):
            pass
        os.close(old)
        os.fchown(new, -1 if uid is None else uid, -1)
    os.close(new)


def _give_device(device: str, target: str, uid: int | None) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if uid is None:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
        _mount(device, target, None, _MS_BIND)
    else:  # root may use what belongs to root, but who we will be may not: a node of its own
        os.mknod(target, stat.S_IFCHR | 0o600, os.stat(device).st_rdev)
        os.chown(target, uid, -1)


def _give_up_privileges(uid: int | None) -> None:
    """Another user, for root; for an ordinary one exec(2) ends what it could do in its namespaces."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the guest's memory holds secrets


def _die_with(parent: int) -> None:
    """Arm it anew: who changes its user, or its namespace of users, forgets it. See prctl(2), PR_SET_PDEATHSIG."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "PDEATHSIG")
    if os.getppid() != parent:
        os._exit(REFUSED)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [word.encode() if word is not None else None for word in (source, target, kind, data)]
    result = _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
    _check(result, f"cannot mount {source or kind} at {target}")


def _protect(path: str, attributes: int) -> None:
    """Add attributes to a mount and all below it. See mount_setattr(2)."""
    changes = struct.pack("4Q", attributes, 0, 0, 0)
    result = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE, changes, len(changes))
    _check(result, f"cannot make {path} read-only")


def _check(result: int, doing: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), doing)


if __name__ == "__main__":
    main()
