"""One conversation with a host, whatever carries it: lines in, handlers called in order, lines out."""

from __future__ import annotations

from stereos_guest import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    # A handler returns the line to answer with. It may raise ProtocolError, whose text becomes a failed ack.
    Handler = Callable[[protocol.Message], bytes]


class Session:
    """Feeds what the host sent to the handlers and gives back their answers.

    A stream that cannot be opened anew (virtio-serial) goes on after a line that is too long; on others, as in the
    original, such a line ends the connection: `closed` turns true and nothing after it is read.
    """

    __slots__ = ("_handlers", "_lines", "_survives_overlong", "closed")

    def __init__(self, handlers: Mapping[str, Handler], *, survives_overlong: bool) -> None:
        self._handlers = handlers
        self._survives_overlong = survives_overlong
        self._lines = protocol.LineReader()
        self.closed = False

    def receive(self, data: bytes) -> list[bytes]:
        """The answers to the requests that `data` completes."""
        answers = []
        for line in self._lines.feed(data):
            if line is None:
                if not self._survives_overlong:
                    self.closed = True
                    break
                answers.append(protocol.ack("", f"malformed JSON: line over {protocol.MAX_LINE} bytes"))
            elif line.strip():
                answers.append(self._answer(line))
        return answers

    def _answer(self, line: bytes) -> bytes:
        kind = ""
        try:
            message = protocol.decode(line)
            kind = message.type
            handler = self._handlers.get(kind)
            return handler(message) if handler else protocol.unknown_type(kind)
        except protocol.ProtocolError as error:
            return protocol.ack(kind, str(error))
