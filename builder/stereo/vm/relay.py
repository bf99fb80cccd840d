"""Passes a client's conversation on to the guest: many clients share the one channel, each as if it had its own.

The client speaks the guest's own protocol. Numbers are exchanged, for the guest knows only ours; streams are passed on
with their windows, end to end, so nothing of them is held here but what is on its way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from typing import Any

from stereo.errors import StereoError
from stereo.vm.control import FEATURES, Control, GuestError, RefusedError
from stereo.vm.machine import Channel
from stereos_guest import frames, protocol
from stereos_guest.protocol import LineReader, Message, ProtocolError

Send = Callable[[Mapping[str, Any]], None]
Handler = Callable[[Mapping[str, Any], Send], Awaitable[Mapping[str, Any]]]
"""Answers a request of a type of the host's own, which is the type of its answers as well.

It gets the body and a function that sends a body before the last one. A StereoError that it raises refuses the request.
"""

MOST_ON_THE_WAY = 2 << 20  # bytes that a client may ask for in advance, per stream
_MOST_AT_ONCE = 128  # requests and streams of one client
_CHUNK = 1 << 16
_SLOW = 1 << 20  # bytes; a client that left so much unread misses news
_REQUEST_SECONDS = 60.0
_ANSWERS = {
    protocol.PING: protocol.PONG,
    protocol.GET_HEALTH: protocol.HEALTH,
    protocol.LIST_SECRETS: protocol.SECRETS,
    protocol.LIST_MOUNTS: protocol.MOUNTS,
    protocol.LIST_AGENTS: protocol.AGENTS,
    protocol.SSH_HOST_KEY: protocol.SSH_HOST_KEY,
}
_TO_STREAMS = (protocol.DATA, protocol.EOF, protocol.WINDOW, protocol.RESIZE, protocol.SIGNAL, protocol.CANCEL)

log = logging.getLogger(__name__)


async def serve(
    client: Channel,
    control: Control,
    local: Mapping[str, Handler],
    allowed: Collection[str],
    note: Callable[[str, Mapping[str, Any]], None] = lambda kind, body: None,
) -> None:
    """Serve one client until it leaves; then what it left running in the guest's streams is cancelled.

    `control` has said hello. Types of `local` are answered here, those of `allowed` by the guest; others are refused.
    `note` hears of each request before anything is done about it.
    """
    relay = _Relay(client, control, local, allowed, note)
    try:
        await relay.run()
    finally:
        relay.end()


class _Relay:
    def __init__(
        self,
        client: Channel,
        control: Control,
        local: Mapping[str, Handler],
        allowed: Collection[str],
        note: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self.control = control
        self.raw = False
        self.streams: dict[int, _Passage] = {}  # by the client's number
        self._client = client
        self._local = local
        self._allowed = allowed
        self._note = note
        self._tasks: set[asyncio.Task[None]] = set()
        self._greeted = False

    async def run(self) -> None:
        lines = LineReader()
        while True:
            try:
                data = await self._client.reader.read(_CHUNK)
                await self._client.writer.drain()
            except ConnectionError:
                return
            if not data:
                return
            for line in lines.feed(data):
                if line is None:
                    return
                if line.strip():
                    await self._take(line)

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for passage in tuple(self.streams.values()):
            passage.cancel()
        self._client.writer.close()

    def send(self, line: bytes) -> None:
        if not self._client.writer.is_closing():
            self._client.writer.write(line)

    async def _take(self, line: bytes) -> None:
        kind, number = "", 0
        try:
            message = frames.decode(line)
            kind, number = message.type, message.id
            if kind in _TO_STREAMS:
                if passage := self.streams.get(number):
                    passage.from_client(message)
                    await self.control.drain()
                return
            if kind == protocol.HELLO:
                self._greet(message)
                return
            if kind not in self._local and kind not in self._allowed:
                self.send(protocol.unknown_type(kind, number))
                return
            if len(self._tasks) + len(self.streams) >= _MOST_AT_ONCE:
                raise ProtocolError("too many requests at once")
            self._note(kind, message.body() if message.has_payload else {})
            if kind in protocol.OPENERS:
                self._open(message)
                return
            task = self._begin(self._answer(message))
            if not number:
                await asyncio.wait([task])  # without numbers, answers are told apart by their order
        except ProtocolError as error:
            self.send(protocol.ack(kind, str(error), number))

    def _greet(self, message: Message) -> None:
        body = message.body()
        if body.get("version") != protocol.VERSION or not isinstance(body.get("features", []), list):
            raise ProtocolError(f"this side speaks version {protocol.VERSION}")
        if self.control.greeting is None:
            raise ProtocolError("the guest's daemon is being started anew")
        features = (self.control.greeting.features - {frames.RAW}) | set(FEATURES)
        self.raw = frames.RAW in body.get("features", [])
        answer = {"version": protocol.VERSION, "features": sorted(features), "software": "stereo"}
        self.send(protocol.encode(protocol.HELLO, answer, message.id))
        if not self._greeted:
            self._greeted = True
            self._begin(self._tell_news())

    def _begin(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _tell_news(self) -> None:
        async with aclosing(self.control.events()) as news:
            async for message in news:
                if self._client.writer.transport.get_write_buffer_size() < _SLOW:
                    self.send(protocol.encode(message.type, message.body()))

    async def _answer(self, message: Message) -> None:
        kind, number = message.type, message.id
        try:
            body = message.body() if message.has_payload else None
            if handler := self._local.get(kind):
                answer = await handler(body or {}, lambda said: self.send(protocol.encode(kind, said, number)))
                self.send(protocol.encode(kind, answer, number))
                return
            expected = _ANSWERS.get(kind, protocol.ACK)
            answer = await self.control.request(kind, body, answer=expected, seconds=_REQUEST_SECONDS)
            self.send(protocol.encode(expected, answer or None, number))
        except (StereoError, ProtocolError) as error:
            self.send(protocol.ack(kind, _reason_of(error), number))
        except Exception:
            log.exception("while answering %s", kind)
            self.send(protocol.ack(kind, "internal error; see the supervisor's log", number))

    def _open(self, message: Message) -> None:
        if not message.id or message.id in self.streams:
            raise ProtocolError(f"{message.type} needs an id of its own")
        passage = _Passage(self, message.type, message.id)
        body = message.body() if message.has_payload else {}
        self.streams[message.id] = passage
        passage.opening = self._begin(passage.open(body))


class _Passage:
    """A stream on its way through: a `control.Sink` at the guest's side, numbers exchanged both ways."""

    def __init__(self, relay: _Relay, kind: str, number: int) -> None:
        self.kind = kind
        self.opening: asyncio.Task[None] | None = None
        self._relay = relay
        self._control = relay.control
        self._number = number  # the client's
        self._guests = 0  # the guest's; 0 until it is open
        self._asked_for = frames.INITIAL_WINDOW  # bytes that the guest may send

    async def open(self, payload: Mapping[str, Any]) -> None:
        try:
            await self._control.open(self.kind, payload, self, _REQUEST_SECONDS)
        except GuestError as error:
            self._forget()
            self._relay.send(protocol.ack(self.kind, _reason_of(error), self._number))

    def feed(self, message: Message) -> None:
        """From the guest. The client checks what is in it."""
        try:
            if message.type == protocol.DATA:
                name, data = frames.content(message)
                self._asked_for -= len(data)
                if self._asked_for < 0:
                    raise ProtocolError("the guest sent more than was asked for")
                self._relay.send(frames.encode(self._number, name, data, self._relay.raw))
                return
            self._relay.send(protocol.encode(message.type, message.body(), self._number))
            if message.type == protocol.EXIT:
                self._forget()
        except ProtocolError as error:
            self.lost(GuestError(str(error)))
            self.cancel()

    def opened(self, number: int) -> None:
        """See `control.Sink`."""
        self._guests = number
        self._relay.send(protocol.ack(self.kind, id=self._number))

    def lost(self, error: GuestError) -> None:
        """See `control.Sink`."""
        if self._number not in self._relay.streams:
            return
        ended = {"code": None, "signal": None, "timed_out": False, "error": error.what}
        self._relay.send(protocol.encode(protocol.EXIT, ended, self._number))
        self._forget()

    def from_client(self, message: Message) -> None:
        if not self._guests:  # it did not wait for the ack
            if message.type == protocol.CANCEL:
                self.cancel()
            return
        if message.type == protocol.DATA:
            self._control.send_data(self._guests, *frames.content(message))
            return
        body = message.body() if message.has_payload else {}
        if message.type == protocol.WINDOW:
            more = body.get("bytes")
            if isinstance(more, bool) or not isinstance(more, int) or not 0 < more <= MOST_ON_THE_WAY - self._asked_for:
                raise ProtocolError(f"a window beyond {MOST_ON_THE_WAY} bytes")
            self._asked_for += more
        self._control.send(message.type, body, self._guests)

    def cancel(self) -> None:
        """Nobody listens any more."""
        self._forget()
        if self.opening:
            self.opening.cancel()
        if self._guests:
            self._control.send(protocol.CANCEL, {}, self._guests)

    def _forget(self) -> None:
        self._relay.streams.pop(self._number, None)
        if self._guests:
            self._control.forget(self._guests)


def _reason_of(error: Exception) -> str:
    """What a client is told of an error, in the words of who raised it first."""
    return error.reason if isinstance(error, RefusedError) else str(error)
