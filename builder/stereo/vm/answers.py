"""What a guest says, checked: values of the protocol that a stranger sent, as types of ours or a GuestError."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stereo.errors import StereoError
from stereos_guest import protocol
from stereos_guest.protocol import Message, ProtocolError

_MOST_AGENTS = 1000
_MOST_MARKS = 32
_MOST_FEATURES = 100
_SECONDS_LIMIT = 1e9


class GuestError(StereoError):
    """The guest broke the protocol, refused a request, or said nothing in time."""


class NoAnswerError(GuestError):
    """The guest said nothing in time."""


class RefusedError(GuestError):
    """The guest said no to a request of `kind`. `reason` is what it gave, fit for a terminal."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"the guest refused {kind}: {reason}")
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True)
class Lifecycle:
    """A state that the guest told of. `boot` has seconds since kernel start by phase; `at` is our clock's time."""

    state: str
    message: str
    boot: Mapping[str, float]
    at: float


@dataclass(frozen=True)
class Hello:
    """What both sides agreed on. `features` are those that the guest has."""

    version: int
    features: frozenset[str]
    software: str


@dataclass(frozen=True)
class Health:
    """The answer to `get_health`. `uptime_seconds` is that of the daemon."""

    state: str
    uptime_seconds: int
    agents: tuple[Mapping[str, Any], ...]
    boot: Mapping[str, float]


def printable(text: str, limit: int = 300) -> str:
    """Text of a stranger, fit for a terminal: without control characters, and not long."""
    plain = "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    return plain if len(plain) <= limit else plain[:limit] + "..."


def not_the_protocol(error: ProtocolError) -> GuestError:
    """The error for a guest that broke the protocol."""
    return GuestError(f"the guest does not speak the protocol: {printable(str(error))}")


def refusal(message: Message, kind: str) -> GuestError | None:
    """The error if an ack refuses a request of `kind`. Raises ProtocolError if it is no proper ack of it."""
    body = message.body()
    reply_to, ok, error = body.get("reply_to"), body.get("ok"), body.get("error", "")
    if not isinstance(reply_to, str) or not isinstance(ok, bool) or not isinstance(error, str):
        raise ProtocolError("an ack without reply_to and ok")
    if reply_to != kind:
        raise ProtocolError(f"an ack of {reply_to[:40]!r} in place of one of {kind}")
    return None if ok else RefusedError(kind, printable(error) or "no reason given")


def lifecycle_in(message: Message) -> Lifecycle:
    """The state that a push tells. Raises ProtocolError."""
    body = message.body()
    text = body.get("message", "")
    if not isinstance(text, str):
        raise ProtocolError("lifecycle: message is not text")
    return Lifecycle(_state(body), printable(text), _marks(body), asyncio.get_running_loop().time())


def health_in(body: Mapping[str, Any]) -> Health:
    """The answer to `get_health`. Raises ProtocolError."""
    uptime, agents = body.get("uptime_seconds"), body.get("agents", [])
    if isinstance(uptime, bool) or not isinstance(uptime, int) or not 0 <= uptime < _SECONDS_LIMIT:
        raise ProtocolError("health: uptime_seconds is not a number of seconds")
    if not isinstance(agents, list) or len(agents) > _MOST_AGENTS or not all(isinstance(a, dict) for a in agents):
        raise ProtocolError("health: agents is not a list of objects")
    return Health(_state(body), uptime, tuple(agents), _marks(body))


def hello_in(body: Mapping[str, Any]) -> Hello:
    """The answer to `hello`. Raises ProtocolError."""
    version, features, software = body.get("version"), body.get("features"), body.get("software", "")
    if isinstance(version, bool) or version != protocol.VERSION:
        raise ProtocolError("hello: a version that was not offered")
    if not isinstance(features, list) or len(features) > _MOST_FEATURES or not isinstance(software, str):
        raise ProtocolError("hello: features or software make no sense")
    if not all(isinstance(feature, str) and len(feature) <= 40 for feature in features):
        raise ProtocolError("hello: features are not a list of names")
    return Hello(version, frozenset(features), printable(software, 40))


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
