"""The host's end of a stream: bytes both ways within credit, and the exit that the guest tells at its end.

What the guest sends is held until it is read, and it gets credit again only then: an unread stream stops what writes to
it in the guest, and no other stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from stereo.vm.answers import GuestError, printable
from stereos_guest import frames, protocol
from stereos_guest.protocol import Message, ProtocolError

if TYPE_CHECKING:
    from stereo.vm.control import Control

RECEIVE_WINDOW = 1 << 20  # bytes that may be held unread
_GRANT = RECEIVE_WINDOW // 4
_MOST_CREDIT = 1 << 40


@dataclass(frozen=True)
class Exit:
    """How it ended: with a `code`, or by a `signal` (its name without SIG), or neither where nothing was run.

    `error` says what went wrong beside that, such as why a program could not be started.
    """

    code: int | None
    signal: str | None
    timed_out: bool
    error: str


class Stream:
    """One open stream. Use it in `async with`: what is not over at the end of the block is cancelled.

    One task may read while another writes. Everything raises GuestError once the guest or the channel is gone.
    """

    def __init__(self, control: Control, outputs: Collection[str]) -> None:
        self.number = 0  # set once it is open
        self._control = control
        self._outputs = set(outputs)
        self._pieces: deque[tuple[str, bytes]] = deque()
        self._allowed = frames.INITIAL_WINDOW  # bytes that the guest may still send
        self._taken = RECEIVE_WINDOW - frames.INITIAL_WINDOW  # bytes read, or never allowed, and not yet granted
        self._credit = frames.INITIAL_WINDOW  # bytes that we may send
        self._wrote_eof = False
        self._exit: Exit | None = None
        self._failure: GuestError | None = None
        self._changed = asyncio.Event()

    # --- for who uses it ---

    async def read(self) -> tuple[str, bytes] | None:
        """The next piece of output, with "stdout" or "stderr"; None when no more will come. Raises GuestError."""
        while not self._pieces:
            if self._failure:
                raise self._failure
            if self._exit or not self._outputs:
                return None
            await self._change()
        name, data = self._pieces.popleft()
        self._taken += len(data)
        self._grant()
        return name, data

    async def write(self, data: bytes) -> None:
        """Send `data` to its stdin; returns when all has left. Raises GuestError if it has ended."""
        view = memoryview(data)
        while view:
            while self._credit <= 0:
                self._check_open()
                await self._change()
            self._check_open()
            piece = view[: min(frames.CHUNK, self._credit)]
            self._credit -= len(piece)
            self._control.send_data(self.number, frames.STDIN, bytes(piece))
            view = view[len(piece) :]
            await self._control.drain()

    async def write_eof(self) -> None:
        """Nothing more comes on its stdin."""
        if not self._wrote_eof and not self._over:
            self._wrote_eof = True
            await self._tell(protocol.EOF, {"stream": frames.STDIN})

    async def wait(self) -> Exit:
        """How it ended. Read all output first, or cancel: a program that nobody listens to may never end."""
        while self._exit is None:
            if self._failure:
                raise self._failure
            await self._change()
        return self._exit

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal's new size."""
        await self._tell(protocol.RESIZE, {"rows": rows, "cols": columns})

    async def signal(self, name: str) -> None:
        """Send it a signal, as "TERM"; with a terminal, to the foreground job."""
        await self._tell(protocol.SIGNAL, {"signal": name})

    async def cancel(self) -> None:
        """Kill what runs. The exit still comes."""
        await self._tell(protocol.CANCEL, {})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.forget(self.number)
        with suppress(GuestError):
            await self.cancel()
        self._pieces.clear()

    # --- for the conversation ---

    def opened(self, number: int) -> None:
        """See `control.Sink`."""
        self.number = number
        self._grant()

    def feed(self, message: Message) -> None:
        """A message of this stream. One that breaks the protocol fails this stream alone."""
        if self._over:
            return
        try:
            self._react(message)
        except ProtocolError as error:
            self.lost(GuestError(f"the guest broke the protocol of a stream: {printable(str(error))}"))
            self._control.forget(self.number)
            self._control.send(protocol.CANCEL, {}, self.number)
        self._changed.set()

    def lost(self, error: GuestError) -> None:
        """Nothing comes any more."""
        if not self._over:
            self._failure = error
        self._changed.set()

    # --- the rest ---

    @property
    def _over(self) -> bool:
        return self._exit is not None or self._failure is not None

    def _react(self, message: Message) -> None:
        if message.type == protocol.DATA:
            name, data = frames.content(message)
            if name not in self._outputs:
                raise ProtocolError(f"data of {name}, which it has not or which has ended")
            self._allowed -= len(data)
            if self._allowed < 0:
                raise ProtocolError("more data than was allowed")
            if data:
                self._pieces.append((name, data))
        elif message.type == protocol.EOF:
            self._outputs.discard(str(message.body().get("stream")))
        elif message.type == protocol.WINDOW:
            granted = message.body().get("bytes")
            if isinstance(granted, bool) or not isinstance(granted, int) or not 0 < granted <= _MOST_CREDIT:
                raise ProtocolError("a window that makes no sense")
            self._credit = min(self._credit + granted, _MOST_CREDIT)
        elif message.type == protocol.EXIT:
            self._exit = _exit_in(message.body())
            self._control.forget(self.number)
        else:
            raise ProtocolError(f"{message.type[:40]!r} in a stream")

    def _grant(self) -> None:
        if self._taken >= _GRANT and not self._over:
            self._control.send(protocol.WINDOW, {"bytes": self._taken}, self.number)
            self._allowed += self._taken
            self._taken = 0

    def _check_open(self) -> None:
        if self._failure:
            raise self._failure
        if self._exit:
            raise GuestError("the guest ended the stream")

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _tell(self, kind: str, payload: dict[str, Any]) -> None:
        if not self._over:
            self._control.send(kind, payload, self.number)
            await self._control.drain()


def outputs_of(kind: str, payload: Any) -> tuple[str, ...]:
    """What a stream of that request will write."""
    if kind == protocol.CONNECT or (kind == protocol.EXEC and payload.get("tty") is not None):
        return (frames.STDOUT,)
    return (frames.STDOUT, frames.STDERR)


def _exit_in(body: dict[str, Any]) -> Exit:
    code, signal, timed_out, error = (body.get(name) for name in ("code", "signal", "timed_out", "error"))
    if code is not None and (isinstance(code, bool) or not isinstance(code, int) or not 0 <= code <= 255):
        raise ProtocolError("an exit code that makes no sense")
    if signal is not None and not (isinstance(signal, str) and 0 < len(signal) <= 20 and signal.isprintable()):
        raise ProtocolError("an exit signal that makes no sense")
    if not isinstance(timed_out or False, bool) or not isinstance(error or "", str):
        raise ProtocolError("an exit that makes no sense")
    return Exit(code, signal, bool(timed_out), printable(error or ""))
