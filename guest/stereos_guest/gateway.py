"""The gateway of a machine without a network card: who connects to it is led on to the host, by vsock.

    gateway ADDRESS PORT...

It listens on ADDRESS, which the machine itself has (`interface.add_to_loopback`), where another has a gateway outside:
each TCP PORT goes to the host's vsock port of the same number. Queries of DNS by UDP go as DNS by TCP (RFC 7766) to
port 53, if that is one of them. It decides nothing: what the host serves is the host's to decide, and whoever knows
vsock(7) gets no further without it. `stereos-gateway.service` runs it, as nobody in particular.
"""

from __future__ import annotations

import _socket
import posix
from errno import EINPROGRESS, ETIMEDOUT
from time import monotonic

from stereos_guest.loop import Loop
from stereos_guest.sockets import HOST_CID
from stereos_guest.stereosd import notify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from stereos_guest.loop import Source

DNS = 53
_MOST_PAIRS = 512
_MOST_QUERIES = 64
_LARGEST_QUERY = 4096  # bytes; the host takes none that is larger
_QUERY_SECONDS = 10.0
_SWEEP_SECONDS = 2.0
_CHUNK = 1 << 15
_ROUNDS_PER_TURN = 8
_ACCEPTS_PER_TURN = 16
_BACKLOG = 128
_MOST_TRIES = 8  # the kernel gives the host 2 s to answer, short for an emulated machine on a busy one
_RESET = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 seconds


def to_host(port: int) -> _socket.socket:
    """A socket that is being connected to the host's vsock port. Raises OSError."""
    sock = _socket.socket(_socket.AF_VSOCK, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    error = sock.connect_ex((HOST_CID, port))
    if error and error != EINPROGRESS:
        sock.close()
        raise OSError(error, posix.strerror(error))
    return sock


class _Host:
    """A connection to the host that comes to be; `source` hears in the loop what happens to it."""

    def __init__(self, loop: Loop, port: int, source: Source) -> None:
        self._loop, self._port, self._source = loop, port, source
        self._tries = 0
        self._connected = False
        self._begin()

    def _begin(self) -> None:
        self._tries += 1
        self.sock = to_host(self._port)
        self._loop.add(self.sock.fileno(), self._source)

    def connected(self) -> bool:
        """Whether it is connected by now. Raises OSError if it never will be."""
        if self._connected:
            return True
        error = self.sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if error == ETIMEDOUT and self._tries < _MOST_TRIES:
            self.close()
            self._begin()
            return False
        if error:
            raise OSError(error, posix.strerror(error))
        try:
            self.sock.getpeername()
        except OSError:
            return False
        self._connected = True
        return True

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self._loop.remove(self.sock.fileno())
            self.sock.close()


class _Way:
    """One direction: what was read from one socket and not yet written to the other."""

    __slots__ = ("_ended", "_from", "_to", "_unsent", "over")

    def __init__(self, source: _socket.socket, target: _socket.socket) -> None:
        self._from, self._to = source, target
        self._unsent = b""
        self._ended = False
        self.over = False  # all was passed on, and that there is no more

    def move(self) -> bool:
        """Pass on what there is; True if there may be more at once. Raises OSError."""
        for _ in range(_ROUNDS_PER_TURN):
            try:
                if not self._unsent and not self._ended:
                    self._unsent = self._from.recv(_CHUNK)
                    self._ended = not self._unsent
                if self._unsent:
                    self._unsent = self._unsent[self._to.send(self._unsent) :]
            except BlockingIOError:
                return False
            if self._ended and not self._unsent:
                if not self.over:
                    self.over = True
                    try:
                        self._to.shutdown(_socket.SHUT_WR)
                    except OSError:
                        pass  # it heard enough, and is gone
                return False
        return True


class _Pair:
    """Who connected, and the host: the source of both descriptors in the loop. Raises OSError."""

    def __init__(self, gateway: Gateway, near: _socket.socket, port: int) -> None:
        self._gateway, self._near = gateway, near
        self._ways: tuple[_Way, ...] = ()
        self._host = _Host(gateway.loop, port, self)
        gateway.loop.add(near.fileno(), self)

    def handle(self, events: int) -> bool:
        """See `loop.Source`."""
        try:
            if not self._host.connected():
                return False
            if not self._ways:
                self._ways = (_Way(self._near, self._host.sock), _Way(self._host.sock, self._near))
            more = [way.move() for way in self._ways]
        except OSError:
            # Not an end like any other: what was cut off must not look whole.
            self._near.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _RESET)
            self.close()
            return False
        if all(way.over for way in self._ways):
            self.close()
        return any(more)

    def close(self) -> None:
        self._gateway.pairs.discard(self)
        self._gateway.loop.remove(self._near.fileno())
        self._near.close()
        self._host.close()


