"""Streams: bytes both ways within credit, and one `exit` at the end. See `openers` for what opens them.

Nothing queues without bound. Output is read from its pipe only when the conversation asks for a line and the host has
given credit for it; so who does not read stops what writes, as in a shell pipeline, and nobody else. Input is granted
again as the program takes it.
"""

from __future__ import annotations

import posix

from stereos_guest import frames, protocol
from stereos_guest.protocol import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stereos_guest.loop import Loop
    from stereos_guest.protocol import Message
    from stereos_guest.session import Session

MOST_CREDIT = 1 << 40  # bytes
_GRANT = frames.INITIAL_WINDOW // 4  # taken bytes are granted again in pieces of this size
_LARGEST_TERMINAL = 0xFFFF


class Watch:
    """A `loop.Source` that only passes on that something happened."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def handle(self, events: int) -> bool:
        """See `loop.Source`."""
        self._callback()
        return False


class Output:
    """Something that the host is to get, read as far as its credit goes."""

    __slots__ = ("descriptor", "name", "ready")

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self.descriptor = descriptor
        self.ready = True  # until a read says that there is nothing for now


class Stream:
    """Credit, bytes both ways, and the end; what is at the other end of the descriptors is the subclasses' affair."""

    def __init__(self, number: int, session: Session, loop: Loop) -> None:
        self.id = number
        self._loop = loop
        self._session: Session | None = session  # None once nobody listens any more
        self._raw = frames.RAW in session.features
        self._outputs: list[Output] = []
        self._credit = frames.INITIAL_WINDOW  # bytes that we may send
        self._room = frames.INITIAL_WINDOW  # bytes that the host may send
        self._taken = 0  # bytes that were taken and not yet granted again
        self._input = -1
        self._waiting = bytearray()  # input that did not fit yet
        self._input_ends = False
        self._over = False  # nothing can come any more but what is in the pipes
        self._error = ""

    # --- to the host ---

    def take(self) -> bytes | None:
        """The next line for the host within its credit, or None if there is none now."""
        if self._session is None:
            return None
        for output in self._outputs:
            if output.ready and self._credit > 0:
                line = self._read(output)
                if line:
                    # The others come first the next time. The list is not gone through any further.
                    if output in self._outputs:
                        self._outputs.remove(output)
                        self._outputs.append(output)
                    return line
        if self._over and not self._outputs:
            session, self._session = self._session, None
            session.close_stream(self.id)
            return protocol.encode(protocol.EXIT, self._exit(), self.id)
        return None

    def _read(self, output: Output) -> bytes | None:
        try:
            data = posix.read(output.descriptor, min(frames.CHUNK, self._credit))
        except BlockingIOError:
            output.ready = False
            if not self._over:
                return None
            data = b""  # somebody was left behind with its other end; the host does not wait for them
        except OSError:
            data = b""  # as a terminal tells that nobody has it open any more, or a socket that it was reset
        if data:
            self._credit -= len(data)
            return frames.encode(self.id, output.name, data, self._raw)
        self._outputs.remove(output)
        self._close(output.descriptor)
        self._output_ended()
        return protocol.encode(protocol.EOF, {"stream": output.name}, self.id)

    def _add_output(self, name: str, descriptor: int) -> None:
        output = Output(name, descriptor)

        def readable() -> None:
            output.ready = True
            self._wake()

        self._outputs.append(output)
        self._loop.add(descriptor, Watch(readable))

    def _drop_outputs(self) -> None:
        for output in self._outputs:
            self._close(output.descriptor)
        self._outputs.clear()

    def _wake(self) -> None:
        if self._session is not None:
            self._session.wake()

    # --- from the host ---

    def receive(self, message: Message) -> None:
        """A message of this stream. What the protocol does not allow ends the stream, and `exit` tells why."""
        try:
            self._react(message)
        except ProtocolError as error:
            self._fail(str(error))

    def _react(self, message: Message) -> None:
        kind = message.type
        if kind == protocol.DATA:
            self._take_in(*frames.content(message))
        elif kind == protocol.WINDOW:
            self._credit = min(self._credit + whole_number(message.body(), "bytes", MOST_CREDIT), MOST_CREDIT)
            self._wake()
        elif kind == protocol.EOF:
            self._input_ends = True
            self._flush()
        elif kind == protocol.CANCEL:
            self._fail("")
        elif kind == protocol.RESIZE:
            self._resize(*size_in(message.body()))
        elif kind == protocol.SIGNAL:
            self._signal(message.body().get("signal"))

    def _take_in(self, stream: str, data: bytes) -> None:
        if stream != frames.STDIN:
            raise ProtocolError(f"a host does not send {stream}")
        self._room -= len(data)
        if self._room < 0:
            raise ProtocolError("more data than the window allows")
        if self._input < 0 or self._input_ends:
            self._grant(len(data))  # nobody takes it any more; that must not stop the host
            return
        self._waiting += data
        self._flush()

    def _flush(self) -> None:
        if self._input < 0:
            return
        taken = 0
        try:
            while self._waiting:
                written = posix.write(self._input, self._waiting)
                del self._waiting[:written]
                taken += written
        except BlockingIOError:
            pass
        except OSError:  # it closed its end
            taken += len(self._waiting)
            self._waiting.clear()
            self._input_ends = True
        if taken:
            self._grant(taken)
        if self._input_ends and not self._waiting:
            self._end_input()

    def _grant(self, taken: int) -> None:
        self._taken += taken
        if self._taken >= _GRANT and self._session is not None:
            self._session.send(protocol.encode(protocol.WINDOW, {"bytes": self._taken}, self.id))
            self._room += self._taken
            self._taken = 0

    def _close_input(self) -> None:
        if self._input >= 0:
            self._close(self._input)
            self._input = -1
        self._waiting.clear()

    def _close(self, descriptor: int) -> None:
        self._loop.remove(descriptor)
        posix.close(descriptor)

    # --- what subclasses do ---

    def abandon(self) -> None:
        """The host is gone: end everything, tell nobody."""
        self._session = None
        self._fail("abandoned")

    def _fail(self, error: str) -> None:
        raise NotImplementedError

    def _exit(self) -> dict[str, Any]:
        raise NotImplementedError

    def _end_input(self) -> None:
        self._close_input()

    def _output_ended(self) -> None:
        pass

    def _resize(self, rows: int, columns: int) -> None:
        pass

    def _signal(self, name: Any) -> None:
        pass


def whole_number(body: dict[str, Any], name: str, most: int) -> int:
    """A number from 1 to `most`. Raises ProtocolError."""
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise ProtocolError(f"{name} is not a number from 1 to {most}")
    return value


def size_in(body: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns of a terminal. Raises ProtocolError."""
    return whole_number(body, "rows", _LARGEST_TERMINAL), whole_number(body, "cols", _LARGEST_TERMINAL)
