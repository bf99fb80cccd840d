"""Every way in beside the virtio port: vsock, TCP if the host asked for it at boot, and the administrator's HTTP."""

from __future__ import annotations

import _socket
import posix

from stereos_guest import files, sockets
from stereos_guest.api import SOCKET, Api
from stereos_guest.helpers import Helpers
from stereos_guest.http import HttpServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stereos_guest.requests import Requests
    from stereos_guest.session import Session
    from stereos_guest.stereosd import Daemon

TOKEN = "/run/credentials/@system/stereos.control-token"
"""The credential (systemd.system-credentials(7)) by which a host asks for TCP, and what a `hello` must bring there."""

GROUP = "admin"
_FOLDERS = (("/run/stereos", 0o750, GROUP), ("/run/stereos/secrets", 0o700, ""), ("/etc/stereos", 0o755, ""))
_LONGEST_TOKEN = 4096
_TCP_IDLE_SECONDS = 600.0
# What this machine sends to itself comes in by lo: nothing that runs here may even knock.
_OPEN_PORT = (
    f"insert rule inet stereos input iif lo tcp dport {sockets.PORT} drop; "
    f"add element inet stereos inbound_tcp {{ {sockets.PORT} }}"
)


def token(root: str) -> str:
    """The token that the host gave at boot; empty if it gave none."""
    try:
        return files.read(root + TOKEN, _LONGEST_TOKEN).strip()
    except OSError:
        return ""


def make_folders(root: str) -> None:
    """Make the folders of the daemon, with the modes that they must have whoever made them."""
    for path, mode, group in _FOLDERS:
        try:
            posix.mkdir(root + path, 0o700)
        except FileExistsError:
            pass
        if group:
            sockets.give_to_group(root + path, group, mode)
        else:
            posix.chmod(root + path, mode)


def open_all(daemon: Daemon, requests: Requests, token: str) -> None:
    """Open what there is to open. A way in that cannot be opened is no reason to close the others."""
    _try(SOCKET, lambda: HttpServer(daemon.loop, daemon.root + SOCKET, GROUP, Api(requests).respond))
    if daemon.root:
        return  # a test: vsock and TCP are the machine's
    _try("vsock", lambda: listen_vsock(daemon))
    if token:

        def opened(error: str) -> None:
            if error:
                _complain("TCP", error)
            else:
                _try("TCP", lambda: listen_tcp(daemon, sockets.tcp()))

        Helpers(daemon.loop)(["/usr/sbin/nft", _OPEN_PORT], opened)


def listen_vsock(daemon: Daemon) -> sockets.Listener:
    """Talk to the host of this machine, and to no other address. Raises OSError where there is no vsock."""

    def welcome(peer: Any, wake: Callable[[], None]) -> Session | None:
        return daemon.hosts.open(wake) if peer[0] == sockets.HOST_CID else None

    return sockets.Listener(daemon.loop, sockets.vsock(), welcome)


def listen_tcp(daemon: Daemon, listening: _socket.socket) -> sockets.Listener:
    """Talk to who knows the token."""

    def welcome(peer: Any, wake: Callable[[], None]) -> Session:
        session = daemon.hosts.open(wake, locked=True)
        session.idle_seconds = _TCP_IDLE_SECONDS
        return session

    return sockets.Listener(daemon.loop, listening, welcome)


def _try(name: str, do: Callable[[], object]) -> None:
    try:
        do()
    except OSError as error:
        _complain(name, str(error.strerror))


def _complain(name: str, error: str) -> None:
    posix.write(2, f"{name}: {error}\n".encode())
