"""The stream of a TCP connection to the machine itself."""

from __future__ import annotations

import posix
from errno import EINPROGRESS

from stereos_guest import frames, protocol
from stereos_guest.streams import Stream, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ConnectStream(Stream):
    """The bytes of a TCP connection to this machine itself. It ends when both directions have."""

    def start(self, host: str, port: int) -> None:
        """Begin to connect; the host is told when that is done. Raises OSError."""
        import _socket

        self._pending = True
        family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
        self._socket = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        error = self._socket.connect_ex((host, port))
        if error and error != EINPROGRESS:
            self._socket.close()
            raise OSError(error, posix.strerror(error))
        self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        self._loop.add(self._socket.fileno(), Watch(self._connected))

    def _connected(self) -> None:
        import _socket

        error = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if error:
            self._refuse(posix.strerror(error))
            return
        try:
            self._socket.getpeername()
        except OSError:
            return  # not yet
        self._pending = False
        self._loop.remove(self._socket.fileno())
        self._input = posix.dup(self._socket.fileno())
        self._loop.add(self._input, Watch(self._flush))
        self._add_output(frames.STDOUT, posix.dup(self._socket.fileno()))
        if self._session is not None:
            self._session.send(protocol.ack(protocol.CONNECT, id=self.id))
        self._flush()
        self._wake()

    def _refuse(self, reason: str) -> None:
        self._pending = False
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        session, self._session = self._session, None
        if session is not None:
            session.close_stream(self.id)
            session.send(protocol.ack(protocol.CONNECT, reason, self.id))

    def _fail(self, error: str) -> None:
        if self._pending:
            self._refuse(error or "cancelled")
            return
        self._error = self._error or error
        self._drop_outputs()
        self._close_input()
        self._end()

    def _end(self) -> None:
        self._over = True
        self._socket.close()
        self._wake()

    def _end_input(self) -> None:
        import _socket

        self._close_input()
        try:
            self._socket.shutdown(_socket.SHUT_WR)
        except OSError:
            pass  # it is closed already
        if not self._outputs:
            self._end()

    def _output_ended(self) -> None:
        if self._input < 0 and not self._over:
            self._end()

    def _exit(self) -> dict[str, Any]:
        ended = {"code": None if self._error else 0, "signal": None, "timed_out": False}
        return {**ended, "error": self._error} if self._error else ended
