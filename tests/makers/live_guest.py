"""The real guest daemon's conversation, streams included, inside a test's own event loop: no mock, no machine."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stereo.vm.control import Control
from stereo.vm.machine import Channel
from stereos_guest import frames, protocol
from stereos_guest.execution import Account
from stereos_guest.loop import Loop
from stereos_guest.openers import Context, openers
from stereos_guest.protocol import MAX_LINE, Message
from stereos_guest.session import Session
from stereos_guest.wire import ENDED, MORE, Wire

if TYPE_CHECKING:
    from stereos_guest.session import Handler


ANNOUNCEMENT = protocol.lifecycle("booting") + protocol.lifecycle("ready", boot={"initrd_start": 1.0})
PLAIN: dict[str, Handler] = {
    protocol.PING: lambda message, session: protocol.pong(message.id),
    protocol.GET_HEALTH: lambda message, session: protocol.encode(
        protocol.HEALTH, {"state": "ready", "uptime_seconds": 0}, message.id
    ),
}
"""Answers that need no machine."""


def account_here(home: Path) -> Callable[[str], Account]:
    """Whatever user is asked for is the one who runs the tests, at home in `home`."""

    def account(name: str) -> Account:
        row = pwd.getpwuid(os.getuid())
        return Account(name, row.pw_uid, row.pw_gid, os.getgroups(), str(home), "/bin/sh")

    return account


class Guest:
    """A daemon that serves socket pairs. `connect` gives the far end of a new one."""

    def __init__(self, home: Path, account: Callable[[str], Account] | None = None, *, raw: bool = True) -> None:
        self.loop = Loop()
        self.context = Context(self.loop, str(home), account or account_here(home))
        self.handlers = {**PLAIN, protocol.HELLO: self._hello, **openers(self.context)}
        self.sessions: list[Session] = []
        self._raw = raw
        self._asyncio = asyncio.get_running_loop()
        self._asyncio.add_reader(self.loop._epoll.fileno(), self._turn)
        self._timer: asyncio.TimerHandle | None = None
        self._ends: list[socket.socket] = []

    def connect(self) -> socket.socket:
        """The host's end of a new conversation, announced as on the port."""
        near, far = socket.socketpair()
        near.setblocking(False)
        self._ends.append(near)
        session = Session(self.handlers, self.loop, survives_overlong=True)
        self.sessions.append(session)
        line = _Line(near.fileno(), session, self)
        session.wake = lambda: self._wake(near.fileno())
        self.loop.add(near.fileno(), line)
        session.send(ANNOUNCEMENT)
        return far

    def close(self) -> None:
        for session in self.sessions:
            session.end()
        self._asyncio.remove_reader(self.loop._epoll.fileno())
        if self._timer:
            self._timer.cancel()
        for _ in range(20):  # what was killed is reaped
            self.loop.turn(0.01)
        for end in self._ends:
            end.close()
        self.loop.close()

    def _hello(self, message: Message, session: Session) -> bytes:
        offered = message.body().get("features", [])
        mine = ["id", *protocol.OPENERS, *([frames.RAW] if self._raw else [])]
        session.greet([feature for feature in mine if feature in offered], frames.decode)
        return protocol.encode(protocol.HELLO, {"version": 1, "features": mine, "software": "stereosd"}, message.id)

    def _wake(self, descriptor: int) -> None:
        self.loop.soon(descriptor)
        self._asyncio.call_soon(self._turn)

    def _turn(self) -> None:
        if self.loop._epoll.closed:
            return
        self.loop.turn(0)
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self.loop._again:
            self._asyncio.call_soon(self._turn)
        elif self.loop._timers:
            soonest = min(when for when, *_ in self.loop._timers)
            self._timer = self._asyncio.call_at(soonest, self._turn)


class _Line:
    def __init__(self, descriptor: int, session: Session, guest: Guest) -> None:
        self._wire = Wire(descriptor)
        self._session = session
        self._guest = guest

    def handle(self, events: int) -> bool:
        """See `loop.Source`."""
        try:
            done = self._wire.pump(self._session)
        except OSError:
            done = ENDED
        if done == ENDED:
            self._session.end()
            self._guest.loop.remove(self._wire.descriptor)
        return done == MORE


async def channel_over(sock: socket.socket) -> Channel:
    """A socket as a machine's control channel."""
    return Channel(*await asyncio.open_connection(sock=sock, limit=2 * MAX_LINE))


@asynccontextmanager
async def greeted(guest: Guest) -> AsyncIterator[Control]:
    """A conversation that has said hello."""
    control = Control(await channel_over(guest.connect()))
    await control.hello()
    try:
        yield control
    finally:
        await control.close()
