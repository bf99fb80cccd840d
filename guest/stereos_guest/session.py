"""One conversation with a host, whatever carries it: lines in, handlers called, lines out when there is room.

A request without a number is answered in order, as the original does: one whose answer takes time holds up those behind
it. A request with a number holds up nothing.

What carries the session pulls its output by `take`. So nothing is made before somebody can take it, streams get turns
of one line each, and the answers to requests go before all of them.
"""

from __future__ import annotations

from stereos_guest import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Protocol

    from stereos_guest.loop import Loop

    # A handler returns the line to answer with, or None if it (or whatever it began) calls `Session.answer` later.
    # It may raise ProtocolError, whose text becomes a failed ack.
    Handler = Callable[[protocol.Message, "Session"], bytes | None]

    class Stream(Protocol):
        """What an opener of the protocol began; it goes on until `exit`."""

        def receive(self, message: protocol.Message) -> None:
            """Take `data`, `eof`, `window`, `resize`, `signal` or `cancel`. May raise ProtocolError."""

        def take(self) -> bytes | None:
            """One line to send, or None while there is none or the host gave no credit for it."""

        def abandon(self) -> None:
            """The host is gone: end everything."""


MOST_STREAMS = 64
_REQUESTS_PER_TURN = 32
_OUTPUT_FULL = 1 << 16  # bytes of answers; with this many unsent no request is handled: the host must take them first
_MOST_PUSHES = 1000
_LOCKED_SECONDS = 10.0
_STREAM_MESSAGES = frozenset(
    (protocol.DATA, protocol.EOF, protocol.WINDOW, protocol.RESIZE, protocol.SIGNAL, protocol.CANCEL)
)


