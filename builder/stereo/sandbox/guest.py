"""The guest of a running sandbox, from the supervisor's side: its control channel and all that hangs on it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stereo.errors import StereoError
from stereo.sandbox import provision
from stereo.sandbox.job import Change, Job, differences, host_ports
from stereo.sandbox.keys import learn_host_key, make_key
from stereo.sandbox.messages import AGENTS, PROVISION
from stereo.sandbox.state import Folder, Record
from stereo.sandbox.tunnels import Tunnels, reserve
from stereo.vm import vsockgate
from stereo.vm.control import Control
from stereo.vm.machine import Machine
from stereos_guest import protocol

if TYPE_CHECKING:
    from stereo.sandbox.filter import Filter

log = logging.getLogger(__name__)

_BOOT_SECONDS = 300.0
_SSH_PORT = 22
_KEY_SECONDS = 60.0


class Guest:
    """What the supervisor has of a guest. Close it before the machine."""

    def __init__(self, job: Job, folder: Folder, machine: Machine) -> None:
        self.job = job
        self.control = Control(machine.control)
        self.ssh_port: int | None = None
        self._folder = folder
        self._tunnels = Tunnels(self.control)
        self._ssh: tuple[socket.socket, str] | None = None
        self._ssh_ready: asyncio.Task[None] | None = None
        self._vsock_ports = vsockgate.ports_of(machine.gate)
        self._filter: Filter | None = None
        if job.egress is not None:
            from stereo.sandbox.filter import Filter

            self._filter = Filter(machine.gate, job.egress, folder.egress_log)

    async def come_up(self, ssh_port: int | None, phase: Callable[[str], None]) -> list[str]:
        """Wait for it, give it all that the job says, and wait for its agents. Raises StereoError.

        `ssh_port` is the one to lead to its sshd if it is free. Returns what went wrong without stopping anything.
        """
        forwards = [(reserve(each.host), each.guest) for each in self.job.forwards if each.proto == "tcp"]
        notes = self._prepare_ssh(ssh_port)
        await self.control.wait_for_state((protocol.READY, protocol.HEALTHY), _BOOT_SECONDS)
        await self.control.hello()
        phase(PROVISION)
        if self._filter:
            await self._filter.ready()
        for listener, port in forwards:
            await self._tunnels.lead(listener, port)
        notes += await provision.furnish(self.control, self.job, self._vsock_ports)
        if self._ssh:
            # No agent waits for it, and starting a server takes an emulated machine seconds.
            self._ssh_ready = asyncio.create_task(self._open_ssh(*self._ssh))
        phase(AGENTS)
        agents = await provision.settle(self.control, self.job.agents)
        return [*notes, *provision.failures(agents)]

    def _prepare_ssh(self, wanted: int | None) -> list[str]:
        """Have a key, and a port: `wanted`, unless somebody else has it by now."""
        try:
            public_key = make_key(self._folder)
        except StereoError as error:
            return [f"`stereo ssh` will not work: {error.what}"]
        try:
            listener = reserve(wanted)
        except StereoError:
            listener = reserve(None)
        self.ssh_port = int(listener.getsockname()[1])
        self._ssh = (listener, public_key)
        return []

    async def _open_ssh(self, listener: socket.socket, public_key: str) -> None:
        """Let the sandbox's key in, learn the guest's host key, and lead the port to its sshd."""
        try:
            await provision.let_in(self.control, public_key)
            kind = protocol.SSH_HOST_KEY
            answer = await self.control.request(kind, {}, answer=kind, seconds=_KEY_SECONDS)
            assert self.ssh_port
            learn_host_key(self._folder, self.ssh_port, answer.get("public_key"))
            await self._tunnels.lead(listener, _SSH_PORT)
        except StereoError as error:
            log.warning("ssh: %s", error)
            listener.close()
            raise

    async def ssh_ready(self) -> None:
        """Return when ssh leads in. Raises StereoError if it never will."""
        if self._ssh_ready is None:
            raise StereoError("this sandbox has no ssh: there was no ssh-keygen", hint="install openssh-client")
        await asyncio.shield(self._ssh_ready)

    def note(self, record: Record) -> Record:
        """`record` with what is known by now."""
        return replace(record, ssh_port=self.ssh_port, proven=True, digest=self.job.digest())

    async def apply(self, job: Job) -> tuple[list[Change], list[str]]:
        """Take on `job`: agents, secrets and egress. Returns what changed, and which agents failed over it.

        Raises StereoError, before anything is done, if that needs a new start.
        """
        changes = differences(self.job, job)
        if fixed := [change.what for change in changes if not change.live]:
            raise StereoError(f"a running sandbox cannot change {', '.join(fixed)}", hint="stereo down, then stereo up")
        keys = {change.what for change in changes}
        known = await provision.list_agents(self.control) if changes else []
        before, self.job = self.job, replace(self.job, secrets={**self.job.secrets, **job.secrets})  # for redaction
        try:
            await self._take_on(job, before, keys)
        except BaseException:
            self.job = before  # what came to be nevertheless is done again the next time
            raise
        wired = tuple(sorted({*before.wired, *host_ports(before)}))
        self.job = replace(job, tools=before.tools, accelerator=before.accelerator, keep=before.keep, wired=wired)
        agents = await provision.settle(self.control, job.agents) if changes else []
        return changes, provision.failures(agent for agent in agents if agent not in known)

    async def _take_on(self, job: Job, before: Job, keys: Collection[str]) -> None:
        if self._filter and "network.egress_allow" in keys:
            await self._filter.apply(job.egress or ())
        for name in sorted(job.secrets):
            if before.secrets.get(name) != job.secrets[name]:
                await provision.give_secret(self.control, name, job.secrets[name])
        if "agents" in keys:
            await provision.configure(self.control, job.config)
        for name in sorted(before.secrets.keys() - job.secrets.keys()):
            await provision.take_secret(self.control, name)

    async def broken(self) -> str:
        """Return a sentence when the sandbox lost something that it cannot be without."""
        if self._filter:
            return await self._filter.broken()
        await asyncio.Event().wait()
        return ""

    async def condition(self) -> dict[str, Any]:
        """The guest's own word: its lifecycle, and its agents. What it does not tell is left out."""
        told: dict[str, Any] = {"agents": []}
        try:
            health, told["agents"] = await asyncio.gather(self.control.health(), provision.list_agents(self.control))
            told["guest"] = health.state
        except StereoError as error:
            told["guest"] = "silent"
            told["guest_error"] = self.job.redact(error.what)
        if self._filter:
            told["egress"] = self._filter.counts()
        return told

    async def close(self) -> None:
        """End every connection."""
        if self._ssh_ready:
            self._ssh_ready.cancel()
            with suppress(asyncio.CancelledError, StereoError):
                await self._ssh_ready
        await self._tunnels.close()
        if self._filter:
            await self._filter.close()
        with suppress(StereoError):
            await self.control.close()