class _Door:
    """A listening TCP socket."""

    def __init__(self, gateway: Gateway, listening: _socket.socket, port: int) -> None:
        self._gateway, self._listening, self._port = gateway, listening, port
        gateway.loop.add(listening.fileno(), self)

    def handle(self, events: int) -> bool:
        """See `loop.Source`."""
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                descriptor, _peer = self._listening._accept()  # type: ignore[attr-defined]  # as `socket.accept` does
            except BlockingIOError:
                return False
            except OSError:
                continue  # it was gone before we came, or this process has no descriptor left
            near = _socket.socket(fileno=descriptor)
            near.setblocking(False)
            self._gateway.lead(near, self._port)
        return True


class _Names:
    """The UDP socket that is asked for names."""

    def __init__(self, gateway: Gateway, listening: _socket.socket) -> None:
        self._gateway, self.listening = gateway, listening
        self.queries: set[_Query] = set()
        gateway.loop.add(listening.fileno(), self)

    def handle(self, events: int) -> bool:
        """See `loop.Source`."""
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                query, peer = self.listening.recvfrom(_LARGEST_QUERY + 1)
            except BlockingIOError:
                return False
            except OSError:
                continue
            # Dropped if it is one too many, as networks do: who asks asks again.
            if query and len(query) <= _LARGEST_QUERY and len(self.queries) < _MOST_QUERIES:
                self._pass_on(query, peer)
        return True

    def _pass_on(self, query: bytes, peer: Any) -> None:
        try:
            one = _Query(self._gateway.loop, self, query, peer)
        except OSError:
            return
        if not self.queries:
            self._gateway.loop.later(_SWEEP_SECONDS, self._sweep)
        self.queries.add(one)

    def _sweep(self) -> None:
        now = monotonic()
        for query in tuple(self.queries):
            if now - query.began > _QUERY_SECONDS:
                query.close()
        if self.queries:
            self._gateway.loop.later(_SWEEP_SECONDS, self._sweep)


class _Query:
    """One query on its way, and the answer. Raises OSError."""

    def __init__(self, loop: Loop, names: _Names, query: bytes, peer: Any) -> None:
        self.began = monotonic()
        self._names, self._peer = names, peer
        self._unsent = len(query).to_bytes(2, "big") + query
        self._heard = b""
        self._host = _Host(loop, DNS, self)

    def handle(self, events: int) -> bool:
        """See `loop.Source`."""
        try:
            if self._host.connected() and self._exchange():
                self.close()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        return False

    def _exchange(self) -> bool:
        """Whether it is done. Raises OSError, BlockingIOError among them."""
        while self._unsent:
            self._unsent = self._unsent[self._host.sock.send(self._unsent) :]
        while True:
            piece = self._host.sock.recv(_CHUNK)
            self._heard += piece
            length = int.from_bytes(self._heard[:2], "big")
            if len(self._heard) >= 2 + length > 2:
                self._names.listening.sendto(self._heard[2 : 2 + length], self._peer)
                return True
            if not piece:
                return True

    def close(self) -> None:
        self._names.queries.discard(self)
        self._host.close()


class Gateway:
    """All that is led on."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.pairs: set[_Pair] = set()

    def listen(self, address: str, ports: Sequence[int]) -> None:
        """Be where they are looked for. Raises OSError."""
        for port in ports:
            sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen(_BACKLOG)
            _Door(self, sock, port)
        if DNS in ports:
            sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
            sock.bind((address, DNS))
            _Names(self, sock)

    def lead(self, near: _socket.socket, port: int) -> None:
        """Lead a connection on, or turn it away."""
        try:
            if len(self.pairs) >= _MOST_PAIRS:
                raise BlockingIOError
            self.pairs.add(_Pair(self, near, port))
        except OSError:
            near.close()


def main(arguments: Sequence[str]) -> int:
    """Serve until killed."""
    gateway = Gateway(Loop())
    gateway.listen(arguments[0], [int(word) for word in arguments[1:]])
    notify(b"READY=1", posix.environ.get(b"NOTIFY_SOCKET"))
    gateway.loop.run()
    return 0
