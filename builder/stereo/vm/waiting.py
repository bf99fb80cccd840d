"""Who waits for something that the guest says: for an answer, for the messages of a stream, for news."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

from stereo.vm.answers import GuestError
from stereos_guest.protocol import Message

_MOST_NEWS = 1000


class Sink(Protocol):
    """Where the messages of a stream go. Nothing of it may raise."""

    def opened(self, number: int) -> None:
        """The guest agreed to the stream, which has this number; its messages may follow at once."""

    def feed(self, message: Message) -> None:
        """A message came."""

    def lost(self, error: GuestError) -> None:
        """None will come any more."""


class Question:
    """A request that waits for its answer. A `sink` gets the messages of the stream that it opens."""

    def __init__(self, kind: str, answer: str, sink: Sink | None = None) -> None:
        self.kind = kind
        self.answer = answer
        self.sink = sink
        self.answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def settle(self, refused: GuestError | None, message: Message) -> None:
        """The answer came. Raises ProtocolError if its payload is no object."""
        if self.answered.done():
            return
        if refused:
            self.answered.set_exception(refused)
        else:
            self.answered.set_result(message.body() if message.has_payload else {})

    def fail(self, error: GuestError) -> None:
        """No answer will come."""
        if not self.answered.done():
            self.answered.set_exception(error)


class Listener:
    """Who hears what the guest tells unasked; the oldest is dropped for who is slow."""

    def __init__(self) -> None:
        self.news: deque[Message] = deque(maxlen=_MOST_NEWS)
        self.heard = asyncio.Event()
