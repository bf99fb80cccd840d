"""The real supervisor over a machine that is none: a guest that answers as told, in the same process.

The file `behaviour` in the folder of the dist holds words that say how the guest behaves. Run as a script, by `Launch`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

from stereo.errors import StereoError
from stereo.sandbox.__main__ import main
from stereo.sandbox.job import Job
from stereo.vm.machine import Channel, MachineSpec, Transport
from stereos_guest import frames, protocol


class FakeGuest:
    """Takes everything and notes it in order, in the file `heard` beside the dist."""

    def __init__(self, machine: FakeMachine, behaviour: set[str], heard: Path) -> None:
        self._machine = machine
        self._behaviour = behaviour
        self._heard = heard
        self._agents: list[dict[str, Any]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "mute" in self._behaviour:
            await asyncio.sleep(3600)
        writer.write(protocol.lifecycle(protocol.READY))
        while line := await reader.readline():
            if not line.strip():
                continue
            message = json.loads(line)
            with self._heard.open("a") as file:
                file.write(json.dumps([message["type"], message.get("payload")]) + "\n")
            answer = self._answer(message["type"], message.get("payload") or {})
            writer.write(protocol.encode(*answer, message.get("id", 0)))
            if message["type"] in (protocol.EXEC, protocol.LOGS):
                for words in self._behaviour:
                    if words.startswith("says "):
                        said = words.removeprefix("says ").encode() + b"\n"
                        writer.write(frames.encode(message["id"], "stdout", said, raw=False))
                status = {"code": int("offline" in self._behaviour), "signal": None, "timed_out": False}
                writer.write(protocol.encode(protocol.EXIT, status, message["id"]))
            if message["type"] == protocol.SET_CONFIG and "late agents" in self._behaviour:
                await asyncio.sleep(0.2)
                self._agents = [entry("worker", "running")]
                writer.write(protocol.encode(protocol.EVENT, {"kind": "agent", "agent": self._agents[0]}))
            if message["type"] == protocol.SHUTDOWN and "stubborn" not in self._behaviour:
                self._machine.off.set_result(None)

    def _answer(self, kind: str, payload: Mapping[str, Any]) -> tuple[str, Mapping[str, Any] | None]:
        if f"refuses {kind}" in self._behaviour:
            return protocol.ACK, {"reply_to": kind, "ok": False, "error": f"no, not {payload.get('value')}"}
        match kind:
            case protocol.HELLO:
                return kind, {"version": 1, "features": ["id"], "software": "fake"}
            case protocol.GET_HEALTH:
                return protocol.HEALTH, {"state": protocol.READY, "uptime_seconds": 1}
            case protocol.LIST_AGENTS:
                return protocol.AGENTS, {"agents": self._agents}
            case protocol.SSH_HOST_KEY:
                return kind, {"public_key": "ssh-ed25519 " + "A" * 68}
            case protocol.SET_CONFIG if "agents" in self._behaviour:
                self._agents = [entry("worker", "running")]
        return protocol.ACK, {"reply_to": kind, "ok": True}


def entry(name: str, state: str) -> dict[str, Any]:
    return {"name": name, "type": "native", "harness": "custom", "running": True, "restarts": 0, "state": state}


class FakeMachine:
    def __init__(self, console: Channel, control: Channel) -> None:
        self.console = console
        self.control = control
        self.began = time.monotonic()
        self.gate: Mapping[tuple[Transport, int], socket.socket] = {}
        self.off: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        await asyncio.shield(self.off)

    async def stop(self, grace: float) -> None:
        if not self.off.done():
            self.off.set_result(None)


class FakeBackend:
    def __init__(self, dist: Path) -> None:
        self._dist = dist

    @asynccontextmanager
    async def start(self, spec: MachineSpec) -> AsyncIterator[FakeMachine]:
        behaviour = set((self._dist / "behaviour").read_text().splitlines())
        if "no machine" in behaviour:
            raise StereoError("QEMU did not start", hint="try another")
        assert spec.disk.changes
        spec.disk.changes.touch()
        (far_console, near_console), (far_control, near_control) = socket.socketpair(), socket.socketpair()
        machine = FakeMachine(
            Channel(*await asyncio.open_connection(sock=near_console)),
            Channel(*await asyncio.open_connection(sock=near_control)),
        )
        far_console.sendall(b"Linux version 6\r\n")
        guest = FakeGuest(machine, behaviour, self._dist / "heard")
        task = asyncio.create_task(guest.serve(*await asyncio.open_connection(sock=far_control)))
        if "crashes" in behaviour:
            machine.off.set_exception(StereoError("QEMU was killed by signal 9: no message"))
        if "powers off later" in behaviour:
            asyncio.get_running_loop().call_later(1, machine.off.set_result, None)
        try:
            yield machine
        finally:
            task.cancel()
            far_console.close()


def backend(job: Job) -> FakeBackend:
    return FakeBackend(Path(job.dist))


if __name__ == "__main__":
    sys.exit(main(backend))
