"""The host's side of the control channel.

The guest is not trusted: every line, every wait and every value is bounded and checked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stereo.errors import StereoError
from stereo.vm.machine import Channel
from stereos_guest import protocol
from stereos_guest.protocol import LineReader, Message, ProtocolError

_CHUNK = 1 << 16
_MOST_AGENTS = 1000
_MOST_MARKS = 32
_SECONDS_LIMIT = 1e9
_FIRST_PATIENCE = 2.0  # seconds


class GuestError(StereoError):
    """The guest broke the protocol, refused a request, or said nothing in time."""


class NoAnswerError(GuestError):
    """The guest said nothing in time."""


@dataclass(frozen=True)
class Lifecycle:
    """A state that the guest told of. `boot` has seconds since kernel start by phase; `at` is our clock's time."""

    state: str
    message: str
    boot: Mapping[str, float]
    at: float


@dataclass(frozen=True)
class Health:
    """The answer to `get_health`. `uptime_seconds` is that of the daemon."""

    state: str
    uptime_seconds: int
    agents: tuple[Mapping[str, Any], ...]
    boot: Mapping[str, float]


class Control:
    """One conversation with the guest's daemon. Not for several tasks at once: answers carry no request number."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lines = LineReader()
        self._pending: deque[bytes | None] = deque()
        self._first = True
        self.lifecycle: Lifecycle | None = None  # the last one pushed

    async def wait_for_state(self, states: Collection[str], seconds: float) -> Lifecycle:
        """The first news that the guest is in one of `states`. Raises GuestError after `seconds` without it.

        The guest tells of its states by itself; asking as well costs little, and serves when it told somebody else.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._send(protocol.GET_HEALTH)
                while True:
                    message = await self._receive()
                    if message.type == protocol.HEALTH:
                        health = _health(message)
                        self.lifecycle = Lifecycle(health.state, "", health.boot, asyncio.get_running_loop().time())
                    if self.lifecycle and self.lifecycle.state in states:
                        return self.lifecycle
        except TimeoutError:
            wanted = " or ".join(states)
            heard = f"the last state was {self.lifecycle.state}" if self.lifecycle else "it never spoke"
            raise GuestError(f"the guest was not {wanted} after {seconds:g} s; {heard}") from None

    async def ping(self, seconds: float = 10) -> None:
        """Ask whether the daemon is there. Raises GuestError.

        It is asked again while it does not answer: what is sent just after another host left the same port may be lost.
        """
        patience = _FIRST_PATIENCE
        while patience < seconds:
            with suppress(NoAnswerError):
                await self._request(protocol.PING, protocol.PONG, patience)
                return
            seconds -= patience
            patience *= 2
        await self._request(protocol.PING, protocol.PONG, seconds)

    async def health(self, seconds: float = 10) -> Health:
        """Ask how the guest is. Raises GuestError."""
        return _health(await self._request(protocol.GET_HEALTH, protocol.HEALTH, seconds))

    async def shutdown(self, seconds: float = 10) -> None:
        """Have the guest switch itself off; returns when it agreed to. Raises GuestError."""
        await self._request(protocol.SHUTDOWN, protocol.ACK, seconds)

    async def _send(self, kind: str, payload: Mapping[str, Any] | None = None) -> None:
        # The newline ends half a line that a former conversation may have left in the guest.
        self._channel.writer.write((b"\n" if self._first else b"") + protocol.encode(kind, payload))
        with suppress(ConnectionError):  # reading tells, after what the guest said last
            await self._channel.writer.drain()

    async def _request(self, kind: str, answer: str, seconds: float) -> Message:
        try:
            async with asyncio.timeout(seconds):
                await self._send(kind)
                while True:
                    message = await self._receive()
                    if message.type == protocol.ACK and not _answers(message, kind):
                        continue  # to a request of a former conversation, or to half a line of it
                    if message.type == answer:
                        return message
        except TimeoutError:
            raise NoAnswerError(f"no answer to {kind} within {seconds:g} s") from None
        except ProtocolError as error:
            raise _not_the_protocol(error) from error

    async def _receive(self) -> Message:
        while True:
            line = await self._line()
            first, self._first = self._first, False
            if line is None:
                raise GuestError(f"the guest sent a line of more than {protocol.MAX_LINE} bytes")
            if not line.strip():
                continue
            try:
                message = protocol.decode(line)
                if message.type not in protocol.REPLIES:
                    raise ProtocolError(f"a guest does not send {message.type[:40]!r}")
                if message.type == protocol.LIFECYCLE:
                    self.lifecycle = _lifecycle(message)
            except ProtocolError as error:
                if first and str(error).startswith("malformed"):
                    continue  # the end of a line whose beginning went to somebody before us
                raise _not_the_protocol(error) from error
            return message

    async def _line(self) -> bytes | None:
        while not self._pending:
            try:
                data = await self._channel.reader.read(_CHUNK)
            except ConnectionError:
                data = b""
            if not data:
                raise GuestError("the guest closed the control channel")
            self._pending.extend(self._lines.feed(data))
        return self._pending.popleft()


def printable(text: str, limit: int = 300) -> str:
    """Text of a stranger, fit for a terminal: without control characters, and not long."""
    plain = "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    return plain if len(plain) <= limit else plain[:limit] + "..."


def _not_the_protocol(error: ProtocolError) -> GuestError:
    return GuestError(f"the guest does not speak the protocol: {printable(str(error))}")


def _answers(message: Message, kind: str) -> bool:
    """Whether an ack is the answer to a request of `kind`. Raises GuestError if it is and says no."""
    body = message.body()
    reply_to, ok, error = body.get("reply_to"), body.get("ok"), body.get("error", "")
    if not isinstance(reply_to, str) or not isinstance(ok, bool) or not isinstance(error, str):
        raise ProtocolError("an ack without reply_to and ok")
    if reply_to == kind and not ok:
        raise GuestError(f"the guest refused {kind}: {printable(error) or 'no reason given'}")
    return reply_to == kind


def _lifecycle(message: Message) -> Lifecycle:
    body = message.body()
    text = body.get("message", "")
    if not isinstance(text, str):
        raise ProtocolError("lifecycle: message is not text")
    return Lifecycle(_state(body), printable(text), _marks(body), asyncio.get_running_loop().time())


def _health(message: Message) -> Health:
    try:
        body = message.body()
        uptime, agents = body.get("uptime_seconds"), body.get("agents", [])
        if isinstance(uptime, bool) or not isinstance(uptime, int) or not 0 <= uptime < _SECONDS_LIMIT:
            raise ProtocolError("health: uptime_seconds is not a number of seconds")
        if not isinstance(agents, list) or len(agents) > _MOST_AGENTS or not all(isinstance(a, dict) for a in agents):
            raise ProtocolError("health: agents is not a list of objects")
        return Health(_state(body), uptime, tuple(agents), _marks(body))
    except ProtocolError as error:
        raise _not_the_protocol(error) from error


def _state(body: Mapping[str, Any]) -> str:
    state = body.get("state")
    if state not in protocol.STATES:
        raise ProtocolError("a state that there is not")
    return str(state)


def _marks(body: Mapping[str, Any]) -> dict[str, float]:
    marks = body.get("boot", {})
    if not isinstance(marks, dict) or len(marks) > _MOST_MARKS:
        raise ProtocolError("boot is not a table of seconds")
    for name, value in marks.items():
        if len(name) > 40 or not name.isidentifier() or isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ProtocolError("boot is not a table of seconds")
        if not 0 <= value < _SECONDS_LIMIT:
            raise ProtocolError("boot is not a table of seconds")
    return {name: float(value) for name, value in marks.items()}
