"""The host's side of the control channel: many requests and streams at once over one stream of bytes.

The guest is not trusted: every line, every wait and every value is bounded and checked. What breaks the protocol ends
the conversation, except within a stream, where it ends the stream.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import suppress
from typing import Any

from stereo.vm.answers import GuestError as GuestError
from stereo.vm.answers import Health as Health
from stereo.vm.answers import Hello as Hello
from stereo.vm.answers import Lifecycle as Lifecycle
from stereo.vm.answers import NoAnswerError as NoAnswerError
from stereo.vm.answers import RefusedError as RefusedError
from stereo.vm.answers import health_in, hello_in, lifecycle_in, not_the_protocol, refusal
from stereo.vm.answers import printable as printable
from stereo.vm.machine import Channel
from stereo.vm.stream import Stream, outputs_of
from stereo.vm.waiting import Listener, Question
from stereo.vm.waiting import Sink as Sink
from stereos_guest import frames, protocol
from stereos_guest.protocol import LineReader, Message, ProtocolError

FEATURES = (frames.RAW,)
"""What this side offers in its `hello`."""

_CHUNK = 1 << 16
_FIRST_PATIENCE = 2.0  # seconds
_UNCLEAR_SECONDS = 10.0
_GREETING_SECONDS = 10.0


class Control:
    """One conversation with the guest's daemon.

    After `hello` many tasks may use it at once. Before, requests carry no number, so they wait for each other.
    """

    def __init__(self, channel: Channel) -> None:
        self.lifecycle: Lifecycle | None = None  # the last one told
        self.greeting: Hello | None = None
        self._channel = channel
        self._lines = LineReader()
        self._began = False  # to send
        self._first = True  # nothing was received yet
        self._reader: asyncio.Task[None] | None = None
        self._failure: GuestError | None = None
        self._unclear: ProtocolError | None = None  # a line that made no sense, and what follows tells why
        self._greeting_again: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # of requests without a number
        self._asked: Question | None = None
        self._questions: dict[int, Question] = {}
        self._sinks: dict[int, Sink] = {}
        # Not from 1 on: what the guest still had to say to somebody before us must not be taken for ours.
        self._number = secrets.randbelow(1 << 40)
        self._news = asyncio.Event()  # of the lifecycle
        self._listeners: set[Listener] = set()

    @property
    def raw(self) -> bool:
        """Whether data is sent as it is."""
        return self.greeting is not None and frames.RAW in self.greeting.features

    # --- requests ---

    async def hello(self, seconds: float = 10, token: str | None = None) -> Hello:
        """Agree on our extension of the protocol. Raises GuestError, also if the guest does not know it."""
        payload: dict[str, Any] = {"version": protocol.VERSION, "features": list(FEATURES)}
        if token is not None:
            payload["token"] = token
        body = await self._insist(protocol.HELLO, payload, protocol.HELLO, seconds)
        try:
            self.greeting = hello_in(body)
        except ProtocolError as error:
            raise not_the_protocol(error) from error
        return self.greeting

    async def request(
        self,
        kind: str,
        payload: Mapping[str, Any] | None = None,
        *,
        answer: str = protocol.ACK,
        seconds: float = 10,
    ) -> Mapping[str, Any]:
        """Ask, and return the body of the answer.

        Raises GuestError if it is refused or the guest is gone, NoAnswerError if none comes within `seconds`.
        """
        question = Question(kind, answer)
        if self.greeting is not None:
            return await self._ask(question, payload, self._next_number(), seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise NoAnswerError(f"no answer to what was asked before {kind} within {seconds:g} s") from None
        try:
            return await self._ask(question, payload, 0, seconds)
        finally:
            self._turn.release()

    async def ping(self, seconds: float = 10) -> None:
        """Ask whether the daemon is there. Raises GuestError."""
        await self._insist(protocol.PING, None, protocol.PONG, seconds)

    async def health(self, seconds: float = 10) -> Health:
        """Ask how the guest is. Raises GuestError."""
        body = await self.request(protocol.GET_HEALTH, answer=protocol.HEALTH, seconds=seconds)
        try:
            return health_in(body)
        except ProtocolError as error:
            raise not_the_protocol(error) from error

    async def shutdown(self, seconds: float = 10) -> None:
        """Have the guest switch itself off; returns when it agreed to. Raises GuestError."""
        await self.request(protocol.SHUTDOWN, seconds=seconds)

    async def wait_for_state(self, states: Collection[str], seconds: float) -> Lifecycle:
        """The first news that the guest is in one of `states`. Raises GuestError after `seconds` without it.

        The guest tells of its states by itself; asking as well costs little, and serves when it told somebody else.
        """
        asking = asyncio.create_task(self._ask_for_state(seconds))
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if self.lifecycle and self.lifecycle.state in states:
                        return self.lifecycle
                    if self._failure:
                        raise self._failure
                    if asking.done():
                        asking.result()
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            wanted = " or ".join(states)
            heard = f"the last state was {self.lifecycle.state}" if self.lifecycle else "it never spoke"
            raise GuestError(f"the guest was not {wanted} after {seconds:g} s; {heard}") from None
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError, GuestError):
                await asking

    async def open_stream(self, kind: str, payload: Mapping[str, Any], seconds: float = 10) -> Stream:
        """Begin an `exec`, `copy_in`, `copy_out`, `connect` or `logs`. Raises GuestError."""
        stream = Stream(self, outputs_of(kind, payload))
        await self.open(kind, payload, stream, seconds)
        return stream

    async def events(self) -> AsyncGenerator[Message, None]:
        """What the guest tells unasked from now on: `lifecycle` and `event`. Ends when the guest is gone.

        Who is slow misses the oldest.
        """
        listener = Listener()
        self._listeners.add(listener)
        try:
            while self._failure is None or listener.news:
                while listener.news:
                    yield listener.news.popleft()
                if self._failure is None:
                    listener.heard.clear()
                    await listener.heard.wait()
        finally:
            self._listeners.discard(listener)

    async def close(self) -> None:
        """End the conversation. What still waits gets a GuestError."""
        self._fail(GuestError("the conversation was closed"))
        for task in (self._reader, self._greeting_again):
            if task:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        self._channel.writer.close()

    # --- for streams, and for who passes them on ---

    async def open(self, kind: str, payload: Mapping[str, Any], sink: Sink, seconds: float = 10) -> None:
        """Have the guest open a stream whose messages go to `sink`. Raises GuestError."""
        if self.greeting is None:
            raise GuestError(f"{kind} needs a hello first")
        number = self._next_number()
        try:
            await self._ask(Question(kind, protocol.ACK, sink), payload, number, seconds)
        except (NoAnswerError, asyncio.CancelledError):
            self.forget(number)
            self.send(protocol.CANCEL, {}, number)  # it may still come to be opened
            raise

    def forget(self, number: int) -> None:
        """The messages of that stream go nowhere from now on."""
        self._sinks.pop(number, None)

    def send(self, kind: str, payload: Mapping[str, Any] | None = None, number: int = 0) -> None:
        """Send a message without waiting. Follow it by `drain`, unless as much must have come from the guest first."""
        self._write(protocol.encode(kind, payload, number))

    def send_data(self, number: int, name: str, data: bytes) -> None:
        """Send a stream's bytes, at most `frames.CHUNK`; otherwise as `send`."""
        self._write(frames.encode(number, name, data, self.raw))

    async def drain(self) -> None:
        """Wait until not much is left unsent."""
        with suppress(ConnectionError):  # reading tells, after what the guest said last
            await self._channel.writer.drain()

    # --- asking ---

    async def _insist(
        self, kind: str, payload: Mapping[str, Any] | None, answer: str, seconds: float
    ) -> Mapping[str, Any]:
        """Ask again while no answer comes: what is sent just after another host left the same port may be lost."""
        patience = _FIRST_PATIENCE
        while patience < seconds:
            with suppress(NoAnswerError):
                return await self.request(kind, payload, answer=answer, seconds=patience)
            seconds -= patience
            patience *= 2
        return await self.request(kind, payload, answer=answer, seconds=seconds)

    async def _ask(
        self, question: Question, payload: Mapping[str, Any] | None, number: int, seconds: float
    ) -> Mapping[str, Any]:
        if self._failure:
            raise self._failure
        if number:
            self._questions[number] = question
        else:
            self._asked = question
        try:
            async with asyncio.timeout(seconds):
                self.send(question.kind, payload, number)
                await self.drain()
                return await question.answered
        except TimeoutError:
            raise NoAnswerError(f"no answer to {question.kind} within {seconds:g} s") from None
        except ProtocolError as error:
            raise GuestError(str(error)) from error
        finally:
            question.answered.cancel()
            self._questions.pop(number, None)
            if self._asked is question:
                self._asked = None

    async def _ask_for_state(self, seconds: float) -> None:
        try:
            health = await self.health(seconds)
            self.lifecycle = Lifecycle(health.state, "", health.boot, asyncio.get_running_loop().time())
        finally:
            self._news.set()

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _write(self, line: bytes) -> None:
        if self._reader is None and self._failure is None:
            self._reader = asyncio.create_task(self._read())
        if not self._began:
            self._began = True
            line = b"\n" + line  # ends half a line that a former conversation may have left in the guest
        if self._failure is None:
            self._channel.writer.write(line)

    # --- hearing ---

    async def _read(self) -> None:
        try:
            while True:
                try:
                    data = await self._channel.reader.read(_CHUNK)
                except ConnectionError:
                    data = b""
                if not data:
                    raise GuestError("the guest closed the control channel")
                for line in self._lines.feed(data):
                    self._hear(line)
        except GuestError as error:
            self._fail(error)
        except ProtocolError as error:
            self._fail(not_the_protocol(error))
        finally:
            self._fail(GuestError("the conversation ended"))  # whatever it was, nobody waits for ever

    def _hear(self, line: bytes | None) -> None:
        first, self._first = self._first, False
        if line is None:
            raise GuestError(f"the guest sent a line of more than {protocol.MAX_LINE} bytes")
        if not line.strip():
            return
        try:
            message = frames.decode(line)
        except ProtocolError as error:
            if first and str(error).startswith("malformed"):
                return  # the end of a line whose beginning went to somebody before us
            if self.greeting is None or self._unclear:
                raise
            self._unclear = error  # its daemon may have died in the middle of it; then a new one says so next
            asyncio.get_running_loop().call_later(_UNCLEAR_SECONDS, self._still_unclear, error)
            return
        if self._unclear and message.type != protocol.LIFECYCLE:
            raise self._unclear
        if message.id:
            self._to_its_owner(message)
        elif message.type in (protocol.LIFECYCLE, protocol.EVENT):
            self._told(message)
        elif message.type not in protocol.REPLIES:
            raise ProtocolError(f"a guest does not send {message.type[:40]!r}")
        elif self._asked:
            self._answer_in_order(self._asked, message)

    def _still_unclear(self, error: ProtocolError) -> None:
        if self._unclear is error:
            self._fail(not_the_protocol(error))

    def _to_its_owner(self, message: Message) -> None:
        """Whose number nobody knows was given up by us, or belongs to a conversation before."""
        question = self._questions.get(message.id)
        if question is None or question.answered.done():
            if sink := self._sinks.get(message.id):
                sink.feed(message)
            return
        refused = refusal(message, question.kind) if message.type == protocol.ACK else None
        if refused is None and message.type != question.answer:
            raise ProtocolError(f"{message.type[:40]!r} in answer to {question.kind}")
        if refused is None and question.sink:
            self._sinks[message.id] = question.sink
            question.sink.opened(message.id)
        question.settle(refused, message)

    def _answer_in_order(self, question: Question, message: Message) -> None:
        """Not everything is the answer: some may be to requests of a former conversation, or to half a line of it."""
        refused = None
        if message.type == protocol.ACK:
            if message.body().get("reply_to") != question.kind:
                return
            refused = refusal(message, question.kind)
        if refused or message.type == question.answer:
            question.settle(refused, message)

    def _told(self, message: Message) -> None:
        if message.type == protocol.LIFECYCLE:
            self.lifecycle = lifecycle_in(message)
            self._news.set()
            if self.greeting is not None and self.lifecycle.state == protocol.BOOTING:
                self._renewed()
        else:
            message.body()
        for listener in self._listeners:
            listener.news.append(message)
            listener.heard.set()

    def _renewed(self) -> None:
        """The daemon was started anew: it knows nothing of what was open, and nothing of our hello."""
        self._unclear = None
        self._drop(GuestError("the guest's daemon was started anew"))
        self.greeting = None
        self._greeting_again = asyncio.create_task(self._greet_again())

    async def _greet_again(self) -> None:
        with suppress(GuestError):
            while self._failure is None:  # a daemon that dies while it is greeted will be followed by another
                with suppress(NoAnswerError):
                    await self.hello(_GREETING_SECONDS)
                    return

    def _fail(self, error: GuestError) -> None:
        if self._failure:
            return
        self._failure = error
        self._drop(error)
        self._news.set()
        for listener in self._listeners:
            listener.heard.set()

    def _drop(self, error: GuestError) -> None:
        """Whatever waits for an answer or holds a stream hears that it waits in vain."""
        for question in (*self._questions.values(), *([self._asked] if self._asked else [])):
            question.fail(error)
        sinks, self._sinks = self._sinks, {}
        for sink in sinks.values():
            sink.lost(error)
