"""vfkit's REST service: the state of the machine, and changes of it; see vfkit's doc/usage.md, "RESTful API"."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path

from makers.vfkit.arguments import Options

State = Callable[[], str]
Change = Callable[[str], Awaitable[bool]]

_PREFIX = "VirtualMachineState"


class Service:
    """Answers one request per connection."""

    def __init__(self, options: Options, state: State, change: Change) -> None:
        self._options = options
        self._state = state
        self._change = change

    async def listen(self, path: Path) -> asyncio.Server:
        """Serve whoever connects to `path`. Raises OSError if something is there."""
        return await asyncio.start_unix_server(self._serve, path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split("\r\n", 1)[0].split(" ")
        lengths = [row.split(":")[1] for row in head.lower().split("\r\n") if row.startswith("content-length:")]
        body = await reader.readexactly(int(lengths[0])) if lengths else b""
        status, answer = await self._answer(method, target, body)
        data = b"" if answer is None else json.dumps(answer).encode()
        writer.write(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Length: {len(data)}\r\n".encode())
        writer.write(b"Connection: close\r\nContent-Type: application/json; charset=utf-8\r\n\r\n" + data)
        await writer.drain()
        writer.close()

    async def _answer(self, method: str, target: str, body: bytes) -> tuple[int, object]:
        match method, target:
            case "GET", "/vm/state":
                can = {f"can{verb}": verb in ("Stop", "HardStop") for verb in ("Start", "Stop", "HardStop")}
                return 200, {"state": _PREFIX + self._state(), **can}
            case "GET", "/vm/inspect":
                return 200, {"cpus": self._options.cpus, "memory": self._options.memory}
            case "POST", "/vm/state":
                return await self._changed(body)
        return 404, None

    async def _changed(self, body: bytes) -> tuple[int, object]:
        try:
            state = json.loads(body)["state"]
        except (ValueError, KeyError, TypeError):
            return 400, {"error": "invalid request"}
        if state not in ("Stop", "HardStop", "Pause", "Resume"):
            return 500, {"error": f"invalid new VMState: {state}"}
        if not await self._change(state):
            return 500, {"error": f"cannot {state}"}
        return 202, None
