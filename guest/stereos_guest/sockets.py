"""Listening sockets: who may connect, how many at once, and how long one may say nothing.

Unix sockets, vsock(7) and TCP differ only in how they are opened; what a connection then says is a `wire.Conversation`.
"""

from __future__ import annotations

import _socket
import posix
from select import EPOLLERR, EPOLLHUP
from time import monotonic

from stereos_guest.wire import ENDED, MORE, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from stereos_guest.loop import Loop
    from stereos_guest.wire import Conversation

    class Visit(Conversation, Protocol):
        """A conversation over a connection, which ends when the connection does."""

        @property
        def patience(self) -> float | None:
            """Seconds without a byte after which the connection is closed; None: never."""

        @property
        def owes(self) -> bool:
            """Whether the peer has to finish something (a request, a `hello`) within that time, byte by byte or not."""

        def end(self) -> None:
            """The connection is gone."""


MOST_CONNECTIONS = 64
HOST_CID = 2  # VMADDR_CID_HOST, vsock(7)
PORT = 1024
_BACKLOG = 64
_ACCEPTS_PER_TURN = 16
_SWEEP_SECONDS = 2.0


class Listener:
    """A listening socket and its connections. `welcome` makes what talks to a peer, or None to turn it away.

    It gets the peer's address, and what to call when there is something new to write.
    """

    def __init__(
        self, loop: Loop, listening: _socket.socket, welcome: Callable[[Any, Callable[[], None]], Visit | None]
    ) -> None:
        listening.setblocking(False)
        self._loop = loop
        self._listening = listening
        self._welcome = welcome
        self._connections: set[_Connection] = set()
        loop.add(listening.fileno(), self)

    def handle(self, events: int) -> bool:
        """See `loop.Source`."""
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                descriptor, peer = self._listening._accept()  # type: ignore[attr-defined]  # as `socket.accept` does
            except BlockingIOError:
                return False
            except OSError:
                continue  # it was gone before we came, or this process has no descriptor left
            self._admit(descriptor, peer)
        return True

    def close(self) -> None:
        """Stop listening, and hang up on everybody."""
        self._loop.remove(self._listening.fileno())
        self._listening.close()
        for connection in tuple(self._connections):
            connection.close()

    def _admit(self, descriptor: int, peer: Any) -> None:
        visit = None
        if len(self._connections) < MOST_CONNECTIONS:
            visit = self._welcome(peer, lambda: self._loop.soon(descriptor))
        if visit is None:
            posix.close(descriptor)
            return
        posix.set_blocking(descriptor, False)
        connection = _Connection(self._loop, descriptor, visit, self._connections.discard)
        if not self._connections:
            self._loop.later(_SWEEP_SECONDS, self._sweep)
        self._connections.add(connection)
        self._loop.add(descriptor, connection)

    def _sweep(self) -> None:
        now = monotonic()
        for connection in tuple(self._connections):
            connection.close_if_idle(now)
        if self._connections:
            self._loop.later(_SWEEP_SECONDS, self._sweep)


class _Connection:
    def __init__(self, loop: Loop, descriptor: int, visit: Visit, on_closed: Callable[[_Connection], None]) -> None:
        self._loop = loop
        self._wire = Wire(descriptor)
        self._visit = visit
        self._on_closed = on_closed
        self._last = monotonic()

    def handle(self, events: int) -> bool:
        if not self._visit.owes:
            self._last = monotonic()
        try:
            done = self._wire.pump(self._visit)
        except OSError:
            done = ENDED
        if done == ENDED or (done != MORE and events & (EPOLLHUP | EPOLLERR)):
            self.close()
        return done == MORE

    def close_if_idle(self, now: float) -> None:
        patience = self._visit.patience
        if patience is not None and now - self._last > patience:
            self.close()

    def close(self) -> None:
        self._loop.remove(self._wire.descriptor)
        posix.close(self._wire.descriptor)
        self._visit.end()
        self._on_closed(self)


def unix(path: str, group: str) -> _socket.socket:
    """A socket at `path` for root and `group` (0660), in place of one that a former process left. Raises OSError."""
    try:
        posix.unlink(path)
    except FileNotFoundError:
        pass
    listening = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    before = posix.umask(0o177)
    try:
        listening.bind(path)
    finally:
        posix.umask(before)
    give_to_group(path, group, 0o660)
    listening.listen(_BACKLOG)
    return listening


def give_to_group(path: str, group: str, mode: int) -> None:
    """Let root's `group` at `path`, as far as `mode` says. Where there is no such group, it stays root's alone."""
    import grp  # not needed before ready

    try:
        posix.chown(path, 0, grp.getgrnam(group).gr_gid)
    except (KeyError, PermissionError):
        return
    posix.chmod(path, mode)


def vsock() -> _socket.socket:
    """The port of the original on every address that this machine has. Raises OSError where it has none."""
    listening = _socket.socket(_socket.AF_VSOCK, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    listening.bind((_socket.VMADDR_CID_ANY, PORT))
    listening.listen(_BACKLOG)
    return listening


def tcp(address: str = "0.0.0.0", port: int = PORT) -> _socket.socket:
    """The port of the original on all networks: what NAT forwards comes from outside. Raises OSError."""
    listening = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    listening.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listening.bind((address, port))
    listening.listen(_BACKLOG)
    return listening