class Session:
    """Feeds what the host sent to the handlers, and gives back answers, pushes and the output of streams.

    `survives_overlong`: what carries it cannot be opened anew (virtio-serial), so it goes on after a line that is too
    long; otherwise, as in the original, such a line ends the session. `locked`: nothing but a `hello` that unlocks it
    is answered. `closed` means that what carries it should send what is left and hang up. `wake` is called when there
    is something new to take, or requests can be handled again.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        loop: Loop | None = None,
        *,
        survives_overlong: bool = False,
        locked: bool = False,
    ) -> None:
        self.loop = loop
        self.features: Collection[str] = ()  # agreed on by `hello`; empty: the host knows nothing of our extension
        self.greeted = False
        self.locked = locked
        self.closed = False
        self.wake: Callable[[], None] = _nothing
        self.on_end: Callable[[], None] = _nothing
        self.decode: Callable[[bytes], protocol.Message] = protocol.decode
        self.idle_seconds: float | None = None
        self._handlers = handlers
        self._survives_overlong = survives_overlong
        self._lines = protocol.LineReader()
        self._requests: list[bytes | None] = []  # the next one is the last
        self._waiting = False  # for the answer to a request without a number
        self._output = bytearray()
        self._pushes: dict[str, bytes] = {}
        self._streams: dict[int, Stream] = {}  # in the order of their turns

    # --- for what carries the session ---

    @property
    def patience(self) -> float | None:
        """Seconds without a byte after which a connection is closed; None: never."""
        return _LOCKED_SECONDS if self.locked else self.idle_seconds

    @property
    def owes(self) -> bool:
        """Whether those seconds run though bytes come: until the `hello` that unlocks."""
        return self.locked

    @property
    def hungry(self) -> bool:
        """Whether more of what the host sent should be read. Without handlers, which come after ready, nothing is."""
        return bool(self._handlers) and not (
            self.closed or self._requests or self._waiting or len(self._output) > _OUTPUT_FULL
        )

    def receive(self, data: bytes) -> None:
        """Bytes from the host. What they ask for is done by `work`."""
        self._requests[:0] = reversed(self._lines.feed(data))

    def work(self) -> bool:
        """Handle some of the requests that are there. True if more can be handled at once, in another turn."""
        for _ in range(_REQUESTS_PER_TURN):
            if not self._requests or self._stuck:
                return False
            self._handle(self._requests.pop())
        return bool(self._requests)

    @property
    def _stuck(self) -> bool:
        return self.closed or self._waiting or len(self._output) > _OUTPUT_FULL

    def take(self, room: int) -> bytes:
        """What to send next, about `room` bytes of it; empty while there is nothing."""
        taken = bytearray(self._output[:room])
        del self._output[:room]
        while self._pushes and len(taken) < room:
            taken += self._pushes.pop(next(iter(self._pushes)))
        idle = 0
        while idle < len(self._streams) and len(taken) < room:
            number, stream = next(iter(self._streams.items()))
            del self._streams[number]
            self._streams[number] = stream  # its turn comes again after everybody else's
            line = stream.take()
            idle = 0 if line else idle + 1
            taken += line or b""
        return bytes(taken)

    def end(self) -> None:
        """The host is gone."""
        self.closed = True
        self._requests.clear()
        self._output.clear()
        self._pushes.clear()
        self._abandon_streams()
        self.on_end()

    # --- for handlers and streams ---

    def send(self, line: bytes) -> None:
        """Send an answer, before the output of all streams."""
        if not self.closed:
            self._output += line
            self.wake()

    def answer(self, message: protocol.Message, line: bytes) -> None:
        """Send the answer to a request whose handler returned None."""
        if not message.id:
            self._waiting = False
        self.send(line)

    def push(self, subject: str, line: bytes) -> None:
        """Send news about `subject`, in place of older news about it that the host did not take yet."""
        if self.closed or self.locked:
            return
        self._pushes[subject] = line
        if len(self._pushes) > _MOST_PUSHES:
            del self._pushes[next(iter(self._pushes))]
        self.wake()

    def open(self, number: int, stream: Stream) -> None:
        """Let `stream` take part until `close_stream`. Raises ProtocolError."""
        self.check_number(number)
        self._streams[number] = stream

    def check_number(self, number: int) -> None:
        """Whether a stream of that number can be opened now. Raises ProtocolError if not."""
        if not number:
            raise protocol.ProtocolError("a stream needs an id")
        if number in self._streams:
            raise protocol.ProtocolError(f"stream {number} is open already")
        if len(self._streams) >= MOST_STREAMS:
            raise protocol.ProtocolError(f"{MOST_STREAMS} streams are open already")

    def close_stream(self, number: int) -> None:
        """Forget a stream. What the host still says to it is ignored: it could not know."""
        self._streams.pop(number, None)

    def greet(self, features: Collection[str], decode: Callable[[bytes], protocol.Message] = protocol.decode) -> None:
        """The host said `hello`: from now on lines are read by `decode`.

        On a port that outlives hosts, it may be another one than before: no stream is left.
        """
        self._abandon_streams()
        self.greeted = True
        self.locked = False
        self.features = features
        self.decode = decode

    def _handle(self, line: bytes | None) -> None:
        if line is None:
            if self._survives_overlong and not self.locked:
                self._output += protocol.ack("", f"malformed JSON: line over {protocol.MAX_LINE} bytes")
            else:
                self.closed = True
        elif line.strip():
            self._output += self._answer(line)

    def _answer(self, line: bytes) -> bytes:
        kind, number = "", 0
        try:
            message = self.decode(line)
            kind, number = message.type, message.id
            if self.locked and kind != protocol.HELLO:
                raise protocol.ProtocolError("this connection needs a token")
            if not self.greeted and kind not in protocol.ORIGINAL and kind != protocol.HELLO:
                return protocol.unknown_type(kind, number)
            if kind in _STREAM_MESSAGES:
                return self._to_stream(message)
            handler = self._handlers.get(kind)
            if not handler:
                return protocol.unknown_type(kind, number)
            self._waiting = not number  # until `answer`, which the handler may call at once
            answer = handler(message, self)
            if answer is None:
                return b""
            self._waiting = False
            return answer
        except protocol.ProtocolError as error:
            refusal = str(error)
        except OSError as error:
            refusal = f"{error.filename or 'the machine'}: {error.strerror}"
        self._waiting = False
        self.closed = self.closed or self.locked
        return protocol.ack(kind, refusal, number)

    def _to_stream(self, message: protocol.Message) -> bytes:
        if not message.id:
            raise protocol.ProtocolError(f"{message.type} needs an id")
        stream = self._streams.get(message.id)
        if stream:
            stream.receive(message)
        return b""

    def _abandon_streams(self) -> None:
        while self._streams:
            self._streams.popitem()[1].abandon()


def _nothing() -> None:
    """Nobody carries the session yet."""
