"""The command line's way to a running sandbox: its supervisor's socket, over which the guest is reached as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stereo.errors import StereoError
from stereo.sandbox import messages
from stereo.sandbox.peers import kill_peer
from stereo.sandbox.state import CRASHED, STARTING, STOPPING, Folder
from stereo.vm.control import Control, RefusedError
from stereo.vm.machine import Channel
from stereos_guest.protocol import MAX_LINE

_DEATH_SECONDS = 5.0


class NotRunning(StereoError):  # noqa: N818 - reads as what is the matter
    """There is no supervisor to talk to."""


@asynccontextmanager
async def connected(name: str) -> AsyncIterator[Control]:
    """A conversation with the sandbox `name`: its guest's protocol, and what `messages` adds.

    Raises NotRunning, and UsageError if there is no such sandbox.
    """
    folder = Folder(name)
    folder.check()
    try:
        sock = folder.connect()
    except (FileNotFoundError, ConnectionRefusedError):
        raise _not_running(folder) from None
    control = Control(Channel(*await asyncio.open_connection(sock=sock, limit=2 * MAX_LINE)))
    try:
        await control.hello()
        yield control
    except RefusedError as error:
        if error.kind in messages.LOCAL or error.reason == messages.STARTING:  # that was the supervisor
            raise StereoError(error.reason, where=name) from None
        raise
    finally:
        await control.close()


def _not_running(folder: Folder) -> NotRunning:
    state, record = folder.condition()
    if state in (STARTING, STOPPING):
        return NotRunning(f"{folder.name} is {state}", hint=f"stereo status {folder.name}")
    why = "its supervisor was killed" if state == CRASHED else f"{record.reason}" if record and record.reason else ""
    return NotRunning(f"{folder.name} is not running: {state}" + (f" ({why})" if why else ""), hint="stereo up")


def kill(name: str) -> None:
    """Kill the supervisor of `name`, whom the kernel names at the other end of the socket; the machine dies with it."""
    folder = Folder(name)
    try:
        with folder.connect() as sock:
            kill_peer(sock, _DEATH_SECONDS)
    except (FileNotFoundError, ConnectionRefusedError, ProcessLookupError):
        return
