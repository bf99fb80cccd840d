"""The supervisor's control socket: what verbs ask of the sandbox is answered here, the rest by the guest."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from stereo.errors import StereoError
from stereo.sandbox import messages
from stereo.sandbox.job import Job, differences
from stereo.sandbox.peers import peer_uid
from stereo.vm import relay
from stereo.vm.control import Control, GuestError, Hello
from stereo.vm.machine import Channel
from stereos_guest import protocol
from stereos_guest.protocol import MAX_LINE, Message

if TYPE_CHECKING:
    from stereo.sandbox.supervisor import Supervisor

log = logging.getLogger(__name__)

# What verbs ask of the guest. The rest of the protocol is the supervisor's own business.
ALLOWED = (
    *(protocol.PING, protocol.GET_HEALTH, *protocol.OPENERS, protocol.LIST_AGENTS, protocol.AGENT),
    *(protocol.LIST_SECRETS, protocol.INJECT_SECRET, protocol.REMOVE_SECRET, protocol.LIST_MOUNTS),
)
_MOST_CLIENTS = 64
_FLUSH_SECONDS = 2.0


class Service:
    """Serves whoever may connect to the socket."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._local: dict[str, relay.Handler] = {
            messages.STATUS: self._status,
            messages.WAIT: self._wait,
            messages.DOWN: self._down,
            messages.DIFFER: self._differ,
            messages.APPLY: self._apply,
        }

    async def start(self, listener: socket.socket) -> None:
        """Serve connections to `listener` from now on."""
        self._server = await asyncio.start_unix_server(self._connected, sock=listener, limit=2 * MAX_LINE)

    async def stop(self) -> None:
        """Take no more connections."""
        if self._server:
            self._server.close()

    async def finish(self) -> None:
        """Let those who waited for the end hear of it."""
        if self._clients:
            await asyncio.wait(self._clients, timeout=_FLUSH_SECONDS)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        if len(self._clients) >= _MOST_CLIENTS or not _is_ours(writer.get_extra_info("socket")):
            writer.close()
            return
        self._clients.add(task)
        try:
            guest = self._supervisor.guest
            control = guest.control if guest else _Absent()
            note = self._supervisor.actions.note
            await relay.serve(Channel(reader, writer), control, self._local, ALLOWED, note)
        finally:
            self._clients.discard(task)

    async def _status(self, body: Mapping[str, Any], send: relay.Send) -> Mapping[str, Any]:
        supervisor = self._supervisor
        told: dict[str, Any] = {"state": supervisor.state, "since": supervisor.began}
        told["uptime_seconds"] = int(time.time() - supervisor.began)
        told["ends_at"] = supervisor.ends_at
        told["secrets"] = sorted(supervisor.job.secrets)
        if supervisor.guest:
            told |= await supervisor.guest.condition()
        return told

    async def _wait(self, body: Mapping[str, Any], send: relay.Send) -> Mapping[str, Any]:
        await asyncio.shield(self._supervisor.settled)
        if not self._supervisor.ready or not self._supervisor.guest:
            raise StereoError(self._supervisor.why_not_ready())
        if body.get("ssh") is True:
            await self._supervisor.guest.ssh_ready()
        return {}

    async def _down(self, body: Mapping[str, Any], send: relay.Send) -> Mapping[str, Any]:
        grace = body.get("grace")
        self._supervisor.stop("`stereo down`", None if grace is None else float(grace), force=body.get("force") is True)
        end, how = await asyncio.shield(self._supervisor.over)
        return {"reason": end.reason, "how": how}

    async def _differ(self, body: Mapping[str, Any], send: relay.Send) -> Mapping[str, Any]:
        return {"changes": differences(self._supervisor.job, Job.decode(body["job"]))}

    async def _apply(self, body: Mapping[str, Any], send: relay.Send) -> Mapping[str, Any]:
        changes, notes = await self._supervisor.apply(Job.decode(body["job"]))
        return {"changes": changes, "notes": notes}


class _Absent(Control):
    """Stands for the guest until that can be spoken to."""

    def __init__(self) -> None:
        self.greeting = Hello(protocol.VERSION, frozenset(), "")

    async def request(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        raise GuestError(messages.STARTING)

    async def open(self, *args: Any, **kwargs: Any) -> None:
        raise GuestError(messages.STARTING)

    async def events(self) -> AsyncGenerator[Message, None]:
        await asyncio.Event().wait()
        yield Message("")

    async def drain(self) -> None:
        return


def _is_ours(sock: socket.socket) -> bool:
    """Whether our own user is at the other end. The folder lets nobody else near; this holds even if it did."""
    return peer_uid(sock) == os.geteuid()
